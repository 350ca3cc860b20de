"""Mixing: one new adapter out of several. With weights wᵢ, scales sᵢ and factors Aᵢ, Bᵢ:

        cat      ΔW = Σ wᵢ sᵢ Bᵢ Aᵢ                      exact; its rank is the sum of the ranks
        svd      the matrix of rank r nearest to that    loses what lies beyond the r largest singular values
        linear   ΔW = Σᵢⱼ √(wᵢsᵢ) √(wⱼsⱼ) Bᵢ Aⱼ            equal ranks; with cross terms i ≠ j

The names are those of PEFT's `add_weighted_adapter`. To combine adapters without making a new one, write
`set_active(model, {"bard": 0.7, "recipe": 0.3})`; this, too, is exact.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import NamedTuple, TypeAlias

import numpy as np

from minilora.adapters.attach import hosts, place
from minilora.adapters.host import AdaptedLinear
from minilora.adapters.targets import module_name, select
from minilora.backend import Array, to_host
from minilora.lora.config import LoraConfig
from minilora.lora.spectrum import singular_values, thin_svd
from minilora.nn import Module
from minilora.nn.choice import strengths
from minilora.nn.module import AdapterError

Pair: TypeAlias = tuple[Array, Array]
"""A (r, in) and B (out, r), in float64."""

WAYS = "cat", "linear", "svd"


@dataclass(frozen=True)
class Mixture:
    """The result of `mix`, per module.

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
        """For "svd": the share of the energy ‖Σ wᵢ ΔWᵢ‖² that it keeps, 1 - error²."""
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
    weights = strengths(weights, model.adapters)
    made: dict[str, Pair] = {}
    error: dict[str, float] = {}
    for path, host in hosts(model).items():
        terms = {name: _term(host, name, w, path) for name, w in weights.items() if name in host.updates}
        if terms:
            exact = _cat(terms)
            _refuse_infinite(exact, path, model.dtype)
            made[path] = _make(how, exact, terms, r)
            error[path] = _distance(made[path], exact)
    rank = {path: len(A) for path, (A, _) in made.items()}
    place(model, _config(model, rank), adapter, {path: {"lora_A": A, "lora_B": B} for path, (A, B) in made.items()})
    return Mixture(adapter, how, rank, error)


def _check(weights: Mapping[str, float], how: str, r: int | None) -> None:
    """Check the arguments that do not depend on the model."""
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


def _refuse_infinite(matrices: Iterable[Array], path: str, dtype: np.dtype) -> None:
    """Raise AdapterError for a mixture that overflows the model's dtype."""
    with np.errstate(over="ignore"):
        if not all(np.isfinite(M.astype(dtype)).all() for M in matrices):
            raise AdapterError(f"the weights are too large: the mixture at {path} is not finite in {dtype}")


class Term(NamedTuple):
    """w · ΔW of one adapter at one module: A (r, in), B (out, r), in float64, and the product of weight and scale."""

    A: Array
    B: Array
    scale: float


def _term(host: AdaptedLinear, name: str, weight: float, path: str) -> Term:
    """In float64 and on the host: a mixture is computed once and rounded once."""
    factors = host.updates[name].factors(host.base)
    if factors is None:
        raise AdapterError(
            f"{name!r} cannot be mixed: at {path} it has no factors A and B; activate the adapters together instead "
            "(lora.set_active(model, {name: weight, ...}))"
        )
    A, B = (to_host(M.data).astype(np.float64) for M in (factors.A, factors.B))
    return Term(A, B, weight * factors.scale)


def _make(how: str, exact: Pair, terms: dict[str, Term], r: int | None) -> Pair:
    """The mixture at one module; `exact` are the factors of the weighted sum."""
    if how == "cat":
        return exact
    if how == "linear":
        return _linear(terms)
    return _nearest(*exact, r or max(len(term.A) for term in terms.values()))


def _cat(terms: dict[str, Term]) -> Pair:
    """The A's stacked vertically; the B's, each times w s, horizontally."""
    return np.concatenate([t.A for t in terms.values()]), np.concatenate(
        [t.scale * t.B for t in terms.values()], axis=1
    )


def _linear(terms: dict[str, Term]) -> Pair:
    """Σ √(ws) A and Σ √(ws) B; a negative ws gives its sign to A, as in PEFT."""
    ranks = {name: len(term.A) for name, term in terms.items()}
    if len(set(ranks.values())) > 1:
        raise AdapterError(f"'linear' needs adapters of one rank, these have {ranks}; use 'cat' or 'svd'")
    A = sum(math.copysign(math.sqrt(abs(t.scale)), t.scale) * t.A for t in terms.values())
    B = sum(math.sqrt(abs(t.scale)) * t.B for t in terms.values())
    return np.asarray(A), np.asarray(B)


def _nearest(A: Array, B: Array, r: int) -> Pair:
    """B A truncated to its r largest singular values σ, with √σ in each factor."""
    left, values, right = thin_svd(A, B)
    roots = np.sqrt(values[:r])
    return roots[:, None] * right[:r], left[:, :r] * roots  # (r, in), (out, r)


def _distance(made: Pair, exact: Pair) -> float:
    """‖B A - B' A'‖ / ‖B' A'‖. Rounding counts as zero: where adapters cancel, nothing else is left."""
    (A, B), (A_exact, B_exact) = made, exact
    rounding = 1e-12 * np.linalg.norm(A_exact) * np.linalg.norm(B_exact)
    norm = np.linalg.norm(singular_values(*exact))
    both = np.concatenate([A, A_exact]), np.concatenate([B, -B_exact], axis=1)
    difference = np.linalg.norm(singular_values(*both))
    if difference <= rounding:
        return 0.0
    return float(difference / norm) if norm > rounding else math.inf


def _config(model: Module, rank: dict[str, int]) -> LoraConfig:
    """A config of scale α/r = 1 that selects just these modules, with these ranks."""
    common = Counter(rank.values()).most_common(1)[0][0]
    others = {re.escape(path): r for path, r in rank.items() if r != common}
    config = LoraConfig(
        r=common,
        lora_alpha=common,
        target_modules=sorted({module_name(path) for path in rank}),
        rank_pattern=others,
        alpha_pattern=dict(others),
    )
    if select(model, config).keys() != rank.keys():  # the last names match other modules too: use whole paths
        config = dataclasses.replace(config, target_modules=sorted(rank))
    return config
