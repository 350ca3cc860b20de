"""Automatic differentiation from scratch: Tensor, the ops, the engine, and a checker.

Reading order: `tensor.py` (a value that remembers), `engine.py` (the one loop), `ops/` (the derivatives),
`gradcheck.py` (how we know that they are right).
"""

from minilora.autograd import ops
from minilora.autograd.engine import gradients
from minilora.autograd.gradcheck import gradcheck
from minilora.autograd.tensor import OPS, Tensor, no_grad, op, stop_gradient

__all__ = ["OPS", "Tensor", "gradcheck", "gradients", "no_grad", "op", "ops", "stop_gradient"]
