"""The validation loss: the mean next-token loss on held-out text."""

from __future__ import annotations

import numpy as np

from minilora.autograd.tensor import no_grad
from minilora.data.batches import fixed_windows
from minilora.nn import Llama
from minilora.nn.module import check_module
from minilora.threads import Threads


@no_grad()
def evaluate(
    model: Llama, ids: np.ndarray, context: int, windows: int, batch: int = 32, threads: int | None = None
) -> float:
    """The mean cross-entropy of `model` over `windows` fixed windows of `context` tokens of `ids`, in nats per token.

    Dropout is disabled during the evaluation. The batches are distributed over `threads` threads, by default one per
    core; the result does not depend on the number of threads. On a GPU, one thread is used.
    """
    check_module(model)
    rng = model.rng
    model.eval()
    try:
        with Threads(threads, model.device) as pool:
            batches = list(fixed_windows(ids, windows, context, batch))
            return sum(pool.map(lambda window: model.loss(*window).item() * len(window[0]), batches)) / windows
    finally:
        if rng is not None:
            model.train(rng)
