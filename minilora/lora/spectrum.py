"""The singular value decomposition of B A, computed from the thin factors without forming B A.

With the QR decompositions B = Q₁R₁ and Aᵀ = Q₂R₂, B A = Q₁ (R₁R₂ᵀ) Q₂ᵀ. The singular values of B A are those of the
small matrix R₁R₂ᵀ, and its singular vectors are those of R₁R₂ᵀ, multiplied by Q₁ (left) and Q₂ (right).
"""

from __future__ import annotations

import numpy as np

from minilora.backend import Array, to_host


def thin_svd(A: Array, B: Array) -> tuple[Array, Array, Array]:
    """Return the thin SVD of B A for A (r, in) and B (out, r), as NumPy arrays in float64.

    These are U (out, k), the singular values (k,) in descending order, and Vᵀ (k, in), where k = min(out, in, r).
    """
    A, B = to_host(A), to_host(B)
    size_A, size_B = (float(np.abs(M).max(initial=0)) or 1.0 for M in (A, B))  # prevents overflow
    q_in, r_in = np.linalg.qr(A.T.astype(np.float64) / size_A)
    q_out, r_out = np.linalg.qr(B.astype(np.float64) / size_B)
    left, values, right = np.linalg.svd(r_out @ r_in.T, full_matrices=False)
    return q_out @ left, values * size_A * size_B, right @ q_in.T


def singular_values(A: Array, B: Array) -> Array:
    """Return the singular values of B A in descending order, in float64."""
    return thin_svd(A, B)[1]
