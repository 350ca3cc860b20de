"""Mixing: combine several adapters into a new one. With weights wᵢ, scales sᵢ and factors Aᵢ, Bᵢ:

        cat      ΔW = Σ wᵢ sᵢ Bᵢ Aᵢ                      exact; the new rank is the sum of the ranks
        svd      best rank-r approximation of that sum   discards all but the r largest singular values
        linear   ΔW = Σᵢⱼ √(wᵢsᵢ) √(wⱼsⱼ) Bᵢ Aⱼ            requires equal ranks; includes cross terms i ≠ j

The names follow PEFT's `add_weighted_adapter`. To combine adapters without creating a new one, activate them together:
`set_active(model, {"bard": 0.7, "recipe": 0.3})`, which is also exact.
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
from minilora.messages import html_table, shown
from minilora.nn import Module
from minilora.nn.choice import strengths
from minilora.nn.module import AdapterError, check_module

Pair: TypeAlias = tuple[Array, Array]
"""A (r, in) and B (out, r), in float64."""

WAYS = "cat", "linear", "svd"


@dataclass(frozen=True)
class Mixture:
    """The result of `mix`.

    Attributes
    ----------
    adapter, how : the arguments of `mix`
    rank : rank of the new adapter, by module
    error : relative error ‖ΔW - Σ wᵢ ΔWᵢ‖ / ‖Σ wᵢ ΔWᵢ‖ in the Frobenius norm, by module; infinite if the
        weighted sum is zero but ΔW is not
    """

    adapter: str
    how: str
    rank: dict[str, int]
    error: dict[str, float]

    @property
    def kept(self) -> dict[str, float]:
        """For "svd", the fraction of the energy ‖Σ wᵢ ΔWᵢ‖² that is kept, 1 - error², by module."""
        return {path: 1 - error**2 for path, error in self.error.items()}

    def __repr__(self) -> str:
        return f"Mixture({self})"

    def _repr_html_(self) -> str:
        rows = ((path, self.rank[path], f"{self.error[path]:.2g}", f"{self.kept[path]:.1%}") for path in self.rank)
        return html_table(("module", "rank", "error", "energy kept"), rows, str(self))

    def __str__(self) -> str:
        low, high = min(self.rank.values()), max(self.rank.values())
        ranks = str(low) if low == high else f"{low} to {high}"
        made = f"{self.adapter}: {self.how}, rank {ranks} in {len(self.rank)} modules"
        worst = max(self.error, key=lambda path: self.error[path])
        if not self.error[worst]:
            return f"{made}; equal to the weighted sum"
        if math.isinf(self.error[worst]):
            return f"{made}; the weighted sum is zero, but the mixture is not ({worst})"
        energy = f", {self.kept[worst]:.1%} of the energy kept" if self.how == "svd" else ""
        return f"{made}; differs from the weighted sum by at most {self.error[worst]:.2g} ‖ΔW‖{energy} ({worst})"


def mix(
    model: Module, weights: Mapping[str, float], adapter: str = "mixed", how: str = "cat", r: int | None = None
) -> Mixture:
    """Attach a new adapter that is a weighted mixture of attached adapters, and make it the active one.

    Parameters
    ----------
    weights : {adapter name: weight}; weights can be any finite numbers
    adapter : name of the new adapter
    how : "cat" concatenates the A's and the B's: exact, and as large as all the adapters together. "svd" is the best
        rank-r approximation of the weighted sum (Eckart & Young 1936). "linear" adds up the A's and the B's, each
        multiplied by √|wᵢsᵢ|, and the A's also by the sign of wᵢsᵢ. It requires equal ranks, and because of its cross
        terms Bᵢ Aⱼ, it generally differs from the weighted sum unless only one weight is nonzero
    r : rank for "svd"; by default the largest rank of the adapters in each module. A module's rank is limited by its
        dimensions and by the sum of the ranks

    Raises AdapterError, before the model is changed, if an adapter is unknown or has no factors A and B, a weight is
    not finite or too large, ranks differ with "linear", `how` or `r` is invalid, the name is taken or invalid, or
    adapters are merged.
    """
    check_module(model)
    _check(weights, how, r)
    weights = strengths(weights, model.adapters)
    made: dict[str, Pair] = {}
    error: dict[str, float] = {}
    for path, host in hosts(model).items():
        terms = {name: _term(host, name, w, path) for name, w in weights.items() if name in host.updates}
        if terms:
            exact = _cat(terms)
            _refuse_not_finite(exact, path, model.dtype)
            made[path] = _make(how, exact, terms, r)
            error[path] = _distance(made[path], exact)
    rank = {path: len(A) for path, (A, _) in made.items()}
    place(model, _config(model, rank), adapter, {path: {"lora_A": A, "lora_B": B} for path, (A, B) in made.items()})
    return Mixture(adapter, how, rank, error)


def _check(weights: Mapping[str, float], how: str, r: int | None) -> None:
    """Validate the arguments that do not depend on the model."""
    if not isinstance(weights, Mapping) or not weights:
        raise AdapterError(
            f"expected a weight for each adapter, such as {{'bard': 0.7, 'recipe': 0.3}}, got {shown(weights)}"
        )
    if not isinstance(how, str) or how not in WAYS:
        raise AdapterError(f"expected `how` to be one of {', '.join(map(repr, WAYS))}, got {shown(how)}")
    if r is not None and how != "svd":
        raise AdapterError(f"r can be set only for how='svd', got r={r!r} with how={how!r}")
    if r is not None and (not isinstance(r, Integral) or isinstance(r, bool) or r < 1):
        raise AdapterError(f"expected the rank r to be a positive integer, got {shown(r)}")


def _refuse_not_finite(matrices: Iterable[Array], path: str, dtype: np.dtype) -> None:
    """Raise AdapterError if a mixture overflows the model's dtype."""
    with np.errstate(over="ignore"):
        if not all(np.isfinite(M.astype(dtype)).all() for M in matrices):
            raise AdapterError(f"the weights are too large: the mixture at {path} is not finite in {dtype}")


class Term(NamedTuple):
    """The term wᵢ ΔWᵢ of one module: A (r, in) and B (out, r) in float64, and `scale`, the product wᵢ sᵢ."""

    A: Array
    B: Array
    scale: float


def _term(host: AdaptedLinear, name: str, weight: float, path: str) -> Term:
    """Return one adapter's term, in float64 on the CPU, so that the mixture is rounded only once, at the end."""
    factors = host.updates[name].factors(host.base)
    if factors is None:
        raise AdapterError(
            f"{name!r} cannot be mixed: at {path} it has no factors A and B; activate the adapters together instead "
            "(lora.set_active(model, {name: weight, ...}))"
        )
    A, B = (to_host(M.data).astype(np.float64) for M in (factors.A, factors.B))
    return Term(A, B, weight * factors.scale)


def _make(how: str, exact: Pair, terms: dict[str, Term], r: int | None) -> Pair:
    """Return the mixture for one module; `exact` has the factors of the weighted sum."""
    if how == "cat":
        return exact
    if how == "linear":
        return _linear(terms)
    return _nearest(*exact, r or max(len(term.A) for term in terms.values()))


def _cat(terms: dict[str, Term]) -> Pair:
    """Stack the A's vertically, and the B's, each multiplied by its scale wᵢ sᵢ, horizontally."""
    return np.concatenate([t.A for t in terms.values()]), np.concatenate(
        [t.scale * t.B for t in terms.values()], axis=1
    )


def _linear(terms: dict[str, Term]) -> Pair:
    """Return Σ √|wᵢsᵢ| Aᵢ and Σ √|wᵢsᵢ| Bᵢ, with the sign of wᵢsᵢ applied to Aᵢ, as in PEFT."""
    ranks = {name: len(term.A) for name, term in terms.items()}
    if len(set(ranks.values())) > 1:
        raise AdapterError(f"'linear' requires adapters of equal rank, got {ranks}; use 'cat' or 'svd'")
    A = sum(math.copysign(math.sqrt(abs(t.scale)), t.scale) * t.A for t in terms.values())
    B = sum(math.sqrt(abs(t.scale)) * t.B for t in terms.values())
    return np.asarray(A), np.asarray(B)


def _nearest(A: Array, B: Array, r: int) -> Pair:
    """Return factors of B A truncated to its r largest singular values σ, with √σ in each factor."""
    left, values, right = thin_svd(A, B)
    roots = np.sqrt(values[:r])
    return roots[:, None] * right[:r], left[:, :r] * roots  # (r, in), (out, r)


def _distance(made: Pair, exact: Pair) -> float:
    """Return ‖B A - B' A'‖ / ‖B' A'‖, where A', B' are `exact`.

    Norms within rounding error count as zero: if the adapters cancel, only rounding error remains.
    """
    (A, B), (A_exact, B_exact) = made, exact
    rounding = 1e-12 * np.linalg.norm(A_exact) * np.linalg.norm(B_exact)
    norm = np.linalg.norm(singular_values(*exact))
    both = np.concatenate([A, A_exact]), np.concatenate([B, -B_exact], axis=1)
    difference = np.linalg.norm(singular_values(*both))
    if difference <= rounding:
        return 0.0
    return float(difference / norm) if norm > rounding else math.inf


def _config(model: Module, rank: dict[str, int]) -> LoraConfig:
    """Return a config with scale α/r = 1 that selects exactly these modules, with these ranks."""
    common = Counter(rank.values()).most_common(1)[0][0]
    others = {re.escape(path): r for path, r in rank.items() if r != common}
    config = LoraConfig(
        r=common,
        lora_alpha=common,
        target_modules=sorted({module_name(path) for path in rank}),
        rank_pattern=others,
        alpha_pattern=dict(others),
    )
    if select(model, config).keys() != rank.keys():  # the names also match other modules: use full paths
        config = dataclasses.replace(config, target_modules=sorted(rank))
    return config
