"""Keeps the C library's allocator from deciding a benchmark.

glibc gives large blocks back to the system and takes them again, a page fault for every 4 KiB, or keeps them, depending
on what the process did before. The same forward of SD v1.5 at 8x8 latents took 0.37 s or 0.86 s for that reason alone.
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # malloc.h
_NEVER = 2**31 - 1


def keep_memory() -> bool:
    """Lets this process keep all memory that it once had; whether the C library could be told so."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS, Windows, musl
        return False
    return bool(mallopt(_TRIM_THRESHOLD, _NEVER) and mallopt(_MMAP_MAX, 0))
