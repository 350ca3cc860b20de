"""The loss of a step's batches and its gradient, piece by piece on several threads.

How a batch is cut into pieces depends on the batch and the size of the model, never on the threads, and the pieces'
gradients are added in a fixed order, so any number of threads gives the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from minilora.autograd.engine import gradients
from minilora.backend import Array
from minilora.nn import Linear, Llama, Module
from minilora.nn.module import drawing_from
from minilora.threads import Threads
from minilora.training.optimizer import Optimizer

Batch: TypeAlias = tuple[Array, Array]
"""Inputs and targets, each (batch, context)."""


PIECE = 1024
"""Target tokens per piece: enough for products at full speed, few enough for the arrays to stay in the cache."""

FEW = 4
"""Pieces of a smaller batch, if they are large enough: one per core of a laptop."""

LEAST, LARGE, WORK = 384, 128, 1.15e9
"""The fewest tokens of such a piece: 384 in a small model, where smaller pieces are mostly overhead; in a larger model
enough for 1.15e9 multiplications, but at least 128, because each piece reads all weights."""

MOST = 8
"""The most pieces of a batch, and so the most threads that it keeps busy: each piece has a full set of gradients."""


def smallest_piece(model: Module) -> int:
    """The fewest tokens of a piece when a small batch is cut, from the multiplications per token in `model`."""
    linears = [module for _, module in model.named_modules() if isinstance(module, Linear)]
    products = sum(linear.in_features * linear.out_features for linear in linears)
    return max(LARGE, min(LEAST, int(WORK // max(1, products))))


def cut(batch: int, context: int, least: int = LEAST) -> list[slice]:
    """Cut `batch` windows of `context` tokens into pieces: the rows of each. `least` comes from `smallest_piece`."""
    tokens = batch * context
    pieces = min(batch, MOST, max(tokens // PIECE, min(FEW, tokens // least), 1))
    ends = [batch * (i + 1) // pieces for i in range(pieces)]
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def add_gradients(
    model: Llama,
    optimizer: Optimizer,
    batches: Sequence[Batch],
    threads: Threads,
    seed: Sequence[int] = (0,),
    least: int = LEAST,
) -> float:
    """Add the gradient of the mean loss over `batches` to the optimizer's gradient; return the loss, in nats.

    The loss of a batch is a mean over its windows, so it is the sum of its pieces' losses, each times the piece's
    share of the windows; and gradients add up as losses do. (A custom `loss` must be such a mean too.) A model in
    training draws each piece's dropout from a generator seeded with `seed` and the piece's number, so it does not
    depend on which thread runs first. A GPU gets each batch in one piece.
    """
    pieces = [(ids[rows], targets[rows]) for ids, targets in batches for rows in _rows(model, ids, least)]
    windows = sum(len(ids) for ids, _ in pieces)

    def work_out(number: int) -> tuple[float, list[Array]]:
        ids, targets = pieces[number]
        share = len(ids) / windows
        with drawing_from(np.random.default_rng([*seed, number])):
            loss = model.loss(ids, targets)
        return share * loss.item(), gradients(loss, optimizer.parameters, np.asarray(share), release=True)

    total = 0.0
    for loss, found in threads.map(work_out, range(len(pieces))):
        total += loss
        optimizer.add(found)
        del found  # so that it can be freed while the next is waited for
    return total


def _rows(model: Llama, ids: Array, least: int) -> list[slice]:
    return [slice(None)] if model.device == "cuda" else cut(len(ids), ids.shape[1], least)
