"""Small charts as HTML: the style meter, and what could have come next.

Each number stands beside its bar as text, so that nothing depends on seeing colours.
"""

from __future__ import annotations

from html import escape

import numpy as np

from minilora.app.colours import number
from minilora.messages import visible
from minilora.voices import Text

MARKS = {10: "⏎", 32: "␣"}
LONGEST_BAR = 3.0  # nats per character that fill a meter


def meter(text: Text) -> str:
    """The style meter, and where several voices act each voice's own."""
    if not text.letters:
        return ""
    rows = [_meter_row("style meter", text.meter)]
    if len(text.strengths) > 1:
        rows += [_meter_row(f"{escape(name)} alone", value) for name, value in text.meters.items()]
    return (
        f'<table class="meter"><caption>How far from the base: the mean of the colours</caption>{"".join(rows)}</table>'
    )


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
    rows = "".join(_next_row(token, float(base[token]), float(p[token]), last.token) for token in order)
    context = escape(visible("…" + before[-16:])).replace("\n", "⏎").replace(" ", "␣")
    return (
        '<table class="next"><caption>What the base and the voices expected next (at temperature 1), '
        f"after “{context}”</caption>"
        f'<thead><tr><th scope="col">next</th><th scope="col">base</th><th scope="col">voices</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )


def _next_row(token: int, base: float, p: float, chosen: int) -> str:
    mark = ' class="chosen"' if chosen == token else ""
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
