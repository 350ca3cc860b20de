"""The number that training is about: the mean next-token loss on text that was not trained on."""

from __future__ import annotations

import numpy as np

from minilora.autograd.tensor import no_grad
from minilora.data.batches import fixed_windows
from minilora.nn import Llama
from minilora.threads import Threads


@no_grad()
def evaluate(
    model: Llama, ids: np.ndarray, context: int, windows: int, batch: int = 32, threads: int | None = None
) -> float:
    """Mean cross-entropy of `model` in nats per token, over `windows` fixed windows of `context` tokens of `ids`.

    Dropout is off for the time of the evaluation. Batches go to `threads` threads, by default one per core; the mean
    is the same for any number. On a GPU one thread does it all.
    """
    rng = model.rng
    model.eval()
    try:
        with Threads(threads, model.device) as pool:
            batches = list(fixed_windows(ids, windows, context, batch))
            return sum(pool.map(lambda window: model.loss(*window).item() * len(window[0]), batches)) / windows
    finally:
        if rng is not None:
            model.train(rng)
