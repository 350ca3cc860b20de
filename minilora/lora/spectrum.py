"""What is known of a product B A by its thin factors alone: it is never formed.

With B = Q₁R₁ and Aᵀ = Q₂R₂, B A = Q₁ (R₁R₂ᵀ) Q₂ᵀ: its singular values are those of a small matrix, and its singular
vectors are that matrix's, turned by Q₁ and Q₂.
"""

from __future__ import annotations

import numpy as np

from minilora.backend import Array, to_host


def thin_svd(A: Array, B: Array) -> tuple[Array, Array, Array]:
    """U (out, k), singular values (k,), largest first, and Vᵀ (k, in) of B A, for A (r, in) and B (out, r); float64,
    on the host.
    """
    A, B = to_host(A), to_host(B)
    size_A, size_B = (float(np.abs(M).max(initial=0)) or 1.0 for M in (A, B))  # no overflow on the way
    q_in, r_in = np.linalg.qr(A.T.astype(np.float64) / size_A)
    q_out, r_out = np.linalg.qr(B.astype(np.float64) / size_B)
    left, values, right = np.linalg.svd(r_out @ r_in.T, full_matrices=False)
    return q_out @ left, values * size_A * size_B, right @ q_in.T


def singular_values(A: Array, B: Array) -> Array:
    """The singular values of B A, largest first."""
    return thin_svd(A, B)[1]
