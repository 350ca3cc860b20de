"""Merging: fold the active adapters into the weights, so that inference costs nothing extra; and take them out again.

W + ΔW is one matrix like W. Merging changes what acts, not what is computed (beyond rounding), and since W is kept,
unmerging restores it bit for bit, however often adapters are swapped. `state_dict()` of a merged model still holds W
and the adapters; merged weights come from `merge_and_unload`.
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
    """Fold the active adapters, at their strengths, into the weights. Merging a merged model changes nothing.

    Raises AdapterError, before anything is changed, when there are no adapters, or an active one is not a matrix.
    """
    found = hosts(model)
    if not found:
        raise AdapterError("there is nothing to merge: the model has no adapters")
    try:
        for host in found.values():
            host.merge()
    except AdapterError:
        unmerge(model)
        raise


def unmerge(model: Module) -> None:
    """Put back the original weights, the same bits as before merging."""
    for host in hosts(model).values():
        host.unmerge()


def merge_and_unload(model: Module) -> None:
    """Make the active adapters part of the model for good: plain Linears, with the merged weights."""
    merge(model)
    for path, host in hosts(model).items():
        replace(model, path, Linear(host.weight))
    unload(model)


@no_grad()
def merge_difference(model: Llama, ids: Array, dtype: Any = np.float32) -> float:
    """max |logit merged - logit unmerged| on `ids` (B, T): how exact merging is, computed in `dtype` on a copy."""
    twin = copy.deepcopy(model)
    twin.eval()  # dropout acts on the adapters' path alone, and would look like a difference
    unmerge(twin)
    twin.astype(dtype)
    apart = twin(ids).data
    merge(twin)
    return float(np.max(np.abs(twin(ids).data - apart)))


@dataclass(frozen=True)
class MergeCheck:
    """Whether merging is what it promises to be, tried on a copy of a model.

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
    weights = copy.deepcopy(acting_weights(twin))
    merge(twin)
    unmerge(twin)
    restored = all(
        to_host(array).tobytes() == to_host(weights[name]).tobytes() for name, array in acting_weights(twin).items()
    )
    return MergeCheck(single, double, restored)


def acting_weights(model: Module) -> dict[str, Array]:
    """All parameters by name, and the matrices that act in the adapted Linears."""
    return {**model.state_dict(), **{path: host.weight.data for path, host in hosts(model).items()}}
