"""Tensor: an array that records how it was computed. Read this file first, then `engine.py`.

An *op* is a function on arrays that returns its output and, for each input, a *rule* that maps the gradient with
respect to the output to the gradient with respect to that input (a vector-Jacobian product). The decorator `op`
(`operation.py`) lets such a function accept Tensors: it calls the function on their arrays and records the inputs in a
`Node` (`engine.py`) of the output. These nodes form the graph. A *vertex* of the graph is a node or a leaf tensor,
where gradients accumulate.

An input that needs no gradient has no edge in the graph, so its rule is never called. This is why LoRA never computes
the gradient of a frozen weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

from minilora.autograd import engine
from minilora.autograd.engine import JointRule, Node, Vertex
from minilora.autograd.values import as_array, as_operand
from minilora.backend import Array

OPS: dict[str, Callable[..., Tensor]] = {}
"""All ops by name. The tests iterate over this dict, so an op without a test fails the test suite."""

_recording: ContextVar[bool] = ContextVar("recording", default=True)
_holding: ContextVar[Callable[[Any], Any] | None] = ContextVar("holding", default=None)


class Tensor:
    """An array with a gradient.

    Parameters
    ----------
    data : array, number or nested list
        Arrays keep their dtype; numbers and lists are converted to float32, the dtype used in training.
    requires_grad : bool
        Whether to compute gradients with respect to this tensor.

    Attributes
    ----------
    data : the array; the rules use it, so do not modify it in place between an op and `backward`
    grad : the gradient array accumulated by `backward`, or None
    node : the record of the op that computed this tensor; None for a leaf or if nothing was recorded
    """

    __slots__ = ("__weakref__", "_requires_grad", "data", "grad", "node")
    birth = 0  # a leaf is older than every node
    __array_ufunc__ = None  # array + tensor calls Tensor.__radd__

    def __init__(self, data: Any, requires_grad: bool = False) -> None:
        if isinstance(data, Tensor):
            raise TypeError("expected an array, got a Tensor; use the Tensor itself, or pass its .data")
        self.data: Array = as_array(data)
        if requires_grad and self.data.dtype.kind == "c":
            raise TypeError("only floating-point tensors can require gradients, got complex numbers")
        self.requires_grad = requires_grad
        self.grad: Array | None = None
        self.node: Node | None = None

    @property
    def requires_grad(self) -> bool:
        return self._requires_grad

    @requires_grad.setter
    def requires_grad(self, wanted: bool) -> None:
        if wanted and self.data.dtype.kind not in "fc":  # complex values serve the laws' complex steps
            raise TypeError(f"only floating-point tensors can require gradients, got dtype {self.data.dtype}")
        self._requires_grad = wanted

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.data.dtype

    @property
    def ndim(self) -> int:
        return self.data.ndim

    @property
    def size(self) -> int:
        return self.data.size

    @property
    def vertex(self) -> Vertex:
        """The vertex of this tensor in the graph, where its gradients accumulate: its node, or the leaf itself."""
        return self.node or self

    @property
    def edges(self) -> tuple[tuple[int, Vertex], ...]:
        """The inputs that need gradients, see `Node`; empty for a leaf."""
        return self.node.edges if self.node else ()

    @property
    def rules(self) -> tuple[Any, ...] | JointRule:
        """The rules that pull gradients back to the inputs, see `Node`; empty for a leaf."""
        return self.node.rules if self.node else ()

    @property
    def released(self) -> bool:
        """Whether a backward pass has freed the graph of this tensor."""
        return self.node is not None and self.node.released

    def item(self) -> float:
        """Return the value of a one-element tensor as a Python number."""
        return self.data.item()

    def detach(self) -> Tensor:
        """Return a tensor that shares the array but is not connected to the graph."""
        return Tensor(self.data)

    def backward(self, cotangent: Array | None = None) -> None:
        """Add d(self)/d(leaf) to the `.grad` of every leaf, and free the graph. See `engine.backward`."""
        engine.backward(self, cotangent)

    def __repr__(self) -> str:
        grad = ", requires_grad=True" if self.requires_grad else ""
        return f"Tensor({np.array2string(self.data, separator=', ', prefix='Tensor(')}{grad})"

    def __float__(self) -> float:
        return float(self.item())

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else repr(self)

    def __bool__(self) -> bool:
        return bool(self.item())

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        raise TypeError("converting a Tensor to a NumPy array would lose its gradient; use a minilora op, or .data")

    # Comparisons are elementwise and return boolean arrays, for `where` and for indexing; they have no gradient.
    def __eq__(self, other: Any) -> Any:
        return self.data == operand(other, self)

    def __ne__(self, other: Any) -> Any:
        return self.data != operand(other, self)

    def __lt__(self, other: Any) -> Any:
        return self.data < operand(other, self)

    def __le__(self, other: Any) -> Any:
        return self.data <= operand(other, self)

    def __gt__(self, other: Any) -> Any:
        return self.data > operand(other, self)

    def __ge__(self, other: Any) -> Any:
        return self.data >= operand(other, self)

    __hash__ = object.__hash__

    # As in PyTorch, `w -= lr * w.grad` changes a leaf in place inside `no_grad`. Outside, this is an error if the leaf
    # requires a gradient; for other tensors, `total += loss` creates a new one.
    def __iadd__(self, other: Any) -> Tensor:
        return self._in_place("add", np.add, other)

    def __isub__(self, other: Any) -> Tensor:
        return self._in_place("sub", np.subtract, other)

    def __imul__(self, other: Any) -> Tensor:
        return self._in_place("mul", np.multiply, other)

    def __itruediv__(self, other: Any) -> Tensor:
        return self._in_place("div", np.divide, other)

    def _in_place(self, name: str, function: Callable[..., Any], other: Any) -> Tensor:
        if self.node is not None or (recording() and not self.requires_grad):
            return OPS[name](self, other)
        if recording():
            raise RuntimeError(
                "a leaf tensor that requires a gradient cannot be changed in place; do it inside `with no_grad():`"
            )
        function(self.data, operand(other, self), out=self.data, casting="same_kind")
        return self

    # Each operator and method below calls an op of `ops/`, looked up by name.
    def __add__(self, other: Any) -> Tensor:
        return OPS["add"](self, other)

    def __radd__(self, other: Any) -> Tensor:
        return OPS["add"](other, self)

    def __sub__(self, other: Any) -> Tensor:
        return OPS["sub"](self, other)

    def __rsub__(self, other: Any) -> Tensor:
        return OPS["sub"](other, self)

    def __mul__(self, other: Any) -> Tensor:
        return OPS["mul"](self, other)

    def __rmul__(self, other: Any) -> Tensor:
        return OPS["mul"](other, self)

    def __truediv__(self, other: Any) -> Tensor:
        return OPS["div"](self, other)

    def __rtruediv__(self, other: Any) -> Tensor:
        return OPS["div"](other, self)

    def __matmul__(self, other: Any) -> Tensor:
        return OPS["matmul"](self, other)

    def __rmatmul__(self, other: Any) -> Tensor:
        return OPS["matmul"](other, self)

    def __neg__(self) -> Tensor:
        return OPS["neg"](self)

    def __pow__(self, exponent: float) -> Tensor:
        return OPS["power"](self, exponent)

    def __getitem__(self, key: Any) -> Tensor:
        return OPS["index"](self, key)

    @property
    def T(self) -> Tensor:
        return OPS["transpose"](self)

    def sum(self, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Tensor:
        return OPS["sum"](self, axis=axis, keepdims=keepdims)

    def mean(self, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Tensor:
        return OPS["mean"](self, axis=axis, keepdims=keepdims)

    def max(self, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Tensor:
        return OPS["max"](self, axis=axis, keepdims=keepdims)

    def reshape(self, *shape: int | tuple[int, ...]) -> Tensor:
        return OPS["reshape"](self, shape[0] if isinstance(shape[0], tuple) else shape)

    def transpose(self, *axes: int | tuple[int, ...]) -> Tensor:
        return OPS["transpose"](self, axes[0] if axes and isinstance(axes[0], tuple) else axes or None)


@contextmanager
def no_grad() -> Iterator[None]:
    """Disable recording of the graph: `with no_grad(): ...`, or `@no_grad()` on a function.

    Applies only to the thread that enters the block. Other threads keep recording, except those of `threads.py`, which
    run in a copy of the caller's context.
    """
    token = _recording.set(False)
    try:
        yield
    finally:
        _recording.reset(token)


def recording() -> bool:
    """Return whether ops record the graph, which they do outside `no_grad`."""
    return _recording.get()


def stop_gradient(value: Any) -> Any:
    """Return `value`, a Tensor or an array such as selected indices, as a constant: no gradient flows through it.

    A derivative that treats part of a function as constant differs from the slope of the function. `gradcheck`
    therefore holds these values fixed while it perturbs the inputs.
    """
    constant = value.detach() if isinstance(value, Tensor) else value
    hold = _holding.get()
    return constant if hold is None else hold(constant)


@contextmanager
def holding(hold: Callable[[Any], Any]) -> Iterator[None]:
    """Context manager in which `stop_gradient` passes its constants through `hold`."""
    token = _holding.set(hold)
    try:
        yield
    finally:
        _holding.reset(token)


def operand(x: Any, beside: Tensor | None) -> Any:
    """The array of a Tensor, and any other input as an array or number that does not widen the dtype of `beside`."""
    if isinstance(x, Tensor):
        return x.data
    return as_operand(x, beside.dtype if beside is not None and beside.dtype.kind == "f" else np.float32)
