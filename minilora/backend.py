"""Array libraries: NumPy on the CPU, CuPy on an NVIDIA GPU.

The ops call NumPy functions, which dispatch to the library that owns their arguments. Only code that creates an array
from scratch, or copies an array between host and GPU, has to choose a library. It does so with the functions of this
module. Copies between devices are always explicit. The last function, `keep_freed_memory`, makes the C library keep the
memory of large freed arrays.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np

DEVICES = "cpu", "cuda"

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
"""A NumPy or CuPy array."""


class DeviceError(ValueError):
    """Raised for an unknown or unavailable device. The message states what is missing and what to do."""


def array_module(array: Any) -> ModuleType:
    """Return the module that `array` belongs to: `numpy`, or `cupy` for an array on a GPU."""
    cupy = sys.modules.get("cupy")
    return cupy if cupy is not None and isinstance(array, cupy.ndarray) else np


def device_of(array: Any) -> str:
    """Return the name of the device that holds `array`: "cpu", or "cuda" for a GPU."""
    return "cpu" if array_module(array) is np else "cuda"


def device_module(device: str) -> ModuleType:
    """Return the module for arrays on `device`: `numpy` for "cpu", `cupy` for "cuda".

    Raises DeviceError if the name is unknown, or if CuPy or a GPU is missing.
    """
    if device == "cpu":
        return np
    if device != "cuda":
        raise DeviceError(f"expected `device` to be {' or '.join(map(repr, DEVICES))}, got {device!r}")
    try:
        import cupy
    except ModuleNotFoundError:
        raise DeviceError(
            "device 'cuda' requires CuPy, which is not installed; run pip install \"cupy-cuda12x[ctk]\", or use 'cpu'"
        ) from None
    except ImportError:  # CuPy's own message is a page long
        raise DeviceError(
            "device 'cuda' requires CuPy, which is installed but fails to import; `python -c \"import cupy\"` shows why"
        ) from None
    try:
        problem = "" if cupy.cuda.runtime.getDeviceCount() else "it reports 0 devices"
    except RuntimeError as error:  # no driver, an outdated driver, or no GPU
        problem = str(error)
    if problem:
        raise DeviceError(f"device 'cuda' requires an NVIDIA GPU, but CuPy finds none ({problem}); use 'cpu'")
    return cupy


def to_device(array: Any, device: str) -> Any:
    """Return `array` on the named device, copied only if it is on a different device. Raises DeviceError."""
    xp = device_module(device)
    return to_host(array) if xp is np else xp.asarray(array)


def to_host(array: Any) -> Any:
    """Return `array` as a NumPy array: a copy if it is on a GPU, otherwise the array itself."""
    xp = array_module(array)
    return array if xp is np else xp.asnumpy(array)


def like(array: Any, other: Any) -> Any:
    """Return `array` on the device of `other`, copied only if it is on a different device."""
    xp = array_module(other)
    return to_host(array) if xp is np else xp.asarray(array)


def copy_into(target: Any, array: Any) -> None:
    """Overwrite the values of `target` with `array`, which may be on a different device."""
    target[...] = like(array, target)


@functools.cache
def keep_freed_memory() -> bool:
    """Make the C library keep large freed blocks for reuse instead of returning them to the operating system.

    Training steps free and allocate the same large arrays again and again. Blocks that were returned to the system
    must be mapped and zeroed again each time, which can cost as much as the arithmetic. All threads are limited to
    one malloc arena, because the small per-thread arenas would return their blocks anyway. Works on Linux with
    glibc and does nothing elsewhere. Returns whether the settings took effect.
    """
    if not sys.platform.startswith("linux"):
        return False
    M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX, one_gib = -1, -3, -8, 1 << 30  # malloc.h
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # a different C library, such as musl
        return False
    wishes = [(M_TRIM_THRESHOLD, one_gib), (M_MMAP_THRESHOLD, one_gib), (M_ARENA_MAX, 1)]
    return all([mallopt(*wish) for wish in wishes])
