"""The number that training is about: the mean next-token loss on text that was not trained on."""

from __future__ import annotations

import numpy as np

from minilora.autograd.tensor import no_grad
from minilora.data.batches import fixed_windows
from minilora.nn import Llama


@no_grad()
def evaluate(model: Llama, ids: np.ndarray, context: int, windows: int, batch: int = 32) -> float:
    """Mean cross-entropy of `model` in nats per token, over `windows` fixed windows of `context` tokens of `ids`.

    Dropout is off for the time of the evaluation.
    """
    rng = model.rng
    model.eval()
    total = 0.0
    try:
        for inputs, targets in fixed_windows(ids, windows, context, batch):
            total += model.loss(inputs, targets).item() * len(inputs)
    finally:
        if rng is not None:
            model.train(rng)
    return total / windows
