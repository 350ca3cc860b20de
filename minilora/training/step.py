"""The loss of a step's batches and its gradient, piece by piece on several threads.

How a batch is cut into pieces depends on the batch alone, never on the threads, and the pieces' gradients are added in
a fixed order, so any number of threads gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from minilora.autograd.engine import gradients
from minilora.backend import Array
from minilora.nn import Llama
from minilora.nn.module import drawing_from
from minilora.threads import Threads
from minilora.training.config import TrainingConfig
from minilora.training.optimizer import AdamW

Batch: TypeAlias = tuple[Array, Array]
"""Inputs and targets, each (batch, context)."""


PIECE = 1024
"""Tokens that a piece aims at: enough for products at full speed, and few enough for arrays to stay in the cache."""

LEAST, FEW = 384, 4
"""A smaller batch is still cut into up to four pieces, one for each core of a laptop, of at least 384 tokens each:
in smaller ones, much of the time is not arithmetic."""

MOST = 8
"""The most pieces of a batch, and so the most threads that it keeps busy: each piece has a full set of gradients."""


def cut(batch: int, context: int) -> list[slice]:
    """The rows of each piece of a batch of `batch` windows of `context` tokens."""
    tokens = batch * context
    pieces = min(batch, MOST, max(tokens // PIECE, min(FEW, tokens // LEAST), 1))
    ends = [batch * (i + 1) // pieces for i in range(pieces)]
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def make_optimizer(model: Llama, config: TrainingConfig) -> AdamW:
    """AdamW over what wants a gradient."""
    trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    return AdamW(trainable, config.weight_decay, (config.beta1, config.beta2))


def add_gradients(
    model: Llama, optimizer: AdamW, batches: Sequence[Batch], threads: Threads, dice: Sequence[int] = (0,)
) -> float:
    """Add to the optimizer's gradient that of the mean loss over `batches`; return the loss, in nats.

    The loss of a batch is a mean over its windows, so it is the sum of its pieces' losses, each times the piece's
    share of the windows; and gradients add up as losses do. (A `loss` of your own must be such a mean, too.) A model in
    training draws each piece's dropout from a generator seeded with `dice` and the piece's number, so it does not
    depend on which thread runs first. A GPU gets each batch in one piece.
    """
    whole = model.device == "cuda"
    pieces = [
        (ids[rows], targets[rows]) for ids, targets in batches for rows in ([slice(None)] if whole else cut(*ids.shape))
    ]
    windows = sum(len(ids) for ids, _ in pieces)

    def work_out(number: int) -> tuple[float, list[Array]]:
        ids, targets = pieces[number]
        share = len(ids) / windows
        with drawing_from(np.random.default_rng([*dice, number])):
            loss = model.loss(ids, targets)
        return share * loss.item(), gradients(loss, optimizer.parameters, np.asarray(share), release=True)

    total = 0.0
    for loss, found in threads.map(work_out, range(len(pieces))):
        total += loss
        optimizer.add(found)
        del found  # so that it can be freed while the next is waited for
    return total


def training_step(model: Llama, pool: Threads, lr: float = 1e-3) -> tuple[AdamW, Callable[[Batch], float]]:
    """An optimizer, and what `train` does with each batch by default; `step(batch)` returns the loss, in nats."""
    model.refuse_if_merged("train")
    c = TrainingConfig()
    optimizer = make_optimizer(model, c)
    model.train(np.random.default_rng(c.seed))

    def step(batch: Batch) -> float:
        loss = add_gradients(model, optimizer, [batch], pool, (c.seed, optimizer.steps))
        optimizer.clip(c.grad_clip)
        optimizer.step(lr)
        return loss

    return optimizer, step
