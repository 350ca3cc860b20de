"""Merging: add the active adapters to the weights, so that inference costs nothing extra; and take them out again.

W + ΔW is one matrix like W, so merging does not change the output, up to rounding. W is kept, so unmerging restores it
bit for bit, however often adapters are swapped. `state_dict()` of a merged model still holds W and the adapters; merged
weights come from `merge_and_unload`.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np

from minilora.adapters.attach import hosts, replace, unload
from minilora.autograd.tensor import no_grad
from minilora.backend import Array, to_host
from minilora.nn import Linear, Llama, Module
from minilora.nn.module import AdapterError


def merge(model: Module) -> None:
    """Add the active adapters, at their strengths, to the weights. Merging a merged model changes nothing.

    Raises AdapterError, before anything is changed, when there are no adapters, or an active one has no ΔW.
    """
    weights = [(host, host.sum_weights()) for host in hosts(model).values()]
    if not weights:
        raise AdapterError("there is nothing to merge: the model has no adapters")
    for host, weight in weights:
        host.merged_weight = weight


def unmerge(model: Module) -> None:
    """Put back the original weights, the same bits as before merging."""
    for host in hosts(model).values():
        host.unmerge()


def merge_and_unload(model: Module) -> None:
    """Merge permanently: plain Linears with merged weights. All adapters are removed, and the model is trainable."""
    merge(model)
    for path, host in hosts(model).items():
        replace(model, path, Linear(host.weight))
    unload(model)


@no_grad()
def merge_difference(model: Llama, ids: Array, dtype: Any = np.float32) -> float:
    """max |logit merged - logit unmerged| on `ids` (B, T): how exact merging is, computed in `dtype` on a copy."""
    twin = copy.deepcopy(model)
    twin.eval()  # dropout would change the unmerged output alone
    unmerge(twin)
    twin.astype(dtype)
    apart = twin(ids).data
    merge(twin)
    return float(np.max(np.abs(twin(ids).data - apart)))


@dataclass(frozen=True)
class MergeCheck:
    """The result of merging and unmerging a copy of a model.

    Attributes
    ----------
    single, double : max |logit merged - logit unmerged| in float32 and in float64
    restored : whether unmerging puts back every weight, bit for bit
    """

    single: float
    double: float
    restored: bool


def merge_check(model: Llama, ids: Array) -> MergeCheck:
    """Merge the active adapters of `model`, on a copy, and compare the logits on `ids` (B, T); then unmerge."""
    single, double = (merge_difference(model, ids, dtype) for dtype in (np.float32, np.float64))
    twin = copy.deepcopy(model)
    unmerge(twin)
    weights = copy.deepcopy(effective_weights(twin))
    merge(twin)
    unmerge(twin)
    restored = all(
        to_host(array).tobytes() == to_host(weights[name]).tobytes() for name, array in effective_weights(twin).items()
    )
    return MergeCheck(single, double, restored)


def effective_weights(model: Module) -> dict[str, Array]:
    """All parameters by name, and the effective weights of the adapted Linears by path."""
    return {**model.state_dict(), **{path: host.weight.data for path, host in hosts(model).items()}}
