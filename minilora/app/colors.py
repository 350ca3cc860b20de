"""HTML rendering of texts, with each character colored by its log-probability ratio between voices and base.

All text from users and models is escaped, and control characters are replaced by a visible placeholder.
"""

from __future__ import annotations

from html import escape

from minilora.app.writing import PageRequest
from minilora.messages import visible
from minilora.voices import LEVELS, ComparedText, spans


def texts(request: PageRequest, base: ComparedText, voices: ComparedText) -> str:
    """Return the texts of the base and of the voices as HTML, side by side on wide screens."""
    mix = " + ".join(f"{escape(name)} × {number(strength)}" for name, strength in request.strengths.items())
    panels = (("base", "The base", "no voice", base), ("voices", "The voices", mix or "every strength is 0", voices))
    return '<div class="texts">' + "".join(_panel(request.prompt, *panel) for panel in panels) + "</div>"


def _panel(prompt: str, kind: str, title: str, subtitle: str, text: ComparedText) -> str:
    return (
        f'<section class="panel {kind}" aria-label="{title}"><h3>{title} <small>{subtitle}</small></h3>'
        f'<p class="text"><span class="prompt">{escape(visible(prompt))}</span>'
        f'<span class="written">{colored(text)}</span></p></section>'
    )


def colored(text: ComparedText) -> str:
    """Return the text as HTML: adjacent characters of the same level share a span, and level 0 has no span."""
    return "".join(
        f'<span class="{_class(shade)}">{part}</span>' if shade else part for shade, part in spans(text.characters)
    )


def _class(shade: int) -> str:
    return f"more{shade}" if shade > 0 else f"less{-shade}"


def legend() -> str:
    """Return the legend of the colors, as HTML."""
    swatches = "".join(
        f'<span class="swatch {_class(shade) if shade else ""}">{_threshold(shade)}</span>' for shade in range(-3, 4)
    )
    return (
        '<p class="legend"><span>less likely with the voices</span> '
        f'<span class="scale" role="img" aria-label="colors from -3 to +3 nats">{swatches}</span> '
        "<span>more likely with the voices</span> "
        "<small>log p(voices) − log p(base) of each character, in nats: +0.5 means 1.6 times as likely as for the "
        "base, +1.5 means 4.5 times and +3 means 20 times.</small></p>"
    )


def _threshold(shade: int) -> str:
    """Return the ratio at which this shade begins, as text."""
    return f"{'+' if shade > 0 else '−'}{LEVELS[abs(shade) - 1]:g}" if shade else "0"


def number(value: float, style: str = "g") -> str:
    """Format a number with the minus sign U+2212, which is as wide as a plus sign, and zero without a sign."""
    text = format(value, style)
    return format(0.0, style.replace("+", "")) if float(text) == 0 else text.replace("-", "−")
