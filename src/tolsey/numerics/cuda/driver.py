"""One NVIDIA GPU through its driver, libcuda: memory, cubins, launches. No CUDA toolkit and no torch.

Works in the device's primary context and its default stream, as PyTorch does, so that addresses of its tensors are
good here and work queued there and here stays in order.

Next in the flow: nothing; this is the machine.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, Final, NoReturn

from tolsey.errors import ConfigError, LocalViolation
from tolsey.numerics.cuda import compile

_MULTIPROCESSORS, _MAJOR, _MINOR = 16, 75, 76
"""CUdevice_attribute."""

STREAM: Final = None
"""The default stream of the primary context."""

LIBCUDA: Final = "libcuda.so.1"
"""It comes with the driver, on every machine with a GPU."""
ALIGNMENT: Final = 256
SCRATCH_BYTES: Final = 1 << 24
"""The first block of scratch memory; a call that needs more gets a block of its own size."""


class Gpu:
    """A device of this machine, for the thread that opens it: a context is current in a thread, not in a process.

    Raises:
        ConfigError: there is no driver, or no such device.
    """

    threads_a_block: int = 256
    memory: str = "cuda"

    def __init__(self, ordinal: int = 0) -> None:
        try:
            self._cuda = ctypes.CDLL(LIBCUDA)
        except OSError as error:
            raise ConfigError(
                f"this machine has no NVIDIA driver ({LIBCUDA})", fix="start with --device cpu"
            ) from error
        self._do("cuInit", 0)
        count = ctypes.c_int()
        self._do("cuDeviceGetCount", ctypes.byref(count))
        if ordinal >= count.value:
            raise ConfigError(f"this machine has {count.value} GPUs, and number {ordinal} is wanted")
        device, self._context = ctypes.c_int(), ctypes.c_void_p()
        self._do("cuDeviceGet", ctypes.byref(device), ordinal)
        self._do("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device)
        self._do("cuCtxSetCurrent", self._context)

        def attribute(number: int) -> int:
            value = ctypes.c_int()
            self._do("cuDeviceGetAttribute", ctypes.byref(value), number, device)
            return value.value

        self.multiprocessors = attribute(_MULTIPROCESSORS)
        self.capability = 10 * attribute(_MAJOR) + attribute(_MINOR)
        self._start = self._cuda.cuLaunchKernel
        self._units = {kernel: unit for unit, kernels in compile.UNITS.items() for kernel in kernels}
        self._modules: dict[str, ctypes.c_void_p] = {}
        self._kernels: dict[str, ctypes.c_void_p] = {}
        self._blocks: list[tuple[int, int]] = []  # address and size of scratch memory
        self._used = 0  # of the last block

    def __repr__(self) -> str:
        return f"Gpu(capability={self.capability}, multiprocessors={self.multiprocessors})"

    def launch(self, kernel: str, grid: Sequence[int], block: Sequence[int], *arguments: Any) -> None:
        """Queues a kernel.

        Args:
            arguments: ctypes values of exactly the kernel's parameter types.

        Raises:
            ConfigError: it must be compiled first, and cannot be.
        """
        addresses = (ctypes.c_void_p * len(arguments))(*map(ctypes.addressof, arguments))
        self.launch_prepared(kernel, grid, block, addresses)

    def launch_prepared(
        self, kernel: str, grid: Sequence[int], block: Sequence[int], addresses: ctypes.Array[ctypes.c_void_p]
    ) -> None:
        """The same, given where the arguments lie; they are read before this returns."""
        function = self._kernels.get(kernel) or self._load(kernel)
        answer = self._start(function, *grid, *block, 0, STREAM, addresses, None)
        if answer:
            self._raise("cuLaunchKernel", answer)

    def _load(self, kernel: str) -> ctypes.c_void_p:
        unit = self._units[kernel]
        if unit not in self._modules:
            module = ctypes.c_void_p()
            self._do("cuModuleLoadData", ctypes.byref(module), compile.cubin(unit, self.capability))
            self._modules[unit] = module
        found = self._kernels[kernel] = ctypes.c_void_p()
        self._do("cuModuleGetFunction", ctypes.byref(found), self._modules[unit], kernel.encode())
        return found

    def room(self, size_bytes: int) -> int:
        size_bytes = -(-max(size_bytes, 1) // ALIGNMENT) * ALIGNMENT
        if not self._blocks or self._used + size_bytes > self._blocks[-1][1]:
            size = max(size_bytes, SCRATCH_BYTES)
            address = ctypes.c_uint64()
            self._do("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
            self._blocks.append((address.value, size))
            self._used = 0
        address_of = self._blocks[-1][0] + self._used
        self._used += size_bytes
        return address_of

    def call_ends(self) -> None:
        """Keeps one block for all that the ended call needed; freeing waits for what is queued."""
        self._used = 0
        if len(self._blocks) > 1:
            for address, _ in self._blocks:
                self._do("cuMemFree_v2", ctypes.c_uint64(address))
            total = sum(size for _, size in self._blocks)
            self._blocks = []
            self.room(total)
            self._used = 0

    def zero(self, address: int, size_bytes: int) -> None:
        if size_bytes:
            self._do("cuMemsetD8_v2", ctypes.c_uint64(address), ctypes.c_ubyte(0), ctypes.c_size_t(size_bytes))

    def fill(self, address: int, number: int, count: int) -> None:
        if count:
            word = ctypes.c_uint(number & 0xFFFFFFFF)
            self._do("cuMemsetD32_v2", ctypes.c_uint64(address), word, ctypes.c_size_t(count))

    def copy(self, to: int, source: int, size_bytes: int) -> None:
        if size_bytes:
            addresses = ctypes.c_uint64(to), ctypes.c_uint64(source)
            self._do("cuMemcpyDtoD_v2", *addresses, ctypes.c_size_t(size_bytes))

    def read(self, address: int, size_bytes: int) -> bytes:
        room = ctypes.create_string_buffer(size_bytes)
        self.download(address, ctypes.addressof(room), size_bytes)
        return room.raw

    def upload(self, start: int, size_bytes: int) -> int:
        there = self.room(size_bytes)
        if size_bytes:
            addresses = ctypes.c_uint64(there), ctypes.c_void_p(start)
            self._do("cuMemcpyHtoD_v2", *addresses, ctypes.c_size_t(size_bytes))
        return there

    def download(self, address: int, to: int, size_bytes: int) -> None:
        if size_bytes:
            addresses = ctypes.c_void_p(to), ctypes.c_uint64(address)
            self._do("cuMemcpyDtoH_v2", *addresses, ctypes.c_size_t(size_bytes))

    def synchronise(self) -> None:
        """Waits for all that is queued."""
        self._do("cuCtxSynchronize")

    def _do(self, function: str, *arguments: Any) -> None:
        """Calls the driver, and raises what it answers."""
        answer = getattr(self._cuda, function)(*arguments)
        if answer:
            self._raise(function, answer)

    def _raise(self, function: str, answer: int) -> NoReturn:
        """
        Raises:
            MemoryError: the device has no memory left.
            LocalViolation: whatever else it answers; a kernel that wrote where it must not is heard of here, late.
        """
        name = ctypes.c_char_p()
        self._cuda.cuGetErrorName(answer, ctypes.byref(name))
        said = (name.value or b"unknown").decode()
        if said == "CUDA_ERROR_OUT_OF_MEMORY":
            raise MemoryError(f"{function}: the GPU has no memory left")
        if said == "CUDA_ERROR_NO_DEVICE":
            raise ConfigError("this machine has no NVIDIA GPU", fix="start with --device cpu")
        raise LocalViolation(f"{function} answered {said}")
