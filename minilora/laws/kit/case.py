"""A test case of a law: it draws random inputs and checks results.

Hypothesis draws the sizes and the seed, and shrinks them when a law is broken. The array values come from a NumPy
generator with that seed. They are of unit scale (small values would hide mistakes), and integers in the simplest cases,
so that a counterexample can be worked out by hand.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from minilora.backend import Array

if TYPE_CHECKING:
    from hypothesis.strategies import DataObject


class Broken(AssertionError):
    """Raised when a law does not hold for a case. The message gives the expected and the actual value.

    `error` is the relative error; it is infinite for a wrong shape or dtype, NaN, a false condition, or an exception.
    """

    def __init__(self, message: str, error: float = math.inf) -> None:
        super().__init__(message)
        self.error = error


class Case:
    """One case in one dtype: the drawn values by name, and the largest relative error so far."""

    def __init__(self, data: DataObject, dtype: str, bound: float) -> None:
        from hypothesis import strategies

        self._data, self._strategies = data, strategies
        self.dtype, self.bound = np.dtype(dtype), bound
        self.drawn: dict[str, Any] = {}
        self.worst = 0.0
        self.rng = np.random.default_rng(data.draw(strategies.integers(0, 2**32 - 1)))
        self.whole_numbers = not data.draw(strategies.booleans())

    def size(self, name: str, low: int, high: int) -> int:
        """Draw an integer from `low` to `high`, both included; `low` is the simplest."""
        return self.note(name, self._data.draw(self._strategies.integers(low, high)))

    def choice(self, name: str, options: list[Any]) -> Any:
        """Draw one of `options`; the first is the simplest."""
        return self.note(name, self._data.draw(self._strategies.sampled_from(options)))

    def array(self, name: str, *shape: int) -> Array:
        """Draw an array of unit scale without zeros: standard normal, or ±1, ±2, ±3 in simple cases."""
        normal = self.rng.standard_normal(shape)
        signs = np.where(normal < 0, -1, 1)
        values = signs * self.rng.integers(1, 4, shape) if self.whole_numbers else normal
        return self.note(name, values.astype(self.dtype))

    def number(self, name: str, positive: bool = False) -> float:
        """Draw a nonzero number of unit scale, or a number from 1/2 to 8 if `positive`."""
        if positive:
            return self.note(name, float(self.rng.integers(1, 9) if self.whole_numbers else self.rng.uniform(0.5, 8)))
        return self.note(name, float(self.array(name, 1)[0]))

    def note(self, name: str, value: Any) -> Any:
        """Record `value` for the counterexample, and return it."""
        self.drawn[name] = value
        return value

    def equal(self, what: str, got: Any, want: Any) -> None:
        """Check that `got` equals `want` up to the law's bound, relative to max(1, max|want|)."""
        got, want = np.asarray(got), np.asarray(want)
        if got.shape != want.shape:
            raise Broken(f"{what} should have shape {want.shape}, got {got.shape}")
        scale = max(1.0, float(np.max(np.abs(want), initial=0.0)))
        error = float(np.max(np.abs(got.astype(np.float64) - want), initial=0.0)) / scale
        self._judge(error, f"{what} should be {_text(want)}, got {_text(got)}")

    def same(self, what: str, got: Any, want: Any) -> None:
        """Check that `got` is bit-for-bit identical to `want`, with the same shape and dtype."""
        got, want = np.asarray(got), np.asarray(want)
        if got.shape != want.shape or got.dtype != want.dtype:
            raise Broken(f"{what} should be {want.dtype} {want.shape}, got {got.dtype} {got.shape}")
        if got.tobytes() != want.tobytes():
            error = float(np.max(np.abs(got - want))) if got.dtype.kind == "f" else 1.0
            texts = _text(want, None), _text(got, None)  # with enough digits to tell them apart
            self._judge(max(error, 5e-324), f"{what} should be exactly {texts[0]}, got {texts[1]}")

    def at_most(self, what: str, got: float, limit: float) -> None:
        """Check that `got` is at most `limit`, up to the law's bound, relative to max(1, |limit|)."""
        excess = got - limit
        self._judge(
            0.0 if excess <= 0 else excess / max(1.0, abs(limit)), f"{what} should be at most {limit:g}, got {got:g}"
        )

    def true(self, what: str, holds: bool) -> None:
        """Check a condition; `what` is the message if it is false."""
        if not holds:
            raise Broken(what)

    def _judge(self, error: float, message: str) -> None:
        if not error <= self.bound:  # negated, so that NaN fails as well
            raise Broken(
                f"{message}\nerror {error:.2g}, bound {self.bound:g}", math.inf if math.isnan(error) else error
            )
        self.worst = max(self.worst, error)

    def __str__(self) -> str:
        """The drawn values, one array per line; all other values are together on the first line."""
        numbers = {name: value for name, value in self.drawn.items() if not isinstance(value, np.ndarray)}
        lines = [", ".join(f"{name} = {_short(value)}" for name, value in numbers.items())] if numbers else []
        lines += [f"{name} = {_text(value)}" for name, value in self.drawn.items() if name not in numbers]
        return "\n".join(lines)


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _text(array: Array, digits: int | None = 6) -> str:
    """Format an array on one line with up to `digits` decimal places; if None, with as many as an exact value needs."""
    mode: Any = "maxprec" if digits else "unique"
    text = np.array2string(array, precision=digits, floatmode=mode, separator=", ", threshold=60, max_line_width=10_000)
    return " ".join(text.split())
