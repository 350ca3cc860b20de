"""From scores to a choice: temperature, top-k, top-p, and one random number per token."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from minilora.backend import Array


@dataclass(frozen=True)
class Sampler:
    """How the next token is chosen.

    Attributes
    ----------
    temperature : logits are divided by it; below 1 is more certain, 0 always takes the likeliest
    top_k : choose among the k likeliest only
    top_p : choose among the fewest tokens whose probabilities reach p (Holtzman et al. 2020)
    """

    temperature: float = 0.8
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise ValueError(f"temperature should be 0 or more, got {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k should be at least 1, got {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p should be above 0 and at most 1, got {self.top_p}")

    def choose(self, logits: Array, draws: Array) -> Array:
        """One token for each row of logits (B, V), by the uniform random numbers `draws` (B,) in [0, 1)."""
        if self.temperature == 0:
            return logits.argmax(axis=-1)
        cumulative = np.cumsum(self.probabilities(logits), axis=-1)
        # The first token whose cumulative probability exceeds the draw.
        return np.sum(cumulative <= draws[:, None] * cumulative[:, -1:], axis=-1)

    def probabilities(self, logits: Array) -> Array:
        """The distribution (B, V) that tokens are drawn from, in float64."""
        logits = logits.astype(np.float64) / max(self.temperature, 1e-6)
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            kth = np.partition(logits, -self.top_k, axis=-1)[:, -self.top_k, None]
            logits = np.where(logits < kth, -np.inf, logits)
        p = np.exp(logits - logits.max(axis=-1, keepdims=True))
        p /= p.sum(axis=-1, keepdims=True)
        if self.top_p is not None and self.top_p < 1:
            p = _nucleus(p, self.top_p)
        return p


def _nucleus(p: Array, top_p: float) -> Array:
    """Keep the fewest likeliest tokens whose sum reaches top_p, and share the rest out among them.

    Tokens below (1 - top_p) / V cannot be among them: all such together have less than the 1 - top_p that may be cut.
    So only the k likeliest are put in order, where k is the most that a row has above that floor.
    """
    V = p.shape[-1]
    k = max(1, int(np.sum(p >= (1 - top_p) / V, axis=-1).max()))
    likeliest = np.sort(np.argpartition(-p, k - 1, axis=-1)[:, :k], axis=-1)  # (B, k), ties in the tokens' order
    order = np.argsort(-np.take_along_axis(p, likeliest, axis=-1), axis=-1, kind="stable")
    order = np.take_along_axis(likeliest, order, axis=-1)
    ordered = np.take_along_axis(p, order, axis=-1)
    before = np.cumsum(ordered, axis=-1) - ordered  # the sum of what is likelier
    kept = np.zeros_like(p)
    np.put_along_axis(kept, order, np.where(before < top_p, ordered, 0), axis=-1)
    return kept / kept.sum(axis=-1, keepdims=True)
