"""A different adapter for each row of one batch: `model(ids, adapters=["bard", None, {"bard": 0.5, "recipe": 0.5}])`.

        h[i] = W x[i] + B[i] A[i] x[i]        A[i] and s·B[i] gathered from a table of the batch's adapters

The product with W is shared by the rows; the thin products go through one table, without a loop over rows or adapters
(Punica, Chen et al. 2023, section 4; S-LoRA, Sheng et al. 2023, section 5).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from minilora.autograd import ops
from minilora.autograd.tensor import Array, Tensor, no_grad
from minilora.backend import like
from minilora.nn.variants import AdapterError, RowChoice

if TYPE_CHECKING:
    from minilora.lora.linear import LoraLinear


def add_row_updates(h: Tensor, x: Tensor, layer: LoraLinear, rows: RowChoice) -> Tensor:
    """h[i] + s · B A x[i] with the adapters of row i. x is (batch, ..., in), h is (batch, ..., out)."""
    choices = [{a: s for a, s in choice.items() if a in layer.config} for choice in rows.distinct]
    if not any(choices):
        return h
    if layer.rng is not None and any(layer.config[a].lora_dropout for choice in choices for a in choice):
        raise AdapterError("adapters chosen row by row are computed without dropout; call model.eval() first")
    A, B = _tables(layer, choices)
    index = like(rows.index, x.data)
    per_row = x.reshape(x.shape[0], -1, x.shape[-1])  # (batch, ..., in) -> (batch, tokens, in)
    low = per_row @ A[index].transpose(0, 2, 1)  # (batch, tokens, in) @ (batch, in, R)
    update = low @ B[index]  # (batch, tokens, R) @ (batch, R, out)
    return h + update.reshape(*h.shape)


@no_grad()
def factors(layer: LoraLinear, rows: RowChoice | None) -> tuple[Array, Array] | None:
    """A (batch, R, in) and s·Bᵀ (batch, R, out) of each row, or one for all; None where no adapter acts.

    `rows` is None for the active adapters. Merged ones are part of the weight already.
    """
    distinct = (layer.active,) if rows is None else rows.distinct
    choices = [{a: s for a, s in choice.items() if a in layer.config} for choice in distinct]
    if layer.merged or not any(choices):
        return None
    A, B = (table.data for table in _tables(layer, choices))
    if rows is None or len(choices) == 1:
        return A, B
    index = like(rows.index, A)
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
