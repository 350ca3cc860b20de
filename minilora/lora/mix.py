"""Mixing: one new adapter out of several. With weights wᵢ, scales sᵢ and factors Aᵢ, Bᵢ:

        cat      ΔW = Σ wᵢ sᵢ Bᵢ Aᵢ                      exact; its rank is the sum of the ranks
        svd      the matrix of rank r nearest to that    loses what lies beyond the r largest singular values
        linear   ΔW = Σᵢⱼ √(wᵢsᵢ) √(wⱼsⱼ) Bᵢ Aⱼ            equal ranks; cross terms i ≠ j that nobody asked for

The names are those of PEFT's `add_weighted_adapter`. To mix for the moment, without making anything new, write
`set_active(model, {"bard": 0.7, "recipe": 0.3})`; this, too, is exact.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import TypeAlias

import numpy as np

from minilora.autograd.tensor import Array
from minilora.backend import copy_into, to_host
from minilora.lora.config import AdapterError, LoraConfig
from minilora.lora.factors import singular_values, thin_svd
from minilora.lora.inject import adapters, inject, lora_modules
from minilora.lora.linear import LoraLinear
from minilora.lora.select import leaf, select
from minilora.nn import Module
from minilora.nn.variants import strengths

Factors: TypeAlias = tuple[Array, Array]
"""A (r, in) and B (out, r), in float64."""

WAYS = "cat", "linear", "svd"


@dataclass(frozen=True)
class Mixture:
    """What `mix` has made, module by module.

    Attributes
    ----------
    rank : the new adapter's rank
    error : ‖ΔW - Σ wᵢ ΔWᵢ‖ / ‖Σ wᵢ ΔWᵢ‖, Frobenius norms: how far the mixture is from the weighted sum
    """

    adapter: str
    how: str
    rank: dict[str, int]
    error: dict[str, float]

    @property
    def kept(self) -> dict[str, float]:
        """Of an "svd": the share of the energy ‖Σ wᵢ ΔWᵢ‖² that it keeps, 1 - error²."""
        return {path: 1 - error**2 for path, error in self.error.items()}

    def __str__(self) -> str:
        low, high = min(self.rank.values()), max(self.rank.values())
        ranks = str(low) if low == high else f"{low} to {high}"
        made = f"{self.adapter}: {self.how}, rank {ranks} in {len(self.rank)} modules"
        worst = max(self.error, key=lambda path: self.error[path])
        if not self.error[worst]:
            return f"{made}; exactly the weighted sum"
        if math.isinf(self.error[worst]):
            return f"{made}; the weighted sum is zero, and the mixture is not ({worst})"
        energy = f", {self.kept[worst]:.1%} of the energy kept" if self.how == "svd" else ""
        return f"{made}; at most {self.error[worst]:.2g} ‖ΔW‖ from the weighted sum{energy} ({worst})"


def mix(
    model: Module, weights: Mapping[str, float], adapter: str = "mixed", how: str = "cat", r: int | None = None
) -> Mixture:
    """Attach a new adapter that is a weighted mixture of attached ones, and make it the active one.

    Parameters
    ----------
    weights : adapter -> weight, any finite numbers
    adapter : the new one's name
    how : "cat" stacks the A's and the B's: exact, and as large as all of them. "svd" is the best approximation of that
        by a rank r (Eckart & Young 1936). "linear" adds the A's and adds the B's, each times √|wᵢsᵢ| (A takes the
        sign). It needs equal ranks, and every Bᵢ also meets every other Aⱼ: it is the weighted sum only when all
        adapters but one are weightless
    r : the rank of an "svd"; the largest of the adapters' ranks if not given. A module that cannot have as many
        gets as many as it can

    Raises AdapterError, before the model is changed, for an unknown adapter, a weight that is not finite, ranks that
    differ under "linear", an unknown way, a name that is taken, or when adapters are merged.
    """
    _check(weights, how, r)
    weights = strengths(weights, adapters(model))
    made: dict[str, Factors] = {}
    error: dict[str, float] = {}
    for path, module in lora_modules(model):
        mine = {name: w for name, w in weights.items() if name in module.config}
        if mine:
            exact = _cat(module, mine)
            _refuse_infinite(exact, path, module)
            made[path] = _make(how, exact, module, mine, r)
            error[path] = _distance(made[path], exact)
    rank = {path: len(A) for path, (A, _) in made.items()}
    inject(model, _config(model, rank), adapter, rng=np.random.default_rng(0))
    for path, module in lora_modules(model):
        if path in made:
            for part, array in zip((module.lora_A, module.lora_B), made[path], strict=True):
                copy_into(part[adapter].data, array)
    return Mixture(adapter, how, rank, error)


def _check(weights: Mapping[str, float], how: str, r: int | None) -> None:
    """Refuse what `mix` cannot work with, before it looks at the model."""
    if not isinstance(weights, Mapping) or not weights:
        raise AdapterError(
            f"expected a weight for each adapter, such as {{'bard': 0.7, 'recipe': 0.3}}, got {weights!r}"
        )
    if not isinstance(how, str) or how not in WAYS:
        raise AdapterError(f"expected how = {', '.join(map(repr, WAYS))}, got {how!r}")
    if r is not None and how != "svd":
        raise AdapterError(f"a rank can be chosen for 'svd' alone; {how!r} has the one that comes of it, got r = {r!r}")
    if r is not None and (not isinstance(r, Integral) or isinstance(r, bool) or r < 1):
        raise AdapterError(f"expected a rank r of at least 1, a whole number, got {r!r}")


def _refuse_infinite(factors: Factors, path: str, module: LoraLinear) -> None:
    """Weights can be so large that a mixture is infinite in the model's own type."""
    with np.errstate(over="ignore"):
        if not all(np.isfinite(M.astype(module.weight.dtype)).all() for M in factors):
            raise AdapterError(
                f"the weights are too large: the mixture at {path} is not finite in {module.weight.dtype}"
            )


def _make(how: str, exact: Factors, module: LoraLinear, weights: dict[str, float], r: int | None) -> Factors:
    """The mixture at one module; `exact` are the factors of the weighted sum."""
    if how == "cat":
        return exact
    if how == "linear":
        return _linear(module, weights)
    return _nearest(*exact, r or max(len(module.lora_A[name].data) for name in weights))


def _cat(module: LoraLinear, weights: dict[str, float]) -> Factors:
    """A's above each other, B's beside each other, each times w s."""
    A, B = zip(*(_factors(module, name) for name in weights), strict=True)
    scaled = [w * module.scaling[name] * b for (name, w), b in zip(weights.items(), B, strict=True)]
    return np.concatenate(A), np.concatenate(scaled, axis=1)


def _linear(module: LoraLinear, weights: dict[str, float]) -> Factors:
    """Σ √(ws) A and Σ √(ws) B; a negative ws gives its sign to A, as in PEFT."""
    ranks = {name: len(module.lora_A[name].data) for name in weights}
    if len(set(ranks.values())) > 1:
        raise AdapterError(f"'linear' needs adapters of one rank, these have {ranks}; use 'cat' or 'svd'")
    factors = [_factors(module, name) for name in weights]
    scales = [w * module.scaling[name] for name, w in weights.items()]
    A = sum(math.copysign(math.sqrt(abs(ws)), ws) * a for ws, (a, _) in zip(scales, factors, strict=True))
    B = sum(math.sqrt(abs(ws)) * b for ws, (_, b) in zip(scales, factors, strict=True))
    return np.asarray(A), np.asarray(B)


def _nearest(A: Array, B: Array, r: int) -> Factors:
    """The r largest singular values of B A, or all if there are fewer, each shared out evenly between the factors."""
    left, values, right = thin_svd(A, B)
    roots = np.sqrt(values[:r])
    return roots[:, None] * right[:r], left[:, :r] * roots  # (r, in), (out, r)


def _factors(module: LoraLinear, name: str) -> Factors:
    """A and B of one adapter, in float64 on the host: a mixture is worked out once and rounded once."""
    A, B = (to_host(part[name].data).astype(np.float64) for part in (module.lora_A, module.lora_B))
    return A, B


def _distance(made: Factors, exact: Factors) -> float:
    """‖B A - B' A'‖ / ‖B' A'‖. What is only rounding counts as nothing: where adapters cancel, all that is left."""
    (A, B), (A_exact, B_exact) = made, exact
    rounding = 1e-12 * np.linalg.norm(A_exact) * np.linalg.norm(B_exact)
    norm = np.linalg.norm(singular_values(*exact))
    both = np.concatenate([A, A_exact]), np.concatenate([B, -B_exact], axis=1)
    difference = np.linalg.norm(singular_values(*both))
    if difference <= rounding:
        return 0.0
    return float(difference / norm) if norm > rounding else math.inf


def _config(model: Module, rank: dict[str, int]) -> LoraConfig:
    """A config of scale α/r = 1 that means just these modules, with these ranks."""
    common = Counter(rank.values()).most_common(1)[0][0]
    others = {re.escape(path): r for path, r in rank.items() if r != common}
    config = LoraConfig(
        r=common,
        lora_alpha=common,
        target_modules=sorted({leaf(path) for path in rank}),
        rank_pattern=others,
        alpha_pattern=dict(others),
    )
    if select(model, config).keys() != rank.keys():  # the last names mean others as well: whole paths, then
        config = dataclasses.replace(config, target_modules=sorted(rank))
    return config
