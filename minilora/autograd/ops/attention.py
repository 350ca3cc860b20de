"""Causal attention with grouped heads, computed in blocks of query rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from minilora.autograd.operation import op
from minilora.backend import Array

BLOCK = 64
"""Query rows per block: enough for efficient matrix products, and few enough to skip most of the masked scores."""


@op
def causal_attention(q: Array, k: Array, v: Array) -> Any:
    """softmax(q kᵀ / √D + mask) v, where the mask hides the keys after a query's position (Vaswani et al. 2017, eq. 1).

    q is (B, H, T, D); k and v are (B, G, S, D) with S ≥ T and H a multiple of G: each of the G key heads serves
    H/G query heads (Ainslie et al. 2023). The queries belong to the last T of the S positions, so keys may come from a
    cache. Returns (B, H, T, D).

    A block of query rows needs only the keys up to the position of its last row, so nearly half of the scores are never
    computed when S = T. The mask (-inf, which gives future positions a weight of exactly 0) is needed only on the
    square of scores between the queries of a block and the keys at the same positions.

    The attention weights are kept unnormalized, as E = exp(scores - row maximum). Instead of E, the output and the
    incoming gradient, which are usually smaller, are divided by the row sums l of E: output = E V / l. With P = E / l
    and g the incoming gradient: dV = Pᵀ g, dP = g Vᵀ, dS = P (dP - Σ dP P), dQ = dS K / √D, dK = dSᵀ Q / √D. The row
    sum Σ dP P equals g · output.
    """
    B, H, T, D = q.shape
    G, S = k.shape[1], k.shape[2]
    if k.shape != v.shape or k.shape[0] != B or k.shape[3] != D or H % G or S < T:
        raise ValueError(
            f"causal_attention() expects q (B, H, T, D) and k, v (B, G, S, D), got {q.shape}, {k.shape}, {v.shape}"
        )
    scale = 1 / float(D) ** 0.5
    group = (B, G, H // G)
    qs = (q * scale).reshape(*group, T, D)  # (B, H, T, D) -> (B, G, H/G, T, D)
    ks, vs = k[:, :, None], v[:, :, None]  # (B, G, 1, S, D), broadcast over the group
    # The memory layout of the output is (B, T, H, D), so that joining the heads afterwards needs no copy.
    out = np.empty_like(q, shape=(B, T, H, D), order="C").transpose(0, 2, 1, 3)
    outs = out.reshape(*group, T, D)
    totals = np.empty_like(q, shape=(*group, T, 1))
    blocks = [(slice(start, min(start + BLOCK, T)), S - T + min(start + BLOCK, T)) for start in range(0, T, BLOCK)]
    weights = []
    for rows, seen in blocks:
        with np.errstate(over="ignore", invalid="ignore"):  # computed again below
            e = qs[..., rows, :] @ np.swapaxes(ks[..., :seen, :], -1, -2)  # (B, G, H/G, rows, seen)
            e[..., S - T + rows.start :] += _future(e.shape[-2], q)
            top = e.max(axis=-1, keepdims=True)
        if not np.isfinite(top).all():
            e, top = _wide_scores(qs[..., rows, :], ks[..., :seen, :], S - T + rows.start)
        e -= top
        np.exp(e, out=e)
        totals[..., rows, 0] = np.einsum("...s->...", e)  # faster than `sum` for short rows
        np.matmul(e, vs[..., :seen, :], out=outs[..., rows, :])
        weights.append(e)
    outs /= totals

    def pull(g: Array) -> tuple[Array, Array | None, Array | None]:
        gs = g.reshape(*group, T, D) / totals
        dots = np.einsum("...d,...d->...", gs, outs)[..., None]
        dq = np.empty_like(g, shape=(B, T, H, D), order="C").transpose(0, 2, 1, 3)
        dqs = dq.reshape(*group, T, D)
        dk: Array | None = None  # allocated by the last block, which attends to all positions; others add to it
        dv: Array | None = None
        for (rows, seen), e in zip(reversed(blocks), reversed(weights), strict=True):
            dv = _add_to(dv, _over_group(np.swapaxes(e, -1, -2) @ gs[..., rows, :]))
            ds = gs[..., rows, :] @ np.swapaxes(vs[..., :seen, :], -1, -2)
            ds -= dots[..., rows, :]
            ds *= e
            np.matmul(ds, ks[..., :seen, :], out=dqs[..., rows, :])
            dk = _add_to(dk, _over_group(np.swapaxes(ds, -1, -2) @ qs[..., rows, :]))
        dq *= scale
        return dq, dk, dv

    return out, pull


def _future(n: int, like: Array) -> Array:
    """The (n, n) mask: -inf above the diagonal, 0 elsewhere."""
    return np.triu(np.full_like(like, -np.inf, shape=(n, n)), k=1)


def _wide_scores(q: Array, k: Array, first: int) -> tuple[Array, Array]:
    """The masked scores minus their row maximum, and zeros, for scores that overflow: computed in float64."""
    scores = q.astype(np.float64) @ np.swapaxes(k, -1, -2).astype(np.float64)
    scores[..., first:] += _future(scores.shape[-2], scores)
    scores -= scores.max(axis=-1, keepdims=True)
    with np.errstate(over="ignore"):
        scores = scores.astype(q.dtype)
    return scores, np.zeros_like(scores[..., :1])


def _add_to(total: Array | None, part: Array) -> Array:
    """Add `part`, which has fewer positions, to the first positions of `total`. If `total` is None, return `part`."""
    if total is None:
        return part
    total[:, :, : part.shape[2]] += part
    return total


def _over_group(x: Array) -> Array:
    """Sum over the query heads that share a key head: (B, G, H/G, S, D) -> (B, G, S, D)."""
    return x[:, :, 0] if x.shape[2] == 1 else x.sum(axis=2)
