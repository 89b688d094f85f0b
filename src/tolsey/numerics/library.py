"""The kernels as Python calls them: choose a build, load it, check what goes in.

Every kernel is a C function that returns 0 or an error code. Its signature is declared once, beside the code that calls
it, in words:

    library.declare("tolsey_gemm", "i64 i64 i64 f32* i64 i64 f32* i64 i64 f32* i64 i64 f32*")

`f32*` is an address of binary32 numbers (const or not), `i64` a number by value. Two ways to call:

    lib = library.current()
    lib.call("tolsey_exp", x, y, x.size)             # NumPy arrays: type and alignment are checked
    lib.function("tolsey_exp")(x_at, y_at, size)     # addresses as integers: for tensors of another library, quick

Both raise MemoryError, ValueError and IndexError for a kernel's error codes, and release the interpreter lock while it
runs. Kernels set the floating-point control register to the law's at entry and give it back (native/control.c); loading
checks, by computing, that they do.

Which build is loaded: the fastest that the CPU can run, or the one that `TOLSEY_ISA` names. All give the same bits.
"""

from __future__ import annotations

import copy
import ctypes
import os
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy

from tolsey.errors import ConfigError, LocalViolation
from tolsey.numerics import build

ISA_VARIABLE: Final = "TOLSEY_ISA"
THREADS_VARIABLE: Final = "TOLSEY_THREADS"
MAX_THREADS: Final = 256

_BY_VALUE: Final[dict[str, Any]] = {
    "f32": ctypes.c_float,
    "f64": ctypes.c_double,
    "i32": ctypes.c_int32,
    "i64": ctypes.c_int64,
    "u32": ctypes.c_uint32,
    "u64": ctypes.c_uint64,
}
_POINTED_AT: Final = {
    "f32*": numpy.dtype("float32"),
    "f64*": numpy.dtype("float64"),
    "i8*": numpy.dtype("int8"),
    "i16*": numpy.dtype("int16"),
    "i32*": numpy.dtype("int32"),
    "i64*": numpy.dtype("int64"),
    "u32*": numpy.dtype("uint32"),
    "u64*": numpy.dtype("uint64"),
    "u8*": numpy.dtype("uint8"),
}

_signatures: dict[str, tuple[str, ...]] = {}


def declare(name: str, signature: str) -> None:
    """Makes a kernel known: its C name, and its arguments as words. Twice the same is fine.

    Raises:
        LocalViolation: an unknown word, or another signature for a known name.
    """
    words = tuple(signature.split())
    unknown = [word for word in words if word not in _BY_VALUE and word not in _POINTED_AT]
    if unknown:
        raise LocalViolation(f"{name}: {unknown[0]!r} is none of {' '.join((*_BY_VALUE, *_POINTED_AT))}")
    if _signatures.setdefault(name, words) != words:
        raise LocalViolation(f"{name} is declared with {' '.join(_signatures[name])} and with {signature}")


def declared() -> Mapping[str, tuple[str, ...]]:
    """The words of each kernel's signature, for all that are known by now: a view, which is asked for each call."""
    return MappingProxyType(_signatures)


class Library:
    """One loaded build. Any number may be loaded at once; each has threads of its own.

    Args:
        isa: the name of the build.
        path: its shared object.

    Raises:
        ConfigError: it cannot be loaded.
        LocalViolation: it is not what its name says, or does not compute by the law.
    """

    memory: str = "cpu"
    """Where the addresses that a kernel takes lie, as PyTorch names it."""
    is_queued: Final = False
    """Whether a call may return before its results are there."""

    def __init__(self, isa: str, path: Path) -> None:
        self.isa = isa
        self.path = path
        try:
            self._handle = ctypes.CDLL(str(path))
        except OSError as error:
            raise ConfigError(
                f"the {isa} kernels cannot be loaded: {error}", fix=f"delete {path} to have it compiled anew"
            ) from error
        self._functions: dict[str, Callable[..., int]] = {}
        self._handle.tolsey_isa.restype = ctypes.c_char_p
        self._handle.tolsey_control_get.restype = ctypes.c_uint64
        self._handle.tolsey_control_set.argtypes = (ctypes.c_uint64,)
        found = self._handle.tolsey_isa().decode()
        if found != isa:
            raise LocalViolation(f"{path} holds the {found} kernels, not {isa}")
        if not self.is_lawful(entered=True):
            raise LocalViolation(f"the {isa} kernels do not round as binary32 must: {path}")

    def __repr__(self) -> str:
        return f"Library({self.isa!r}, threads={self.threads})"

    def replacing(self, others: Mapping[str, tuple[str, int]]) -> Library:
        """This build, in which declared names lead to other kernels with a number before the same arguments."""
        other = copy.copy(self)
        functions = {name: partial(self.function(kernel), number) for name, (kernel, number) in others.items()}
        other._functions = {**self._functions, **functions}
        return other

    @property
    def vector_width(self) -> int:
        """Numbers handled at once."""
        return int(self._handle.tolsey_vector_width())

    @property
    def threads(self) -> int:
        """How many threads a kernel may use; 1 to 256."""
        return int(self._handle.tolsey_threads())

    @threads.setter
    def threads(self, count: int) -> None:
        if not 1 <= count <= MAX_THREADS:
            raise ConfigError(f"{count} threads: a kernel runs on 1 to {MAX_THREADS}")
        self._handle.tolsey_set_threads(count)

    @property
    def control(self) -> int:
        """The floating-point control register of the calling thread, as the CPU has it."""
        return int(self._handle.tolsey_control_get())

    @control.setter
    def control(self, word: int) -> None:
        self._handle.tolsey_control_set(word)

    def is_lawful(self, *, entered: bool = False) -> bool:
        """Whether the calling thread rounds to nearest even and keeps subnormals, tried by computing.

        Args:
            entered: as a kernel finds it after its entry; False: as the caller's own arithmetic does.
        """
        return bool(self._handle.tolsey_control_is_lawful(int(entered)))

    def function(self, name: str) -> Callable[..., int]:
        """A declared kernel that takes addresses as integers (or None) and numbers; checks no address.

        Raises:
            LocalViolation: it was not declared, or the build lacks it.
        """
        known = self._functions.get(name)
        if known is not None:
            return known
        if name not in _signatures:
            raise LocalViolation(f"kernel {name} was never declared")
        try:
            kernel = getattr(self._handle, name)
        except AttributeError:
            raise LocalViolation(f"kernel {name} is declared and not in {self.path}") from None
        kernel.argtypes = [_BY_VALUE.get(word, ctypes.c_void_p) for word in _signatures[name]]
        kernel.restype = ctypes.c_int
        kernel.errcheck = _raise_for
        self._functions[name] = kernel
        return kernel  # type: ignore[no-any-return]  # ctypes builds it from the name

    def call(self, name: str, *arguments: Any) -> None:
        """Calls a declared kernel with NumPy arrays (or None) for addresses.

        Raises:
            MemoryError, ValueError, IndexError: as the kernel answered.
            TypeError: an array of another element type, or not aligned to its elements.
        """
        kernel = self.function(name)
        words = _signatures[name]
        if len(arguments) != len(words):
            raise TypeError(f"{name} takes {len(words)} arguments, not {len(arguments)}")
        kernel(*map(checked_address, words, arguments))


def checked_address(word: str, given: Any) -> Any:
    """An array's address; a number and None as they are.

    Raises:
        TypeError: an array of another element type than the word says, or not aligned to its elements.
    """
    if word in _BY_VALUE or given is None:
        return given
    if not isinstance(given, numpy.ndarray) or given.dtype != _POINTED_AT[word] or not given.flags.aligned:
        what = f"array of {given.dtype}" if isinstance(given, numpy.ndarray) else type(given).__name__
        raise TypeError(f"a kernel wants {word}, an aligned NumPy array of {_POINTED_AT[word]}, not {what}")
    return given.ctypes.data


def _raise_for(code: int, function: Any, arguments: tuple[Any, ...]) -> int:
    if code == 0:
        return code
    if code == 1:
        raise MemoryError(f"{function.__name__}: no memory for its working space")
    if code == 3:
        raise IndexError(f"{function.__name__}: an index lies outside its table")
    raise ValueError(f"{function.__name__} refused its arguments: {arguments}")


@cache
def load(isa: str) -> Library:
    """The build of that name, loaded once, with as many threads as `TOLSEY_THREADS` or this process's CPUs.

    Raises:
        ConfigError: this CPU cannot run it, or it cannot be compiled.
    """
    can = build.runnable()
    if isa not in can:
        raise ConfigError(f"this CPU cannot run the {isa} kernels; it can run {', '.join(can) or 'none'}")
    loaded = Library(isa, build.shared_object(isa))
    asked = os.environ.get(THREADS_VARIABLE, "")
    if asked and not asked.isdecimal():
        raise ConfigError(f"{THREADS_VARIABLE}={asked}: a number of threads is wanted", fix=f"unset {THREADS_VARIABLE}")
    loaded.threads = int(asked) if asked else min(MAX_THREADS, len(os.sched_getaffinity(0)))
    return loaded


def current() -> Library:
    """The build that this process computes with: `TOLSEY_ISA`, else the fastest that the CPU can run.

    Raises:
        ConfigError: as `load`, or there is none for this kind of machine.
    """
    asked = os.environ.get(ISA_VARIABLE, "")
    if asked and asked not in build.ISAS:
        raise ConfigError(
            f"{ISA_VARIABLE}={asked} names no build; there are {', '.join(build.ISAS)}", fix=f"unset {ISA_VARIABLE}"
        )
    can = build.runnable()
    if not asked and not can:
        raise ConfigError("exact numerics runs on x86-64 and AArch64 under Linux; this machine is neither")
    return load(asked or can[0])
