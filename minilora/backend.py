"""Which library holds the numbers: NumPy, or CuPy on a GPU. No other file asks.

The operations are written with NumPy's functions, which hand over to whichever library owns the array they are
given. Only making an array out of nothing needs to know, and asks here.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from types import ModuleType
from typing import Any

import numpy as np


def array_module(array: Any) -> ModuleType:
    """The module that `array` belongs to: `numpy`, or `cupy` for an array on a GPU."""
    cupy = sys.modules.get("cupy")
    return cupy if cupy is not None and isinstance(array, cupy.ndarray) else np


@functools.cache
def keep_freed_memory() -> bool:
    """Ask the C library to keep large freed blocks for the next step, instead of returning them to the system.

    A training step frees and takes the same large arrays again and again; returned blocks must be mapped and
    zeroed anew each time, which can cost as much as the arithmetic. Threads take from one store: in stores of their
    own, which are small, the library would return blocks all the same. Works on Linux with glibc; does nothing
    elsewhere. Says whether it took effect.
    """
    if not sys.platform.startswith("linux"):
        return False
    trim_threshold, mmap_threshold, stores, one_gib = -1, -3, -8, 1 << 30
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library, such as musl
        return False
    return all([mallopt(mmap_threshold, one_gib), mallopt(trim_threshold, one_gib), mallopt(stores, 1)])
