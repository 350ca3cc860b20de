"""Import time: `import minilora` against `import numpy`, which it includes. Each is timed as a complete process."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from tests.benchmarks.interleave import Row, compare
from tests.benchmarks.ours import Options

ROOT = Path(__file__).parents[2]
GOAL = 1 / 1.3


def run(options: Options) -> list[Row]:
    """Both load bytecode from a temporary cache folder, as they would after a first import."""
    with tempfile.TemporaryDirectory() as compiled:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": compiled}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        programs = {
            name: partial(
                subprocess.run, [sys.executable, "-c", f"import {name}"], cwd=ROOT, env=environment, check=True
            )
            for name in ("minilora", "numpy")
        }
        return compare("import, as a process", programs, goals={"numpy": GOAL}, **options.timing)
