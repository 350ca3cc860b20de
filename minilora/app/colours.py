"""A text as HTML, coloured by how much more or less the voices expected each character than the base did.

Everything that a person or a model wrote is escaped here, and characters that a page would obey are made visible.
"""

from __future__ import annotations

from html import escape
from itertools import groupby

from minilora.app.writing import Wish
from minilora.messages import visible
from minilora.voices import LEVELS, Text, level


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
    for shade, group in groupby(text.characters, key=lambda pair: level(pair[1])):
        characters = escape(visible("".join(piece for piece, _ in group)))
        parts.append(f'<span class="{_class(shade)}">{characters}</span>' if shade else characters)
    return "".join(parts)


def _class(shade: int) -> str:
    return f"more{shade}" if shade > 0 else f"less{-shade}"


def legend() -> str:
    """What the colours mean."""
    swatches = "".join(
        f'<span class="swatch {_class(shade) if shade else ""}">{_threshold(shade)}</span>' for shade in range(-3, 4)
    )
    return (
        '<p class="legend"><span>less likely with the voices</span> '
        f'<span class="scale" role="img" aria-label="the colours, from -3 to +3 nats">{swatches}</span> '
        "<span>more likely with the voices</span> "
        "<small>log p(voices) − log p(base) of each character, in nats: +0.5 is 1.6 times as likely as for the base, "
        "+1.5 is 4.5 times, +3 is 20 times.</small></p>"
    )


def _threshold(shade: int) -> str:
    """From which ratio on a letter has this shade."""
    return f"{'+' if shade > 0 else '−'}{LEVELS[abs(shade) - 1]:g}" if shade else "0"


def number(value: float, style: str = "g") -> str:
    """As `format` has it, with a minus that is as wide as a plus, and none before 0."""
    text = format(value, style)
    return format(0.0, style.replace("+", "")) if float(text) == 0 else text.replace("-", "−")
