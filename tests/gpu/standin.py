"""A stand-in for CuPy that needs no GPU: arrays that compute with NumPy and reject what CuPy rejects or lacks.

An operation that falls back to the host, mixes in a host array, or uses a function, method or option that CuPy lacks
raises TypeError, as it would on a GPU. `FUNCTIONS`, `UFUNCS` and the methods of `DeviceArray` list what CuPy has,
according to its source: cupy 14.2.0 and, for compiled code, `cupy/_core/*.pyx` at commit 6b6d956. Anything else is
rejected; check the source before adding to the lists. In one respect the stand-in is stricter than CuPy, which copies
lists and NumPy arrays to the GPU implicitly when they are used as an index.
"""

import sys
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

import minilora

ROOT = str(Path(minilora.__file__).parent)

FUNCTIONS = {  # those that `cupy.ndarray.__array_function__` finds in the module `cupy`, with their parameters
    "argsort": "a axis kind",
    "array2string": "a max_line_width precision suppress_small separator prefix",
    "array_equal": "a1 a2 equal_nan",
    "broadcast_to": "array shape",
    "concatenate": "tup axis out dtype casting",
    "copyto": "dst src casting where",
    "diff": "a n axis prepend append",
    "dot": "a b out",
    "einsum": "dtype optimize",  # its operands are positional; there is no `out`
    "empty_like": "prototype dtype order shape",
    "expand_dims": "a axis",
    "flatnonzero": "a",
    "full_like": "a fill_value dtype order shape",
    "max": "a axis out keepdims",  # no `initial`, no `where`
    "mean": "a axis dtype out keepdims",
    "norm": "x ord axis keepdims",
    "ones_like": "a dtype order shape",
    "stack": "tup axis out dtype casting",
    "sum": "a axis dtype out keepdims",
    "swapaxes": "a axis1 axis2",
    "take_along_axis": "a indices axis",
    "transpose": "a axes",
    "triu": "m k",
    "where": "condition x y",
    "zeros_like": "a dtype order shape",
}
UFUNCS = (
    "absolute add cos divide equal exp greater greater_equal isfinite less less_equal log log1p matmul maximum minimum "
    "multiply negative not_equal power reciprocal sin sqrt subtract tanh"
)

made: list[tuple[np.dtype, str]] | None = None
"""The dtype of every array created while `watching`, and the function of minilora that created it."""


@contextmanager
def watching():
    """Record the arrays that are created inside a block: `with watching() as made: ...`"""
    global made
    made = []
    try:
        yield made
    finally:
        made = None


def culprit():
    """Return the name of the innermost running function of minilora."""
    frame = sys._getframe(1)
    while frame is not None and not frame.f_code.co_filename.startswith(ROOT):
        frame = frame.f_back
    return "" if frame is None else frame.f_code.co_qualname


class DeviceArray(NDArrayOperatorsMixin):
    """Stands in for `cupy.ndarray`. The operators call `__array_ufunc__`."""

    __array_priority__ = 100

    def __init__(self, host):
        self._host = np.asarray(host)  # full reductions are 0-d arrays, as in CuPy
        if made is not None:
            made.append((self._host.dtype, culprit()))

    T = property(lambda self: DeviceArray(self._host.T))

    def __array__(self, dtype=None, copy=None):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def __array_ufunc__(self, ufunc, method, *inputs, out=(), **options):
        name = ufunc.__name__
        known = name in UFUNCS.split() if method == "__call__" else (name, method) == ("add", "at")
        if not known or options:
            raise TypeError(f"{name}.{method} with options {sorted(options)} is not in the stand-in's list for CuPy")
        if method == "at":
            if not isinstance(inputs[1], DeviceArray):
                raise TypeError("CuPy supports NumPy's `at` only with an array as index; use its own `add.at`")
            return add_at(*inputs)
        if not all(isinstance(x, DeviceArray) for x in out):
            raise TypeError("output arguments must be CuPy arrays")
        if out:
            options["out"] = tuple(x._host for x in out)
        result = ufunc(*map(unwrap, inputs), **options)
        return out[0] if out else DeviceArray(result)

    def __array_function__(self, function, types, args, kwargs):
        name = function.__name__
        if name not in FUNCTIONS:
            raise TypeError(f"{function.__module__}.{name} is not in the stand-in's list for CuPy")
        if unknown := kwargs.keys() - set(FUNCTIONS[name].split()):
            raise TypeError(f"CuPy's {name} does not accept {sorted(unknown)}")
        if kwargs.get("shape", 1) in (0, ()):
            raise TypeError(f"CuPy's {name} treats an empty shape like None")
        result = function(*map(unwrap, args), **{key: unwrap(value) for key, value in kwargs.items()})
        return result if isinstance(result, str) else DeviceArray(result)

    # Methods, with the parameters in `core.pyx` that minilora uses.
    def get(self):
        return self._host.copy()

    def astype(self, dtype, order="K", casting=None, subok=None, copy=True):
        return self if not copy and self.dtype == dtype else DeviceArray(self._host.astype(dtype))

    def copy(self, order="C"):
        return DeviceArray(self._host.copy(order))

    def __deepcopy__(self, memo):
        return self.copy()

    def fill(self, value):
        self._host.fill(unwrap(value))

    def reshape(self, *shape, order="C"):
        return DeviceArray(self._host.reshape(*shape, order=order))

    def transpose(self, *axes):
        return DeviceArray(self._host.transpose(*axes))

    def swapaxes(self, axis1, axis2):
        return DeviceArray(self._host.swapaxes(axis1, axis2))

    def dot(self, b):
        return DeviceArray(self._host.dot(unwrap(b)))

    def argmax(self, axis=None):
        return DeviceArray(self._host.argmax(axis))

    def __getitem__(self, key):
        return DeviceArray(self._host[place(key)])

    def __setitem__(self, key, value):
        self._host[place(key)] = unwrap(value)

    def __iter__(self):
        return map(DeviceArray, self._host)

    def __format__(self, spec):
        return format(self._host, spec)


for name in ("shape", "dtype", "ndim", "size", "nbytes"):
    setattr(DeviceArray, name, property(lambda self, name=name: getattr(self._host, name)))
for name in ("item", "tolist", "tobytes", "__len__", "__bool__", "__int__", "__float__", "__repr__"):
    setattr(DeviceArray, name, lambda self, name=name: getattr(self._host, name)())


def reduction(name):
    return lambda self, axis=None, keepdims=False: DeviceArray(getattr(self._host, name)(axis=axis, keepdims=keepdims))


for name in ("max", "min", "sum", "mean", "all", "any"):
    setattr(DeviceArray, name, reduction(name))


def unwrap(x):
    """Unwrap an argument of a GPU operation, which may be a device array or a scalar, but not a NumPy array."""
    if isinstance(x, DeviceArray):
        return x._host
    if isinstance(x, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    return type(x)(map(unwrap, x)) if isinstance(x, list | tuple) else x


def place(key):
    """Unwrap an index: integers, slices, None, Ellipsis and device arrays."""
    if isinstance(key, list):
        raise TypeError("CuPy would copy this index to the GPU implicitly")
    return tuple(map(place, key)) if isinstance(key, tuple) else unwrap(key)


def add_at(total, key, parts):
    """`cupy.add.at`. A GPU adds in any order; here, integer indices use the order of the embedding's NumPy rule."""
    total, key, parts = unwrap(total), place(key), unwrap(parts)
    if not (isinstance(key, np.ndarray) and key.dtype.kind == "i" and np.ndim(parts) == key.ndim + 1 and key.size):
        return np.add.at(total, key, parts)
    order = np.argsort(key.reshape(-1), kind="stable")
    starts = np.flatnonzero(np.diff(key.reshape(-1)[order], prepend=-1))
    rows = parts.reshape(-1, parts.shape[-1])[order]
    total[key.reshape(-1)[order][starts]] += np.add.reduceat(rows, starts, axis=0)


def asarray(a, dtype=None):
    """Copy an array to the GPU, unless it is already there."""
    return a if isinstance(a, DeviceArray) and dtype is None else DeviceArray(np.array(unwrap_any(a), dtype))


def asnumpy(a):
    return np.array(unwrap_any(a))


def unwrap_any(a):
    return a._host if isinstance(a, DeviceArray) else a


def module(devices=1):
    """Return a module `cupy` as on a machine with this number of GPUs."""
    cupy = ModuleType("cupy")
    cupy.ndarray, cupy.asarray, cupy.asnumpy, cupy.cos, cupy.sin = DeviceArray, asarray, asnumpy, np.cos, np.sin
    cupy.add = SimpleNamespace(at=add_at)
    cupy.arange = lambda *args: DeviceArray(np.arange(*args))
    cupy.zeros = lambda *args: DeviceArray(np.zeros(*args))
    cupy.cuda = SimpleNamespace(runtime=SimpleNamespace(getDeviceCount=lambda: devices))
    return cupy
