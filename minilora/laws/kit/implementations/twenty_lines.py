"""A LoRA layer in twenty lines of NumPy, as an example of a class that can be checked: `check(TwentyLines)`."""

from __future__ import annotations

from minilora.backend import Array


class TwentyLines:
    """h = W x + s B A x on NumPy arrays. W is frozen: it has no gradient, and `step` does not change it."""

    def __init__(self, W: Array, A: Array, B: Array, alpha: float, r: int) -> None:
        self.original, self.weight = W, W
        self.A, self.B, self.scale = A, B, alpha / r

    def forward(self, x: Array) -> Array:
        h = x @ self.weight.T
        if self.weight is self.original:  # otherwise the weight already includes the update
            h = h + self.scale * (x @ self.A.T) @ self.B.T
        return h

    def gradients(self, x: Array, g: Array) -> dict[str, Array]:
        back = self.scale * g @ self.B  # ∂L/∂(A x)
        return {"A": back.T @ x, "B": self.scale * g.T @ (x @ self.A.T), "x": g @ self.original + back @ self.A}

    def step(self, x: Array, g: Array, lr: float) -> None:
        found = self.gradients(x, g)
        self.A, self.B = self.A - lr * found["A"], self.B - lr * found["B"]

    def merge(self) -> None:
        self.weight = self.original + self.scale * self.B @ self.A

    def unmerge(self) -> None:
        self.weight = self.original
