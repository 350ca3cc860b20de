"""A text as HTML, coloured by how much more or less the voices expected each character than the base did.

Everything that a person or a model wrote is escaped here, and characters that a page would obey are made visible.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from itertools import groupby

from minilora.app.writing import Wish
from minilora.data.tokenizer import visible
from minilora.voices import Text

LEVELS = 0.25, 0.75, 1.5, 3.0  # nats: from here on a character has a colour, and deeper ones


def texts(wish: Wish, base: Text, voices: Text) -> str:
    """Both texts, side by side where there is room."""
    mix = " + ".join(f"{escape(name)} × {number(strength)}" for name, strength in wish.strengths.items())
    panels = (("base", "The base", "no voice", base), ("voices", "The voices", mix or "every strength is 0", voices))
    return '<div class="texts">' + "".join(_panel(wish.prompt, *panel) for panel in panels) + "</div>"


def _panel(prompt: str, kind: str, title: str, subtitle: str, text: Text) -> str:
    return (
        f'<section class="panel {kind}" aria-label="{title}"><h3>{title} <small>{subtitle}</small></h3>'
        f'<p class="text"><span class="prompt">{escape(visible(prompt))}</span>'
        f'<span class="written">{coloured(text)}</span></p></section>'
    )


def coloured(text: Text) -> str:
    """The letters as HTML: neighbours of one level share one span, and level 0 has none."""
    parts = []
    for level, group in groupby(_characters(text), key=lambda pair: _level(pair[1])):
        characters = escape(visible("".join(piece for piece, _ in group)))
        parts.append(f'<span class="{_class(level)}">{characters}</span>' if level else characters)
    return "".join(parts)


def _characters(text: Text) -> Iterator[tuple[str, float]]:
    """Each character with its ratio in nats: where it takes several bytes, the sum of theirs."""
    ratio = 0.0
    for letter in text.letters:
        ratio += letter.ratio
        if letter.text:
            yield letter.text, ratio
            ratio = 0.0


def _level(ratio: float) -> int:
    """0 for about the same; 1 to 4 where the voices expected it more, -1 to -4 where the base did."""
    size = sum(abs(ratio) >= least for least in LEVELS)
    return size if ratio > 0 else -size


def _class(level: int) -> str:
    return f"more{level}" if level > 0 else f"less{-level}"


def legend() -> str:
    """What the colours mean."""
    swatches = "".join(
        f'<span class="swatch {_class(level)}">{sign}{LEVELS[abs(level) - 1]:g}</span>'
        for sign, levels in (("−", (-4, -3, -2, -1)), ("+", (1, 2, 3, 4)))
        for level in levels
    )
    return (
        '<p class="legend"><span>the base expected it more</span> '
        f'<span class="scale" role="img" aria-label="the colours, from -3 to +3 nats">{swatches}</span> '
        "<span>the voices take over</span> "
        "<small>in nats: log p(voices) − log p(base). At +1 a character was e ≈ 2.7 times as likely, at +3 20 times."
        "</small></p>"
    )


def number(value: float, style: str = "g") -> str:
    """As `format` has it, with a minus that is as wide as a plus, and none before 0."""
    text = format(value, style)
    return format(0.0, style.replace("+", "")) if float(text) == 0 else text.replace("-", "−")
