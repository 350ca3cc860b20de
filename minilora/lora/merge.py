"""Merging: fold the active adapters into the weights, so that inference costs nothing extra; and take them out again.

W + s·BA is one matrix like W. Merging changes what is stored, not what is computed (beyond rounding), and since the
original W is kept, unmerging restores it bit for bit, however often adapters are swapped.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np

from minilora.autograd.tensor import Array, no_grad
from minilora.backend import to_host
from minilora.lora.config import AdapterError
from minilora.lora.inject import lora_modules, unload
from minilora.nn import Llama, Module


def merge(model: Module) -> None:
    """Fold the active adapters, at their strengths, into the weights. Merging a merged model changes nothing."""
    if not lora_modules(model):
        raise AdapterError("there is nothing to merge: the model has no adapters")
    for _, module in lora_modules(model):
        module.merge()


def unmerge(model: Module) -> None:
    """Put back the original weights, the same bits as before merging."""
    for _, module in lora_modules(model):
        module.unmerge()


def merge_and_unload(model: Module) -> None:
    """Make the active adapters part of the model for good: plain Linears, with the merged weights."""
    merge(model)
    for _, module in lora_modules(model):
        module._original = None  # the merged weight is now the only one
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
    weights = copy.deepcopy(twin.state_dict())
    merge(twin)
    unmerge(twin)
    restored = all(
        to_host(array).tobytes() == to_host(weights[name]).tobytes() for name, array in twin.state_dict().items()
    )
    return MergeCheck(single, double, restored)
