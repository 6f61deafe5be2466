"""How the C library keeps memory that tensors on the CPU have given back."""

import ctypes

# Of glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_NEVER = -1
_MORE_AT_A_TIME = 64 * 2**20


def keep_freed_memory() -> bool:
    """Let this process reuse the memory of freed tensors; returns whether the C library can.

    glibc gives each large block back to the system when it is freed, and the system clears every
    page of the next one: in a training step, whose activations come and go, that can take longer
    than the arithmetic between two matrix products. Kept, the memory of one step serves the next.
    Other C libraries are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    options = {_MMAP_MAX: 0, _TRIM_THRESHOLD: _NEVER, _TOP_PAD: _MORE_AT_A_TIME}
    return all([mallopt(option, value) for option, value in options.items()])
