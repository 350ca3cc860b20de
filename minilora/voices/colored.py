"""Highlighting: characters colored by their log-probability ratio, voice to base, as HTML."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from itertools import groupby

from minilora.messages import visible

LEVELS = 0.5, 1.5, 3.0  # thresholds of the highlighting levels 1 to 3, in nats
OPACITY = 0.24, 0.46, 0.72
MORE, LESS = "230 126 34", "52 120 190"  # orange and blue, which differ in grayscale and for color-blind readers


def level(log_ratio: float) -> int:
    """Return the highlighting level of a log-ratio, from -3 (less likely than under the base) to 3 (more likely)."""
    size = sum(abs(log_ratio) >= least for least in LEVELS)
    return size if log_ratio > 0 else -size


def spans(characters: Iterable[tuple[str, float]]) -> Iterator[tuple[int, str]]:
    """Join adjacent characters of the same level; yields pairs of the level and the text, escaped for HTML."""
    for shade, group in groupby(characters, key=lambda pair: level(pair[1])):
        yield shade, escape(visible("".join(piece for piece, _ in group)))


def columns(prompt: str, titles: Sequence[str], texts: Sequence[Iterable[tuple[str, float]]]) -> str:
    """Return texts side by side as an HTML table for notebooks, which needs no style sheet."""
    style = "text-align:left; vertical-align:top; white-space:pre-wrap; font-family:monospace"
    head = "".join(f'<th style="text-align:left">{escape(title)}</th>' for title in titles)
    cells = "".join(
        f'<td style="{style}"><i>{escape(visible(prompt))}</i>{"".join(_colored(*span) for span in spans(text))}</td>'
        for text in texts
    )
    layout = "table-layout:fixed; width:100%"  # columns of equal width
    return f'<table style="{layout}"><thead><tr>{head}</tr></thead><tbody><tr>{cells}</tr></tbody></table>'


def _colored(shade: int, text: str) -> str:
    if not shade:
        return text
    color = MORE if shade > 0 else LESS
    return f'<span style="background:rgb({color} / {OPACITY[abs(shade) - 1]})">{text}</span>'
