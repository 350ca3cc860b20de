"""Token sampling with temperature, top-k and top-p, using one random number per token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np

from minilora.backend import Array
from minilora.messages import shown


@dataclass(frozen=True)
class Sampler:
    """Settings for sampling the next token.

    Attributes
    ----------
    temperature : divides the logits; below 1 sharpens the distribution, 0 always selects the most likely token
    top_k : sample only from the k most likely tokens
    top_p : sample from the smallest set of most likely tokens with total probability at least p (Holtzman et al. 2020)
    """

    temperature: float = 0.8
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.temperature, Real) or not self.temperature >= 0:
            raise ValueError(f"expected `temperature` to be a number of at least 0, got {shown(self.temperature)}")
        if self.top_k is not None and (not isinstance(self.top_k, Integral) or self.top_k < 1):
            raise ValueError(f"expected `top_k` to be a positive integer or None, got {shown(self.top_k)}")
        if self.top_p is not None and (not isinstance(self.top_p, Real) or not 0 < self.top_p <= 1):
            raise ValueError(f"expected `top_p` to be a number above 0 and at most 1, or None, got {shown(self.top_p)}")

    def choose(self, logits: Array, draws: Array) -> Array:
        """Return one token for each row of logits (B, V), given uniform random numbers `draws` (B,) in [0, 1)."""
        if self.temperature == 0:
            return logits.argmax(axis=-1)
        cumulative = np.cumsum(self.probabilities(logits), axis=-1)
        # The first token whose cumulative probability exceeds the draw.
        return np.sum(cumulative <= draws[:, None] * cumulative[:, -1:], axis=-1)

    def probabilities(self, logits: Array) -> Array:
        """Return the distribution (B, V) from which tokens are drawn, in float64."""
        logits = logits.astype(np.float64) / max(self.temperature, 1e-6)
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            kth = np.partition(logits, -self.top_k, axis=-1)[:, -self.top_k, None]
            logits = np.where(logits < kth, -np.inf, logits)
        p = np.exp(logits - logits.max(axis=-1, keepdims=True))
        p /= p.sum(axis=-1, keepdims=True)
        if self.top_p is not None and self.top_p < 1:
            p = _nucleus(p, self.top_p)
        return p


def make_sampler(sampler: Any, settings: Mapping[str, Any]) -> Any:
    """Return the sampler, or a Sampler with the settings if `sampler` is None. Raises ValueError if both are given."""
    if sampler is not None and (isinstance(sampler, np.ndarray) or not hasattr(sampler, "choose")):
        raise TypeError(f"expected a sampler, such as Sampler(temperature=0.5), got {shown(sampler)}")
    if sampler is not None and settings:
        raise ValueError(f"expected a sampler or {', '.join(settings)}, got both; pass the settings to the sampler")
    return Sampler(**settings) if sampler is None else sampler


def _nucleus(p: Array, top_p: float) -> Array:
    """Keep the smallest set of most likely tokens with total probability at least top_p, and renormalize.

    Tokens with a probability below (1 - top_p) / V are never in this set: together they have less than 1 - top_p, the
    probability that may be cut. So only the k most likely tokens are sorted, where k is the largest number of tokens at
    or above this threshold in any row.
    """
    V = p.shape[-1]
    k = max(1, int(np.sum(p >= (1 - top_p) / V, axis=-1).max()))
    likeliest = np.sort(np.argpartition(-p, k - 1, axis=-1)[:, :k], axis=-1)  # (B, k), in id order, to break ties
    order = np.argsort(-np.take_along_axis(p, likeliest, axis=-1), axis=-1, kind="stable")
    order = np.take_along_axis(likeliest, order, axis=-1)
    ordered = np.take_along_axis(p, order, axis=-1)
    before = np.cumsum(ordered, axis=-1) - ordered  # total probability of the more likely tokens
    kept = np.zeros_like(p)
    np.put_along_axis(kept, order, np.where(before < top_p, ordered, 0), axis=-1)
    return kept / kept.sum(axis=-1, keepdims=True)
