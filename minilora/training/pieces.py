"""The loss of a step and its gradient, computed in pieces on several threads.

The division of a batch into pieces depends on the batch and the size of the model, not on the number of threads, and
the gradients of the pieces are added in a fixed order. The result is bit-for-bit identical for any number of threads.
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
"""Target number of tokens per piece: enough for fast matrix products, few enough for the arrays to fit in cache."""

FEW_PIECES = 4
"""Number of pieces in a smaller batch, if they are large enough: one per core of a typical laptop."""

MIN_TOKENS, MIN_TOKENS_LARGE, MIN_WORK = 384, 128, 1.15e9
"""Minimum number of tokens of such a piece: 384 in a small model, where smaller pieces are mostly overhead. In a larger
model, enough for 1.15e9 multiplications, but at least 128, because each piece reads all weights."""

MAX_PIECES = 8
"""Maximum number of pieces per batch, and therefore of busy threads; each piece needs a full set of gradients."""


def smallest_piece(model: Module) -> int:
    """The minimum number of tokens per piece of a small batch, from the multiplications per token in `model`."""
    linears = [module for _, module in model.named_modules() if isinstance(module, Linear)]
    products = sum(linear.in_features * linear.out_features for linear in linears)
    return max(MIN_TOKENS_LARGE, min(MIN_TOKENS, int(MIN_WORK // max(1, products))))


def cut(batch: int, context: int, least: int = MIN_TOKENS) -> list[slice]:
    """Divide `batch` windows of `context` tokens into pieces: slices of rows. `least` comes from `smallest_piece`."""
    tokens = batch * context
    pieces = min(batch, MAX_PIECES, max(tokens // PIECE, min(FEW_PIECES, tokens // least), 1))
    ends = [batch * (i + 1) // pieces for i in range(pieces)]
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def add_gradients(
    model: Llama,
    optimizer: Optimizer,
    batches: Sequence[Batch],
    threads: Threads,
    seed: Sequence[int] = (0,),
    least: int = MIN_TOKENS,
) -> float:
    """Add the gradient of the mean loss over `batches` to the optimizer's gradient and return the loss, in nats.

    The loss is a mean over windows, so it is the sum of the losses of the pieces, each weighted by the piece's share
    of the windows. The same holds for the gradients. (A custom `loss` must be such a mean too.) In training mode, the
    dropout of each piece is drawn from a generator seeded with `seed` and the index of the piece, so it does not depend
    on the order of the threads. On a GPU, each batch is one piece.
    """
    pieces = [(ids[rows], targets[rows]) for ids, targets in batches for rows in _rows(model, ids, least)]
    windows = sum(len(ids) for ids, _ in pieces)

    def compute(number: int) -> tuple[float, list[Array]]:
        ids, targets = pieces[number]
        share = len(ids) / windows
        with drawing_from(np.random.default_rng([*seed, number])):
            loss = model.loss(ids, targets)
        return share * loss.item(), gradients(loss, optimizer.parameters, np.asarray(share), release=True)

    total = 0.0
    for loss, found in threads.map(compute, range(len(pieces))):
        total += loss
        optimizer.add(found)
        del found  # freed while waiting for the next piece
    return total


def _rows(model: Llama, ids: Array, least: int) -> list[slice]:
    return [slice(None)] if model.device == "cuda" else cut(len(ids), ids.shape[1], least)
