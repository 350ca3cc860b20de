"""Small charts as HTML and SVG: the style meter, what could have come next, and the curve of a voice that learns.

Each number stands beside its bar as text, so that nothing depends on seeing colours.
"""

from __future__ import annotations

from html import escape

import numpy as np

from minilora.app.colours import number
from minilora.app.learning import Progress
from minilora.data.tokenizer import visible
from minilora.voices import Text

MARKS = {10: "⏎", 32: "␣"}
LONGEST_BAR = 3.0  # nats per character that fill a meter
LEFT, RIGHT, TOP, BOTTOM = 46, 470, 12, 216  # the curve's axes, in the units of its view box, 480 × 256


def meter(text: Text) -> str:
    """The style meter, and where several voices act or one acts at another strength than 1, each voice's own."""
    if not text.letters:
        return ""
    rows = [_meter_row("style meter", text.meter)]
    if text.strengths and list(text.strengths.values()) != [1.0]:
        rows += [_meter_row(f"{escape(name)} alone", value) for name, value in text.meters.items()]
    return f'<table class="meter"><caption>How far from the base, on average</caption>{"".join(rows)}</table>'


def _meter_row(label: str, value: float) -> str:
    side = "more" if value >= 0 else "less"
    return (
        f'<tr><th scope="row">{label}</th><td>{_bar(side, abs(value) / LONGEST_BAR)}</td>'
        f"<td>{number(value, '+.2f')} nats per character</td></tr>"
    )


def next_characters(text: Text, count: int = 10) -> str:
    """What the base and the voices expected at the last place of `text`: their `count` likeliest characters."""
    if not text.letters:
        return ""
    last, before = text.letters[-1], "".join(letter.text for letter in text.letters[:-1])
    p, base = np.exp(last.log_p), np.exp(last.base_log_p)  # (V,)
    likeliest = np.argsort(-np.maximum(p, base), kind="stable")[:count]
    order = sorted((int(token) for token in likeliest), key=lambda token: -p[token])
    rows = "".join(_next_row(token, float(base[token]), float(p[token]), last.text) for token in order)
    context = escape(visible("…" + before[-16:])).replace("\n", "⏎").replace(" ", "␣")
    return (
        f'<table class="next"><caption>What the base and the voices expected next, after “{context}”</caption>'
        f'<thead><tr><th scope="col">next</th><th scope="col">base</th><th scope="col">voices</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )


def _next_row(token: int, base: float, p: float, chosen: str) -> str:
    mark = ' class="chosen"' if chosen == chr(token) else ""
    cells = "".join(
        f"<td>{_bar(side, share)}<span>{100 * share:.1f} %</span></td>" for side, share in (("less", base), ("more", p))
    )
    note = " <small>chosen</small>" if mark else ""
    return f'<tr{mark}><th scope="row"><kbd>{character(token)}</kbd>{note}</th>{cells}</tr>'


def character(token: int) -> str:
    """How a byte is shown: as itself, a space and a newline by their signs, any other in hexadecimal."""
    return MARKS.get(token) or (escape(chr(token)) if 32 < token < 127 else f"0x{token:02X}")


def _bar(side: str, share: float) -> str:
    return f'<i class="bar {side}" style="--share: {min(share, 1.0):.4f}" aria-hidden="true"></i>'


def curve(progress: Progress) -> str:
    """The losses so far over all steps to come, as an SVG picture with its numbers as text."""
    losses, held_out = progress.losses, progress.evaluations
    values = [*losses, *(loss for _, loss in held_out)]
    low, high = np.floor(2 * min(values)) / 2, np.ceil(2 * max(values)) / 2
    high = max(high, low + 0.5)

    def place(step: float, loss: float) -> str:
        x = LEFT + (RIGHT - LEFT) * step / progress.iters
        return f"{x:.1f},{BOTTOM - (BOTTOM - TOP) * (loss - low) / (high - low):.1f}"

    def points(pairs: list[tuple[int, float]]) -> str:
        return " ".join(place(step, loss) for step, loss in pairs)

    dots = "".join('<circle r="3.5" cx="{}" cy="{}"/>'.format(*place(*pair).split(",")) for pair in held_out)
    return (
        f'<figure class="curve"><svg viewBox="0 0 480 256" role="img" aria-label="{progress}">'
        f"{_axes(low, high, progress.iters)}"
        f'<polyline class="training" points="{points(list(enumerate(losses, 1)))}"/>'
        f'<g class="held-out"><polyline points="{points(held_out)}"/>{dots}</g></svg>'
        '<figcaption><span class="training">training text</span> <span class="held-out">held-out text</span>'
        "</figcaption></figure>"
    )


def _axes(low: float, high: float, iters: int) -> str:
    """Lines and labels: a loss every 0.5 nats, or 1 where the axis is long, and the first, middle and last step."""
    spacing = 0.5 if high - low <= 3 else 1.0
    parts = []
    for loss in np.arange(low, high + 0.01, spacing):
        y = BOTTOM - (BOTTOM - TOP) * (loss - low) / (high - low)
        parts.append(f'<line x1="{LEFT}" x2="{RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{loss:.1f}</text>')
    for step, anchor in ((0, "start"), (iters // 2, "middle"), (iters, "end")):
        x = LEFT + (RIGHT - LEFT) * step / iters
        parts.append(f'<text x="{x:.1f}" y="{BOTTOM + 16}" text-anchor="{anchor}">{step}</text>')
    middle = (TOP + BOTTOM) / 2
    parts.append(f'<text x="{(LEFT + RIGHT) / 2}" y="{BOTTOM + 32}" text-anchor="middle">step</text>')
    turned = f'transform="rotate(-90 12 {middle})" text-anchor="middle"'
    parts.append(f'<text x="12" y="{middle}" {turned}>loss, nats per character</text>')
    return f'<g class="axes">{"".join(parts)}</g>'
