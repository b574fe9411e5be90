"""What the C library does with the memory of a tensor that is gone."""

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
NEVER = 2**31 - 1  # bytes


def keep_freed_memory() -> None:
    """Keep large freed blocks for the next tensor, for a process that goes through batch after batch on a CPU.

    glibc gives blocks above 32 MiB back to the system at once, and every page of the next one is then mapped and
    cleared anew: half the time of an EfficientNet's pass over a batch of 32. Kept, they cost nothing but that the
    process stays as large as it once was. Elsewhere than under glibc it does nothing.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, NEVER)
        libc.mallopt(M_TRIM_THRESHOLD, NEVER)
