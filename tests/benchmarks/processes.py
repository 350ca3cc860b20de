"""Programs of others that are run as processes of their own."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class Failed(RuntimeError):
    """A program is not there, ended with an error, or wrote what is not understood, so that there is no time of it."""


def finished(command: Sequence[str | Path], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and return what it wrote; `options` are those of `subprocess.run`.

    Raises Failed, with the last line of its complaint that speaks of an error, when it ends with one.
    """
    name = Path(command[0]).name
    try:
        done = subprocess.run(command, capture_output=True, text=True, **options)
    except FileNotFoundError:
        raise Failed(f"expected the program {name}, which is not here; install it") from None
    if done.returncode:
        complaint = done.stderr.strip().splitlines() or ["it gave no reason"]
        errors = [line for line in complaint if "error" in line.lower()]  # a compiler adds notes to them
        raise Failed(f"{name} ended with exit status {done.returncode}: {(errors or complaint)[-1]}")
    return done
