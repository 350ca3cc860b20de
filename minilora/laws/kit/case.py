"""A case of a law: what it draws, and what it finds.

Hypothesis draws the sizes and the seed, and makes them small again when a law is broken; the numbers in the arrays come
from a generator with that seed. They are of unit scale (small values would hide mistakes), and in the simplest cases
whole, so that a counterexample can be worked out by hand.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from minilora.backend import Array

if TYPE_CHECKING:
    from hypothesis.strategies import DataObject


class Broken(AssertionError):
    """The law does not hold for this case; the message says what was expected, and what came.

    `error` is the relative error; infinite for a wrong shape, a plain fact that is none, or an exception.
    """

    def __init__(self, message: str, error: float = math.inf) -> None:
        super().__init__(message)
        self.error = error


class Case:
    """One case, in one dtype: the draws by name, and the largest relative error found so far."""

    def __init__(self, data: DataObject, dtype: str, bound: float) -> None:
        from hypothesis import strategies

        self._data, self._strategies = data, strategies
        self.dtype, self.bound = np.dtype(dtype), bound
        self.drawn: dict[str, Any] = {}
        self.worst = 0.0
        self.rng = np.random.default_rng(data.draw(strategies.integers(0, 2**32 - 1)))
        self.whole_numbers = not data.draw(strategies.booleans())

    def size(self, name: str, low: int, high: int) -> int:
        """A whole number from low to high, low being the simplest."""
        return self.note(name, self._data.draw(self._strategies.integers(low, high)))

    def choice(self, name: str, options: list[Any]) -> Any:
        """One of `options`, the first being the simplest."""
        return self.note(name, self._data.draw(self._strategies.sampled_from(options)))

    def array(self, name: str, *shape: int) -> Array:
        """An array of unit scale, without zeros: normal, or in simple cases ±1, ±2, ±3."""
        normal = self.rng.standard_normal(shape)
        signs = np.where(normal < 0, -1, 1)
        values = signs * self.rng.integers(1, 4, shape) if self.whole_numbers else normal
        return self.note(name, values.astype(self.dtype))

    def number(self, name: str, positive: bool = False) -> float:
        """A number of unit scale, not zero; from 1/2 to 8 when it should be positive."""
        if positive:
            return self.note(name, float(self.rng.integers(1, 9) if self.whole_numbers else self.rng.uniform(0.5, 8)))
        return self.note(name, float(self.array(name, 1)[0]))

    def note(self, name: str, value: Any) -> Any:
        """Keep `value` for the counterexample."""
        self.drawn[name] = value
        return value

    def equal(self, what: str, got: Any, want: Any) -> None:
        """Hold `got` to be `want` up to the law's bound, relative to want's largest entry or 1."""
        got, want = np.asarray(got), np.asarray(want)
        if got.shape != want.shape:
            raise Broken(f"{what} should have shape {want.shape}, has {got.shape}")
        scale = max(1.0, float(np.max(np.abs(want), initial=0.0)))
        error = float(np.max(np.abs(got.astype(np.float64) - want), initial=0.0)) / scale
        self._judge(error, f"{what} should be {_text(want)}, is {_text(got)}")

    def same(self, what: str, got: Any, want: Any) -> None:
        """Hold `got` to have exactly the bits of `want`."""
        got, want = np.asarray(got), np.asarray(want)
        if got.shape != want.shape or got.dtype != want.dtype:
            raise Broken(f"{what} should be {want.dtype} {want.shape}, is {got.dtype} {got.shape}")
        if got.tobytes() != want.tobytes():
            error = float(np.max(np.abs(got - want))) if got.dtype.kind == "f" else 1.0
            texts = _text(want, None), _text(got, None)  # with as many digits as tell them apart
            self._judge(max(error, 5e-324), f"{what} should be, bit for bit, {texts[0]}, is {texts[1]}")

    def at_most(self, what: str, got: float, limit: float) -> None:
        """Hold `got` to be no more than `limit`, up to the law's bound relative to the limit or 1."""
        excess = got - limit
        self._judge(
            0.0 if excess <= 0 else excess / max(1.0, abs(limit)), f"{what} should be at most {limit:g}, is {got:g}"
        )

    def true(self, what: str, holds: bool) -> None:
        """Hold a plain fact."""
        if not holds:
            raise Broken(what)

    def _judge(self, error: float, message: str) -> None:
        if not error <= self.bound:  # written so that not a number is no rounding error
            raise Broken(
                f"{message}\nerror {error:.2g}, bound {self.bound:g}", math.inf if math.isnan(error) else error
            )
        self.worst = max(self.worst, error)

    def __str__(self) -> str:
        """The draws, one a line; small numbers together on the first."""
        numbers = {name: value for name, value in self.drawn.items() if not isinstance(value, np.ndarray)}
        lines = [", ".join(f"{name} = {_short(value)}" for name, value in numbers.items())] if numbers else []
        lines += [f"{name} = {_text(value)}" for name, value in self.drawn.items() if name not in numbers]
        return "\n".join(lines)


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _text(array: Array, digits: int | None = 6) -> str:
    """An array on one line, with as many digits as one reads; with None, with as many as it takes to be exact."""
    mode: Any = "maxprec" if digits else "unique"
    text = np.array2string(array, precision=digits, floatmode=mode, separator=", ", threshold=60, max_line_width=10_000)
    return " ".join(text.split())
