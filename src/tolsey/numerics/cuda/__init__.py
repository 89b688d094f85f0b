"""Exact numerics on NVIDIA GPUs: the kernels of the exact profiles in CUDA, the same bits as the CPU's.

    *.cu, *.h     the kernels; what depends on single places is compiled from ../native as it stands
    compile.py    NVRTC: cubins for each compute capability, kept in the user's cache; what they cost in registers
    launches.py   how each kernel of the C interface is launched
    library.py    the same calls as ../library.py, on a device
    driver.py     a device: libcuda

docs/numerics/gpu.md says what has been seen and what has not.
"""
