"""`minilora app`."""

from __future__ import annotations

import argparse
import math
from argparse import Namespace
from typing import Any

from minilora.cli import options


def add(commands: Any) -> None:
    parser = options.command(
        commands,
        "app",
        "serve a web page for comparing, mixing and training voices",
        "minilora app --port 8000 --open",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: 127.0.0.1, this machine only; "
        "with a different address, other machines can connect)",
    )
    parser.add_argument(
        "--port", type=_port, metavar="N", help="port to listen on (default: 7860, or the next free port)"
    )
    parser.add_argument("--open", action="store_true", help="also open the page in a browser")
    parser.add_argument(
        "--seconds", type=_seconds, default=60.0, metavar="S", help="training time of a new voice (default: 60 seconds)"
    )
    parser.set_defaults(run=run)


def run(flags: Namespace) -> None:
    from minilora.app.server import serve

    serve(flags.host, flags.port, flags.seconds, flags.open)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:6]) <= 65535):
        raise argparse.ArgumentTypeError(f"expected a port number from 1 to 65535, got {text[:20]!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"expected a number of seconds from 1 to 3600, got {text[:20]!r}")
    return seconds
