"""A fingerprint of a base model's weights, which is saved with an adapter to recognize its base."""

from __future__ import annotations

import hashlib

import numpy as np

from minilora.adapters.host import AdaptedLinear
from minilora.autograd.tensor import Tensor
from minilora.backend import to_host
from minilora.nn import Module

SAMPLES = 1_024  # at least this many evenly spaced values per weight; training changes almost every value


def fingerprint(model: Module) -> str:
    """Return 16 hexadecimal digits that identify the weights of the base model, regardless of its adapters.

    They are the first quarter of a SHA-256 hash over samples of every weight in float16, so a model and its float16
    copy have the same fingerprint.
    """
    digest, seen = hashlib.sha256(), set()
    for path, module in model.named_modules():
        own = module.base if isinstance(module, AdaptedLinear) else module
        for name, weight in own._parts():
            if isinstance(weight, Tensor) and id(weight) not in seen:
                seen.add(id(weight))
                values = weight.data.reshape(-1)[:: max(1, weight.size // SAMPLES)]
                with np.errstate(over="ignore"):
                    sample = to_host(values).astype("<f2")
                digest.update(f"{path}.{name} {weight.shape} ".encode() + sample.tobytes())
    return digest.hexdigest()[:16]
