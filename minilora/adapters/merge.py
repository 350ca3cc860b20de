"""Merging: add the active adapters to the weights, so that inference has no extra cost; unmerging reverts this.

W + ΔW has the same shape as W, and up to rounding the merged layer computes the same output. W is kept, so unmerging
restores it bit for bit, however often adapters are swapped. `state_dict()` of a merged model still contains W and the
adapters; to get the merged weights, use `merge_and_unload`.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np

from minilora.adapters.attach import hosts, refuse_single_layer, replace, unload
from minilora.autograd.tensor import no_grad
from minilora.backend import Array, to_host
from minilora.nn import Linear, Llama, Module
from minilora.nn.module import AdapterError, forget_folder


def merge(model: Module) -> None:
    """Add the active adapters, multiplied by their strengths, to the weights. Merging a merged model has no effect.

    Raises AdapterError, before anything is changed, if the model has no adapters, or if a layer cannot be merged: an
    active adapter has no ΔW, or the base layer overrides `forward` but not `dense`.
    """
    weights = [(host, host.sum_weights()) for host in hosts(model).values()]
    if not weights:
        raise AdapterError("there is nothing to merge: the model has no adapters")
    for host, weight in weights:
        host.merged_weight = weight


def unmerge(model: Module) -> None:
    """Restore the original weights, bit for bit."""
    for host in hosts(model).values():
        host.unmerge()


def merge_and_unload(model: Module) -> None:
    """Merge permanently: remove all adapters, leaving plain layers with the merged weights, and unfreeze the model."""
    for path in hosts(model):
        refuse_single_layer(path)
    merge(model)
    for path, host in hosts(model).items():
        replace(model, path, Linear(host.weight))
    unload(model)
    forget_folder(model)


@no_grad()
def merge_difference(model: Llama, ids: Array, dtype: Any = np.float32) -> float:
    """Return max |logit merged - logit unmerged| on `ids` (B, T), computed in `dtype` on a copy of the model."""
    twin = copy.deepcopy(model)
    twin.eval()  # dropout would change only the unmerged output
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
    restored : whether unmerging restores every weight bit for bit
    """

    single: float
    double: float
    restored: bool

    def __repr__(self) -> str:
        restored = "" if self.restored else "not "
        return (
            f"MergeCheck(max |Δlogit| {self.single:.1e} in float32, {self.double:.1e} in float64; "
            f"weights {restored}restored bit for bit)"
        )


def merge_check(model: Llama, ids: Array) -> MergeCheck:
    """Merge a copy of `model`, compare the logits on `ids` (B, T), and check that unmerging restores the weights."""
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
    """Return all parameters by name, and the effective weights of the adapted layers by path."""
    return {**model.state_dict(), **{path: host.weight.data for path, host in hosts(model).items()}}
