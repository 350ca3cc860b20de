"""External programs, run as separate processes."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class Failed(RuntimeError):
    """Raised if a program is missing, exits with an error, or prints unexpected output, so that it cannot be timed."""


def finished(command: Sequence[str | Path], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command and return the completed process with its output; `options` are passed to `subprocess.run`.

    Raises Failed if the program is missing or exits with an error. The message quotes the last line of its error output
    that contains "error", if there is one.
    """
    name = Path(command[0]).name
    try:
        done = subprocess.run(command, capture_output=True, text=True, **options)
    except FileNotFoundError:
        raise Failed(f"program {name} not found; install it") from None
    if done.returncode:
        complaint = done.stderr.strip().splitlines() or ["no error message"]
        errors = [line for line in complaint if "error" in line.lower()]  # compilers print notes after an error
        raise Failed(f"{name} exited with status {done.returncode}: {(errors or complaint)[-1]}")
    return done
