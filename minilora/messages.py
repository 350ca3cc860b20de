"""Formatting for messages and terminals, including untrusted or long text."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from html import escape
from types import UnionType
from typing import Any

LONGEST_SHOWN = 80
"""The maximum length of a value in a message, in characters."""


def shown(value: Any) -> str:
    """Return the repr of a value on one line, truncated to 80 characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"


def expect(value: Any, kind: type | UnionType | tuple[type, ...], what: str) -> None:
    """Raise TypeError unless `value` is of this kind: "expected <what>, got <value>"."""
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"expected {what}, got {one_line(shown(value))}")


def one_line(text: str) -> str:
    """Return the text on one line, with every non-printable character replaced by a space."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def visible(text: str) -> str:
    """Return the text with every non-printable character except the newline replaced by `·`.

    An untrained model can generate any byte, and some bytes move the cursor of a terminal or change its colors.
    """
    return "".join(c if c.isprintable() or c == "\n" else "·" for c in text)


def some(names: Sequence[str], most: int = 1) -> str:
    """Return the first `most` names and the number of remaining names: `a, b and 4 more`."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def install_command(extra: str) -> str:
    """Return the command that installs an optional dependency group, from where minilora itself was installed."""
    from importlib.metadata import PackageNotFoundError, distribution
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    source, editable = "minilora", ""
    with suppress(PackageNotFoundError, KeyError, ValueError):
        origin = json.loads(distribution("minilora").read_text("direct_url.json") or "{}")
        if origin["url"].startswith("file:"):  # a checkout
            source = url2pathname(urlsplit(origin["url"]).path)
            editable = "-e " if origin["dir_info"].get("editable") else ""
    return f"{sys.executable} -m pip install {editable}'{source}[{extra}]'"


def span(numbers: Iterable[float]) -> str:
    """Return the range of some numbers: `4 to 8`, or `8` if they are all equal."""
    known = list(numbers)
    low, high = min(known), max(known)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def html_table(head: Sequence[str], rows: Iterable[Sequence[Any]], caption: str = "") -> str:
    """Return an HTML table for notebooks, with all columns but the first right-aligned. All text is escaped."""
    cells = [[escape(str(cell)) for cell in row] for row in rows]
    lines = ["".join(f'<td style="text-align:{_side(i)}">{cell}</td>' for i, cell in enumerate(row)) for row in cells]
    header = "".join(f'<th style="text-align:{_side(i)}">{escape(name)}</th>' for i, name in enumerate(head))
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f"<table>{title}<thead><tr>{header}</tr></thead><tbody>{body}</tbody></table>"


def _side(column: int) -> str:
    return "right" if column else "left"
