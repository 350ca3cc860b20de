"""A different adapter for each row of one batch: `model(ids, adapters=["bard", None, {"bard": 0.5, "recipe": 0.5}])`.

        h[i] = W x[i] + s[i] B[i] A[i] x[i]        A[i] and s[i]·B[i] gathered from a table of the batch's adapters

The product with W is shared by the rows; the thin products go through one table, without a loop over rows or adapters
(Punica, Chen et al. 2023, section 4; S-LoRA, Sheng et al. 2023, section 5).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from minilora.autograd import ops
from minilora.autograd.tensor import Array, Tensor, no_grad, recording
from minilora.backend import like
from minilora.nn.variants import AdapterError, RowChoice

if TYPE_CHECKING:
    from minilora.lora.linear import LoraLinear


def add_row_updates(h: Tensor, x: Tensor, layer: LoraLinear, rows: RowChoice) -> Tensor:
    """h[i] + s · B A x[i] with the adapters of row i. x is (batch, ..., in), h is (batch, ..., out)."""
    choices = _choices(layer, rows)
    if not any(choices):
        return h
    if layer.rng is not None and any(layer.config[a].lora_dropout for choice in choices for a in choice):
        raise AdapterError("adapters chosen row by row are computed without dropout; call model.eval() first")
    A, B = _gathered(layer, rows) if recording() else _kept(layer, rows)
    per_row = x.reshape(x.shape[0], -1, x.shape[-1])  # (batch, ..., in) -> (batch, tokens, in)
    low = per_row @ A.transpose(0, 2, 1)  # (batch, tokens, in) @ (batch, in, R)
    update = low @ B  # (batch, tokens, R) @ (batch, R, out)
    return h + update.reshape(*h.shape)


@no_grad()
def factors(layer: LoraLinear, rows: RowChoice | None) -> tuple[Array, Array] | None:
    """A (batch, R, in) and s·Bᵀ (batch, R, out) of each row, or one for all; None where no adapter acts.

    `rows` is None for the active adapters. Merged ones are part of the weight already.
    """
    if rows is None:
        rows = RowChoice((layer.active,), np.zeros(1, dtype=np.intp))
    if layer.merged or not any(_choices(layer, rows)):
        return None
    A, B = _kept(layer, rows)
    return A.data, B.data


def _choices(layer: LoraLinear, rows: RowChoice) -> list[dict[str, float]]:
    """The distinct choices, without the adapters that this layer lacks."""
    return [{a: s for a, s in choice.items() if a in layer.config} for choice in rows.distinct]


def _kept(layer: LoraLinear, rows: RowChoice) -> tuple[Tensor, Tensor]:
    """As `_gathered`, but worked out a single time and kept in `rows`."""
    if id(layer) not in rows.kept:
        rows.kept[id(layer)] = _gathered(layer, rows)
    return rows.kept[id(layer)]


def _gathered(layer: LoraLinear, rows: RowChoice) -> tuple[Tensor, Tensor]:
    """A as (batch, R, in) and s·Bᵀ as (batch, R, out); a batch of 1 where all rows share a choice."""
    A, B = _tables(layer, _choices(layer, rows))
    if len(rows.distinct) == 1:
        return A, B
    index = like(rows.index, A.data)
    return A[index], B[index]


def _tables(layer: LoraLinear, choices: list[dict[str, float]]) -> tuple[Tensor, Tensor]:
    """A as (choices, R, in) and s·Bᵀ as (choices, R, out), where R is the largest rank that a choice has.

    Several adapters of one choice, stacked along the rank, are one adapter whose update is their sum. Zeros fill up to
    R, and add nothing.
    """
    ranks = [sum(layer.lora_A[a].shape[0] for a in choice) for choice in choices]
    n, R = len(choices), max(ranks)
    parts_A: list[Tensor] = []
    parts_B: list[Tensor] = []
    scales = np.zeros_like(layer.weight.data, shape=(n * R, 1))
    for i, (choice, rank) in enumerate(zip(choices, ranks, strict=True)):
        row = i * R
        for a, s in choice.items():
            parts_A.append(layer.lora_A[a])
            parts_B.append(layer.lora_B[a])
            scales[row : row + layer.lora_A[a].shape[0]] = s * layer.scaling[a]
            row += layer.lora_A[a].shape[0]
        if rank < R:
            parts_A.append(_zeros(layer, R - rank, layer.in_features))
            parts_B.append(_zeros(layer, layer.out_features, R - rank))
    A = ops.concatenate(*parts_A).reshape(n, R, layer.in_features)  # (n·R, in) -> (n, R, in)
    B = ops.concatenate(*parts_B, axis=1).T * scales  # (out, n·R) -> (n·R, out)
    return A, B.reshape(n, R, layer.out_features)  # (n·R, out) -> (n, R, out)


def _zeros(layer: LoraLinear, rows: int, columns: int) -> Tensor:
    return Tensor(np.zeros_like(layer.weight.data, shape=(rows, columns)))
