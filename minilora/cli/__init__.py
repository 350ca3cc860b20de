"""The command-line interface, `minilora COMMAND`. Each command calls the library and prints the results."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from minilora import __version__
from minilora.training import Interrupted

NAMES = "demo pretrain finetune runs generate voices compare app merge mix eval info laws bench data"
COMMANDS = [import_module(f"minilora.cli.{name}") for name in NAMES.split()]


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that reports a usage error in one line, like every other error."""

    def error(self, message: str) -> NoReturn:
        command = self.prog.removeprefix("minilora").strip()
        hint = f"minilora {command} --help" if command else "minilora --help"
        self.exit(2, f"minilora: error: {message}; see {hint}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    The code is 0 on success, 1 if a law is broken, 2 after an error (reported in one line, without a traceback) and
    130 after Ctrl-C.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that cannot encode Greek shows ? instead of failing
    parser = Parser(
        prog="minilora",
        description="LoRA from scratch: pretrain a small Llama, fine-tune it and inspect the result.",
        epilog="Start with: minilora demo",
    )
    parser.add_argument("-V", "--version", action="version", version=f"minilora {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for module in COMMANDS:
        module.add(commands)
    options, unknown = parser.parse_known_args(_with_help(parser, arguments))
    if unknown:  # reported by the command's own parser, so that the hint points to that command's help
        commands.choices[options.command].error(f"unrecognized arguments: {' '.join(unknown)}")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning  # type: ignore[assignment]
            _check_outputs(options)
            return options.run(options) or 0
    except BrokenPipeError:  # the reader of the output, such as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:
        reason = str(error)
        if isinstance(error, OSError) and error.filename:
            reason = f"{error.filename}: {error.strerror}; check the path, or choose another folder"
        print(f"minilora: error: {' '.join(reason.splitlines())}", file=sys.stderr)
        return 2
    except Interrupted as stop:
        print(f"minilora: {stop}", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print("minilora: stopped", file=sys.stderr)
        return 130


def _check_outputs(options: argparse.Namespace) -> None:
    """Raise ValueError if the file of --json or the folder of --out cannot be written, before any work is done."""
    file, folder = getattr(options, "json", None), getattr(options, "out", None)
    if file and Path(file).is_dir():
        raise ValueError(f"expected --json to name a file, but {file} is a folder")
    if folder and Path(folder).exists() and not Path(folder).is_dir():
        raise ValueError(f"expected --out to name a folder, but {folder} is a file")
    for flag, path in (("--json", file and Path(file).parent), ("--out", folder)):
        ancestors = [Path(path).absolute(), *Path(path).absolute().parents] if path else []
        nearest = next((ancestor for ancestor in ancestors if ancestor.exists()), None)
        if nearest and not (nearest.is_dir() and os.access(nearest, os.W_OK)):
            raise ValueError(
                f"{flag}: cannot write to {nearest}; check the path and its permissions, or choose another"
            )


def _show_warning(message: Warning | str, *_: object) -> None:
    """Print a warning on one line, like an error."""
    print(f"minilora: warning: {' '.join(str(message).splitlines())}", file=sys.stderr)


def _with_help(parser: Parser, arguments: Sequence[str] | None) -> list[str]:
    """Turn no arguments and `help [COMMAND]` into --help, and report an unknown command with the most similar one."""
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if given[0] == "help":
        given = [*given[1:2], "--help"]
    if not given[0].startswith("-") and given[0] not in NAMES.split():
        close = get_close_matches(given[0], NAMES.split(), n=1)
        advice = f"did you mean {close[0]}?" if close else f"commands: {', '.join(NAMES.split())}"
        parser.error(f"unknown command {given[0]!r} ({advice})")
    return given
