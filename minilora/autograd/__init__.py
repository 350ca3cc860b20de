"""Reverse-mode automatic differentiation from scratch.

Reading order: `tensor.py` (tensors), `operation.py` (how ops record the graph), `engine.py` (the backward pass), `ops/`
(the operations and their derivatives), `gradcheck.py` (numerical checks of the derivatives).
"""

from minilora.autograd import ops
from minilora.autograd.engine import gradients
from minilora.autograd.gradcheck import gradcheck
from minilora.autograd.operation import op
from minilora.autograd.tensor import OPS, Tensor, no_grad, stop_gradient

__all__ = ["OPS", "Tensor", "gradcheck", "gradients", "no_grad", "op", "ops", "stop_gradient"]
