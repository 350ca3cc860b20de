"""`python -m tests.benchmarks [NAME ...]`: compare minilora with other libraries, as tables in Markdown.

Run it in the repository's folder, after `pip install -e ".[test,oracle]" autograd`. Two comparisons also need a clone
of another repository: `--llama2c FOLDER` and `--nanogpt FOLDER`. The tests do not run the benchmarks.
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from minilora.files import write_json
from tests.benchmarks import machine
from tests.benchmarks.interleave import Row, table
from tests.benchmarks.ours import Options

COMPARISONS = {
    "training_steps": "Training steps and PyTorch",
    "peft_step": "A LoRA step and PEFT",
    "decoding": "Generation",
    "llama2c": "Generation and C",
    "numpy_peers": "A training step and another autograd for NumPy",
    "importing": "Import",
    "nanogpt": "Training a small model from scratch, and nanoGPT",
}
SHORT = [  # the rows of the main README's table
    ("full step, 6/192/512/128/32", "PyTorch eager"),
    ("LoRA step, 6/192/512/128/32", "PyTorch eager"),
    ("LoRA step, 6/192/512/128/32", "PEFT on transformers"),
    ("one stream of 256 tokens, 6/192/512", "transformers' generate"),
    ("one stream of 256 tokens, 6/192/512, one thread each", "llama2.c"),
]
README, MAIN_README = Path(__file__).parent / "README.md", Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- speed: made by python -m tests.benchmarks --readme -->\n", "<!-- end of speed -->"
CLONES = {"llama2c": ("karpathy/llama2.c", "run.c"), "nanogpt": ("karpathy/nanoGPT", "train.py")}
"""Comparisons that need a clone of a GitHub repository, with a file that identifies the clone."""


def main() -> int:
    """Return 0 on success, 1 if a comparison was refused or lacks a requirement, 2 if the machine is busy."""
    flags = parser().parse_args()
    busy, free = machine.load(), machine.cores()
    loaded = machine.is_loaded(busy, free)
    if loaded and not (flags.anyway or flags.tiny):
        print(
            f"benchmarks: the machine is busy (load {busy:.2f} on {free} cores), so timings would not be valid; wait "
            "until it is idle, or run anyway with --anyway",
            file=sys.stderr,
        )
        return 2
    modules, absent = found(flags.names or list(COMPARISONS), [name for name in CLONES if not getattr(flags, name)])
    if flags.readme and (loaded or flags.tiny or flags.names or absent):
        print(
            "benchmarks: --readme requires an idle machine and all comparisons, without NAMEs, --tiny and --anyway"
            + "".join(f"; {name}: {reason}" for name, reason in absent.items()),
            file=sys.stderr,
        )
        return 2
    threads = machine.use_threads(flags.threads)
    about = {**machine.describe(threads), "load": busy}
    print(machine.text(about), end="\n\n")
    reasons = ["the machine is busy"] * loaded + ["the models are tiny"] * flags.tiny
    if reasons:
        print(f"**Not a valid measurement: {' and '.join(reasons)}.**\n")
    options = Options(flags.rounds, flags.tiny, flags.threads, flags.llama2c, flags.nanogpt)
    results: dict[str, list[Row]] = {}
    for name, module in modules.items():
        print(f"{name} ...", file=sys.stderr, flush=True)
        results[name] = module.run(options)
        print(f"## {COMPARISONS[name]}\n\n{table(results[name])}\n", flush=True)
    for name, reason in absent.items():
        print(f"{name} is skipped: {reason}")
    if flags.readme:
        tables = "\n\n".join(table(rows, columns=5) for rows in results.values())
        write_into(README, f"{machine.text(about)}\n- {flags.rounds} rounds\n\n{tables}\n")
        write_into(MAIN_README, short_table([row for rows in results.values() for row in rows]) + "\n")
    if flags.json:
        records = {name: [row.record() for row in rows] for name, rows in results.items()}
        write_json(flags.json, {"machine": about, "no_measurement": reasons, "comparisons": records})
    return int(bool(absent) or any(row.refusal for rows in results.values() for row in rows))


def parser() -> argparse.ArgumentParser:
    names = ", ".join(COMPARISONS)
    made = argparse.ArgumentParser(
        prog="python -m tests.benchmarks", description="Compare minilora's speed with other libraries."
    )
    made.add_argument("names", nargs="*", metavar="NAME", help=f"comparisons to run: {names} (default: all)")
    made.add_argument("--rounds", type=_positive, default=20, help="timed rounds (default: 20)")
    made.add_argument(
        "--threads", type=_positive, default=machine.cores(), help="threads per library (default: all cores)"
    )
    for name, (repository, file) in CLONES.items():
        what = f"a clone of https://github.com/{repository}, for {name}"
        made.add_argument(f"--{name}", metavar="FOLDER", type=partial(_clone, file=file), help=what)
    made.add_argument("--json", metavar="FILE", type=Path, help="also write the results to a JSON file")
    made.add_argument(
        "--readme", action="store_true", help="also replace the tables in tests/benchmarks/README.md and README.md"
    )
    made.add_argument("--anyway", action="store_true", help="run even if the machine is busy")
    made.add_argument("--tiny", action="store_true", help="use small models, to test the benchmarks themselves")
    return made


def found(names: list[str], without_clone: Collection[str] = ()) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the modules of these comparisons, and for each that cannot run, the reason.

    `without_clone` contains the comparisons for which no folder was given.
    """
    modules, absent = {}, {}
    for name in names:
        if name not in COMPARISONS:
            raise SystemExit(f"benchmarks: unknown comparison {name!r}; available: {', '.join(COMPARISONS)}")
        if name in without_clone:
            address = f"https://github.com/{CLONES[name][0]}"
            absent[name] = f"clone {address} and pass its folder as --{name} FOLDER"
            continue
        try:
            modules[name] = importlib.import_module(f"tests.benchmarks.{name}")
        except ModuleNotFoundError as error:
            if str(error.name).startswith(("minilora", "tests")):
                raise
            absent[name] = f"package {str(error.name)!r} is not installed; pip install -e '.[test,oracle]' autograd"
    return modules, absent


def short_table(rows: Sequence[Row]) -> str:
    """Return the rows listed in SHORT, in that order, as a table of medians."""
    found = {(row.what, row.against): row for row in rows}
    return re.sub(r" \(.*?\)", "", table([found[key] for key in SHORT if key in found], columns=5))


def write_into(page: Path, text: str) -> None:
    """Write `text` between the page's two markers."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f"benchmarks: expected the lines {BEGIN.strip()} and {END} in {page}")
    page.write_text(before + begin + text + end + after, encoding="utf-8")


def _clone(text: str, file: str) -> Path:
    """argparse type: the folder of a clone, which must contain `file`."""
    if not (Path(text) / file).is_file():
        raise argparse.ArgumentTypeError(f"expected a folder that contains {file}, got {text}")
    return Path(text).resolve()


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a positive integer, got {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
