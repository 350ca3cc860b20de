"""Small HTML charts: the style meter and the next-character probabilities.

Each bar is accompanied by its value as text, so the charts can be read without seeing colors.
"""

from __future__ import annotations

from html import escape

import numpy as np

from minilora.app.colors import number
from minilora.messages import visible
from minilora.voices import ComparedText

MARKS = {10: "⏎", 32: "␣"}
LONGEST_BAR = 3.0  # nats per character at which the bar of a meter is full


def meter(text: ComparedText) -> str:
    """Return the style meter of a text and, for a mixture, that of each voice separately."""
    if not text.tokens:
        return ""
    rows = [_meter_row("style meter", text.meter)]
    if len(text.strengths) > 1:
        rows += [_meter_row(f"{escape(name)} only", value) for name, value in text.meters.items()]
    return (
        f'<table class="meter"><caption>Mean log-probability difference from the base</caption>{"".join(rows)}</table>'
    )


def _meter_row(label: str, value: float) -> str:
    side = "more" if value >= 0 else "less"
    return (
        f'<tr><th scope="row">{label}</th><td>{_bar(side, abs(value) / LONGEST_BAR)}</td>'
        f"<td>{number(value, '+.2f')} nats per character</td></tr>"
    )


def next_characters(text: ComparedText, count: int = 10) -> str:
    """Return a table of the most likely characters at the last position of `text`, for the base and the voices.

    The table has the `count` characters with the largest probability under either the base or the voices.
    """
    if not text.tokens:
        return ""
    last, before = text.tokens[-1], "".join(token.text for token in text.tokens[:-1])
    p, base = np.exp(last.log_p), np.exp(last.base_log_p)  # (V,)
    likeliest = np.argsort(-np.maximum(p, base), kind="stable")[:count]
    order = sorted((int(token) for token in likeliest), key=lambda token: -p[token])
    rows = "".join(_next_row(token, float(base[token]), float(p[token]), last.id) for token in order)
    context = escape(visible("…" + before[-16:])).replace("\n", "⏎").replace(" ", "␣")
    return (
        '<table class="next"><caption>Next-character probabilities of the base and the voices (at temperature 1), '
        f"after “{context}”</caption>"
        f'<thead><tr><th scope="col">next</th><th scope="col">base</th><th scope="col">voices</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )


def _next_row(token: int, base: float, p: float, chosen: int) -> str:
    mark = ' class="chosen"' if chosen == token else ""
    cells = "".join(
        f"<td>{_bar(side, share)}<span>{100 * share:.1f}%</span></td>" for side, share in (("less", base), ("more", p))
    )
    note = " <small>chosen</small>" if mark else ""
    return f'<tr{mark}><th scope="row"><kbd>{character(token)}</kbd>{note}</th>{cells}</tr>'


def character(token: int) -> str:
    """Return the display form of a byte: printable ASCII as is, space as ␣, newline as ⏎, the rest in hexadecimal."""
    return MARKS.get(token) or (escape(chr(token)) if 32 < token < 127 else f"0x{token:02X}")


def _bar(side: str, share: float) -> str:
    return f'<i class="bar {side}" style="--share: {min(share, 1.0):.4f}" aria-hidden="true"></i>'
