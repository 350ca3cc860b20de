"""Texts side by side on a terminal, each character colored by its log-probability ratio between voice and base."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TypeAlias

from minilora.messages import visible
from minilora.voices import level

LEAST, MOST = 36, 120  # characters: minimum column width, where the terminal allows it, and maximum total width
SHADES = (223, 216, 208), (195, 153, 75)  # of the 256 terminal colors, from light to strong: orange and blue
Line: TypeAlias = list[tuple[str, float]]
"""Pieces of a text, each with its ratio in nats: positive ratios are marked in orange, negative ones in blue."""


@dataclass(frozen=True)
class Column:
    """A title of one or more lines, and the text below it."""

    title: str
    marks: Line


def side_by_side(columns: Sequence[Column], color: bool = False) -> str:
    """Lay out the columns: as many side by side as fit in the terminal, and the rest below."""
    width = min(shutil.get_terminal_size().columns, MOST)
    beside = max(1, min(len(columns), (width + 3) // (LEAST + 3)))
    each = (width + 3) // beside - 3
    bands = [_band(columns[i : i + beside], each, color) for i in range(0, len(columns), beside)]
    return "\n\n".join(bands)


def wants_color(choice: str) -> bool:
    """Return whether to use color, for "auto", "always" or "never".

    "auto" means color on a terminal, unless TERM is "dumb" or NO_COLOR (no-color.org) is set.
    """
    if choice == "auto":
        return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return choice == "always"


def _band(columns: Sequence[Column], width: int, color: bool) -> str:
    heads = [list(_lines([(column.title, 0.0)], width)) for column in columns]
    height = max(map(len, heads))
    cells = [
        [*head, *[[]] * (height - len(head)), [("-" * width, 0.0)], *_lines(column.marks, width)]
        for head, column in zip(heads, columns, strict=True)
    ]
    rows = zip_longest(*cells, fillvalue=[])
    return "\n".join(" | ".join(_cell(line, width, color) for line in row).rstrip() for row in rows)


def _lines(marks: Line, width: int) -> Iterator[Line]:
    """Wrap the text to lines of at most `width` characters, at a space where possible; keep the indentation."""
    line: Line = []
    for character, mark in ((c, mark) for text, mark in marks for c in visible(text)):
        if character != "\n":
            line.append((character, mark))
            continue
        yield from _wrapped(line, width)
        line = []
    yield from _wrapped(line, width)


def _wrapped(line: Line, width: int) -> Iterator[Line]:
    while len(line) > width:
        text = "".join(c for c, _ in line[: width + 1])
        space = text.rfind(" ", len(text) - len(text.lstrip()))
        cut, rest = (space, space + 1) if space > 0 else (width, width)
        yield line[:cut]
        line = line[rest:]
    yield line


def _cell(line: Line, width: int, color: bool) -> str:
    """Return one line of a column, padded with spaces to `width`."""
    text = "".join(_painted(c, mark) if color else c for c, mark in line)
    return text + " " * (width - sum(len(c) for c, _ in line))


def _painted(character: str, mark: float) -> str:
    shade = level(mark)
    return f"\x1b[30;48;5;{SHADES[shade < 0][abs(shade) - 1]}m{character}\x1b[0m" if shade else character
