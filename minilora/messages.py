"""Untrusted or long text, made safe and short for a message or a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

LONGEST_SHOWN = 80
"""Characters of a value in a message."""


def shown(value: Any) -> str:
    """The repr of a value, cut to 80 characters."""
    text = repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"


def one_line(text: str) -> str:
    """Text on one line, with every control character replaced by a space."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def visible(text: str) -> str:
    """Text with every control character but the newline replaced by `·`.

    An untrained model writes any byte, and some bytes move a terminal's cursor or change its colours.
    """
    return "".join(c if c.isprintable() or c == "\n" else "·" for c in text)


def some(names: Sequence[str], most: int = 1) -> str:
    """The first `most` names, and how many more there are: `a, b and 4 more`."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def span(numbers: Iterable[float]) -> str:
    """The smallest and the largest of some numbers: `4 to 8`, or `8` if they are equal."""
    known = list(numbers)
    low, high = min(known), max(known)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"
