"""`minilora data`: which texts there are, get them, check them."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from minilora.cli import options
from minilora.data import sources


def add(commands: Any) -> None:
    parser = options.command(
        commands, "data", "list, fetch or verify the corpora", "minilora data fetch tinyshakespeare"
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    actions.add_parser("list", help="what there is, and where it comes from").set_defaults(run=run_list)
    fetch = actions.add_parser("fetch", help="download corpora into the cache folder")
    fetch.add_argument("names", nargs="+", choices=list(sources.SOURCES), metavar="NAME", help="which ones")
    fetch.set_defaults(run=run_fetch)
    actions.add_parser("verify", help="check size and SHA-256 of the files on this machine").set_defaults(
        run=run_verify
    )


def run_list(flags: Namespace) -> None:
    for source in sources.SOURCES.values():
        print(f"{source.name:16} {source.bytes:>9,} bytes  {source.description} ({source.terms})")
        print(f"{'':16} {source.url}")
    print(f"{'python':16} {'this machine':>15}  the single-file modules of this Python's standard library")
    print(f"{'pastiche':16} {'any size':>15}  written by minilora itself, in several voices; needs no network")


def run_fetch(flags: Namespace) -> None:
    for name in flags.names:
        print(f"{name}: {sources.fetch(sources.SOURCES[name])}")


def run_verify(flags: Namespace) -> None:
    checks = sources.verify()
    for check in checks:
        where = f" {check.path}" if check.path else ""
        print(f"{check.source.name:16} {'ok' if check.ok else check.problem}{where}")
    wrong = [check.source.name for check in checks if check.path and not check.ok]
    if wrong:
        raise ValueError(f"not the expected files: {', '.join(wrong)}; delete or replace them")
