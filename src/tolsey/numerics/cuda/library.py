"""The kernels on a GPU as Python calls them: the interface of ../library.py, name for name and argument for argument.

    lib = library.current()
    lib.call("tolsey_exp", x, y, x.size)             # NumPy arrays: copied to the device and back
    lib.function("tolsey_exp")(x_at, y_at, size)     # addresses on the device, as integers

So whatever calls the CPU's kernels can call these. `call` is for comparing and for small things: it moves everything
over and back. Sizes that C reads from memory (those of a reduction, a convolution's geometry) stay in this machine's
memory in both forms. What is refused, and the errors: launches.py. Next in the flow: driver.py.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final, Protocol

import numpy
from numpy.lib.array_utils import byte_bounds
from numpy.typing import NDArray

from tolsey.errors import ConfigError, LocalViolation
from tolsey.numerics import library
from tolsey.numerics.cuda import driver, launches

ISA: Final = "cuda"


class Device(launches.Device, Protocol):
    """A device that arrays can be brought to.

    Attributes:
        memory: "cuda"; "cpu" where it is emulated.
    """

    memory: str

    def upload(self, start: int, size_bytes: int) -> int:
        """The device's address of a copy of this machine's memory; it lasts as `room` does."""

    def download(self, address: int, to: int, size_bytes: int) -> None:
        """Waits for what is queued, then copies back."""

    def call_ends(self) -> None:
        """Memory of `room` and `upload` may be given away to what is queued next."""


class GpuLibrary:
    """The kernels on one device."""

    isa: Final = ISA
    threads: Final = 1
    """Of this machine's, that work on a call."""
    is_queued: Final = True
    """A call returns before its results are there; whoever reads one waits for all that was queued before."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._replaced: dict[str, launches.Launch] = {}
        self.memory = device.memory
        """Where the addresses that a kernel takes lie, as PyTorch names it."""

    def __repr__(self) -> str:
        return f"GpuLibrary({self._device!r})"

    def replacing(self, others: Mapping[str, tuple[str, int]]) -> GpuLibrary:
        """These kernels, in which declared names lead to others with a number before the same arguments."""
        other = copy.copy(self)
        other._replaced = self._replaced | {name: _behind(number, _known(it)) for name, (it, number) in others.items()}
        return other

    def function(self, name: str) -> Callable[..., None]:
        """A declared kernel that takes device addresses as integers (or None) and numbers; checks no address.

        Raises:
            ConfigError: there is no such kernel for GPUs yet.
            LocalViolation: it was not declared.
        """
        run, device = self._launch_of(name).run, self._device

        def call(*arguments: Any) -> None:
            try:
                run(device, *arguments)
            except (ValueError, IndexError) as error:
                raise _named(name, error) from error
            finally:
                device.call_ends()

        return call

    def call(self, name: str, *arguments: Any) -> None:
        """Calls a declared kernel with NumPy arrays (or None) for addresses.

        Raises:
            ValueError, IndexError: as the CPU's kernel.
            TypeError: an array of another element type, or not aligned to its elements.
            ConfigError: there is no such kernel for GPUs yet.
        """
        launch, words = self._launch_of(name), library.declared()[name]
        if len(arguments) != len(words):
            raise TypeError(f"{name} takes {len(words)} arguments, not {len(arguments)}")
        moved = _Moved(self._device)
        for place, (word, given) in enumerate(zip(words, arguments, strict=True)):
            library.checked_address(word, given)
            if not isinstance(given, numpy.ndarray):
                continue
            if place not in launch.host:
                moved.add(given)
        try:
            moved.there()
            launch.run(self._device, *(moved.address(given) for given in arguments))
            moved.back()
        except (ValueError, IndexError) as error:
            raise _named(name, error) from error
        finally:
            self._device.call_ends()

    def _launch_of(self, name: str) -> launches.Launch:
        return self._replaced[name] if name in self._replaced else _known(name)


def _named(name: str, error: ValueError | IndexError) -> ValueError | IndexError:
    """What a launch refused, as the CPU's kernel says it."""
    if isinstance(error, IndexError):
        return IndexError(f"{name}: an index lies outside its table")
    return ValueError(f"{name} refused its arguments: {error}")


class _Moved:
    """Stretches of this machine's memory that arrays cover, each brought over once, however many arrays share it."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._stretches: list[list[int]] = []  # first byte, past the last, whether written, the device's address

    def add(self, array: NDArray[Any]) -> None:
        first, past = byte_bounds(array)
        written = int(_is_writeable(array))
        for other in [one for one in self._stretches if first < one[1] and one[0] < past]:
            self._stretches.remove(other)
            first, past, written = min(first, other[0]), max(past, other[1]), written | other[2]
        self._stretches.append([first, past, written, 0])

    def there(self) -> None:
        for stretch in self._stretches:
            stretch[3] = self._device.upload(stretch[0], stretch[1] - stretch[0])

    def address(self, given: Any) -> Any:
        """An array's address on the device, or here if it was not added; whatever else as it is."""
        if not isinstance(given, numpy.ndarray):
            return given
        here = given.ctypes.data
        for first, past, _, there in self._stretches:
            if first <= here < past:
                return there + here - first
        return here

    def back(self) -> None:
        for first, past, written, there in self._stretches:
            if written:
                self._device.download(there, first, past - first)


def _is_writeable(array: NDArray[Any]) -> bool:
    """Whether the memory is: a broadcast view calls itself read-only over memory that a kernel writes to."""
    base = array.base
    return array.flags.writeable or (isinstance(base, numpy.ndarray) and _is_writeable(base))


def _behind(number: int, launch: launches.Launch) -> launches.Launch:
    """A launch with its first argument filled in."""

    def run(device: launches.Device, *arguments: Any) -> None:
        launch.run(device, number, *arguments)

    return launches.Launch(run, tuple(place - 1 for place in launch.host))


def _known(name: str) -> launches.Launch:
    if name not in library.declared():
        raise LocalViolation(f"kernel {name} was never declared")
    if name not in launches.LAUNCHES:
        raise ConfigError(f"{name} has no GPU kernel yet", fix="start with --device cpu")
    return launches.LAUNCHES[name]


@cache
def current() -> GpuLibrary:
    """The kernels on this machine's first GPU.

    Raises:
        ConfigError: there is no NVIDIA driver or GPU, or the kernels cannot be compiled for it.
    """
    return GpuLibrary(driver.Gpu())
