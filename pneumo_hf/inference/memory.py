"""What the C library does with the memory of a tensor that is gone."""

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
LARGEST, NEVER = 2**31 - 1, -1  # bytes


def keep_freed_memory() -> bool:
    """Keep large freed blocks for the next tensor, for a process that goes through batch after batch on a CPU.

    glibc gives blocks above 32 MiB back to the system at once, and every page of the next one is then mapped and
    cleared anew: half the time of an EfficientNet's pass over a batch of 32. Kept, they cost memory: the process stays
    as large as it once was, which is up to twice what it had in use, for the gaps between the blocks.

    Returns:
        Whether it could: older glibc (2.33, say) will not, and no other C library can. Then nothing changes.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    # One without the other would be worse than neither: any of them ends the threshold's own growth from 128 KiB on.
    return bool(libc.mallopt(M_MMAP_THRESHOLD, LARGEST) and libc.mallopt(M_TRIM_THRESHOLD, NEVER))
