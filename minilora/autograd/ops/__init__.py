"""The ops: all differentiable operations of minilora, each defined together with its derivative.

Reading order: arithmetic, reduction, shape, linear, low_rank, fused, attention.
"""

from minilora.autograd.ops.arithmetic import (
    add,
    div,
    exp,
    log,
    mul,
    neg,
    power,
    relu,
    sigmoid,
    silu,
    sqrt,
    sub,
    tanh,
    where,
)
from minilora.autograd.ops.attention import causal_attention
from minilora.autograd.ops.fused import cross_entropy, dropout, rms_norm, rotary, silu_gate, softmax
from minilora.autograd.ops.linear import embedding, linear, matmul
from minilora.autograd.ops.low_rank import lora_linear
from minilora.autograd.ops.reduction import max, mean, sum
from minilora.autograd.ops.shape import concatenate, index, reshape, transpose

__all__ = [
    "add",
    "causal_attention",
    "concatenate",
    "cross_entropy",
    "div",
    "dropout",
    "embedding",
    "exp",
    "index",
    "linear",
    "log",
    "lora_linear",
    "matmul",
    "max",
    "mean",
    "mul",
    "neg",
    "power",
    "relu",
    "reshape",
    "rms_norm",
    "rotary",
    "sigmoid",
    "silu",
    "silu_gate",
    "softmax",
    "sqrt",
    "sub",
    "sum",
    "tanh",
    "transpose",
    "where",
]
