"""A different adapter for each row of one batch: `model(ids, adapters=["bard", None, {"bard": 0.5, "recipe": 0.5}])`.

        h[i] = W x[i] + B[i] A[i] x[i]        A[i] and s·B[i] gathered from a table of the batch's adapters

The product with W is shared by the rows; the thin products go through one table, without a loop over rows or adapters
(Punica, Chen et al. 2023, section 4; S-LoRA, Sheng et al. 2023, section 5).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from minilora.autograd import ops
from minilora.autograd.tensor import Tensor
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
    per_row = x.reshape(x.shape[0], -1, x.shape[-1])  # (batch, ..., in) -> (batch, tokens, in)
    low = per_row @ A[rows.index].transpose(0, 2, 1)  # (batch, tokens, in) @ (batch, in, R)
    update = low @ B[rows.index]  # (batch, tokens, R) @ (batch, R, out)
    return h + update.reshape(*h.shape)


def _tables(layer: LoraLinear, choices: list[dict[str, float]]) -> tuple[Tensor, Tensor]:
    """A as (choices, R, in) and s·Bᵀ as (choices, R, out), where R is the largest rank that a choice has.

    Several adapters of one choice, stacked along the rank, are one adapter whose update is their sum. Zeros fill up to
    R, and add nothing.
    """
    R = max(sum(layer.lora_A[a].shape[0] for a in choice) for choice in choices)
    parts_A, parts_B = [], []
    for choice in choices:
        parts_A += [layer.lora_A[a] for a in choice]
        parts_B += [layer.lora_B[a].T * (s * layer.scaling[a]) for a, s in choice.items()]
        missing = R - sum(layer.lora_A[a].shape[0] for a in choice)
        parts_A.append(_zeros(layer, missing, layer.in_features))
        parts_B.append(_zeros(layer, missing, layer.out_features))
    n = len(choices)
    A = ops.concatenate(*parts_A).reshape(n, R, layer.in_features)  # (n·R, in) -> (n, R, in)
    return A, ops.concatenate(*parts_B).reshape(n, R, layer.out_features)  # (n·R, out) -> (n, R, out)


def _zeros(layer: LoraLinear, rows: int, columns: int) -> Tensor:
    return Tensor(np.zeros_like(layer.weight.data, shape=(rows, columns)))
