"""`python -m tests.benchmarks [NAME ...]`: minilora against its peers, each comparison as a table in Markdown.

From the repository's folder, with `pip install -e ".[test,oracle]" autograd`. Two comparisons need the clone of a
repository as well: `--llama2c FOLDER` and `--nanogpt FOLDER`. Nothing here runs with the tests: times are for people
to read.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

from minilora.files import write_json
from tests.benchmarks import machine
from tests.benchmarks.interleave import Row, table
from tests.benchmarks.ours import Options

COMPARISONS = {
    "training_steps": "Training steps against PyTorch",
    "peft_step": "A LoRA step against PEFT",
    "decoding": "Writing text",
    "llama2c": "Writing text against C",
    "numpy_peers": "A training step against another autograd for NumPy",
    "importing": "Importing",
    "nanogpt": "A small model from nothing to its end, against nanoGPT",
}
README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- speed: made by python -m tests.benchmarks --readme -->\n", "<!-- end of speed -->"
CLONES = {"llama2c": ("karpathy/llama2.c", "run.c"), "nanogpt": ("karpathy/nanoGPT", "train.py")}
"""Comparisons that need a clone of a repository of GitHub, and a file that shows a folder to be one."""


def main() -> int:
    """0 when all was measured; 1 when a comparison was refused or lacks what it needs; 2 when the machine is busy."""
    flags = parser().parse_args()
    busy, free = machine.load(), machine.cores()
    loaded = machine.is_loaded(busy, free)
    if loaded and not (flags.anyway or flags.tiny):
        print(
            f"benchmarks: the machine is busy (load {busy:.2f} on {free} cores), and what is timed now is no "
            "measurement; wait until it is quiet, or look all the same with --anyway",
            file=sys.stderr,
        )
        return 2
    modules, absent = found(flags.names or list(COMPARISONS), [name for name in CLONES if not getattr(flags, name)])
    if flags.readme and (loaded or flags.tiny or flags.names or absent):
        print(
            "benchmarks: --readme takes a quiet machine and all comparisons; leave out NAMEs, --tiny and --anyway"
            + "".join(f"; {name} lacks: {reason}" for name, reason in absent.items()),
            file=sys.stderr,
        )
        return 2
    threads = machine.use_threads(flags.threads)
    about = {**machine.describe(threads), "load": busy}
    print(machine.text(about), end="\n\n")
    reasons = ["the machine is busy"] * loaded + ["the models are tiny"] * flags.tiny
    if reasons:
        print(f"**No measurement: {' and '.join(reasons)}.**\n")
    options = Options(flags.rounds, flags.tiny, flags.threads, flags.llama2c, flags.nanogpt)
    results: dict[str, list[Row]] = {}
    for name, module in modules.items():
        print(f"{name} ...", file=sys.stderr, flush=True)
        results[name] = module.run(options)
        print(f"## {COMPARISONS[name]}\n\n{table(results[name])}\n", flush=True)
    for name, reason in absent.items():
        print(f"{name} is left out: {reason}")
    if flags.readme:
        tables = "\n\n".join(table(rows, columns=5) for rows in results.values())
        write_into(README, f"{machine.text(about)}\n- {flags.rounds} rounds\n\n{tables}\n")
    if flags.json:
        records = {name: [row.record() for row in rows] for name, rows in results.items()}
        write_json(flags.json, {"machine": about, "no_measurement": reasons, "comparisons": records})
    return int(bool(absent) or any(row.refusal for rows in results.values() for row in rows))


def parser() -> argparse.ArgumentParser:
    names = ", ".join(COMPARISONS)
    made = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Time minilora against its peers.")
    made.add_argument("names", nargs="*", metavar="NAME", help=f"which comparisons: {names} (default: all)")
    made.add_argument("--rounds", type=_positive, default=20, help="turns of each program (default: 20)")
    made.add_argument(
        "--threads", type=_positive, default=machine.cores(), help="for each library (default: all cores)"
    )
    for name, (repository, file) in CLONES.items():
        what = f"a clone of https://github.com/{repository}, for {name}"
        made.add_argument(f"--{name}", metavar="FOLDER", type=partial(_clone, file=file), help=what)
    made.add_argument("--json", metavar="FILE", type=Path, help="also write the figures to a file")
    made.add_argument(
        "--readme", action="store_true", help="also put the tables into README.md, in place of the old ones"
    )
    made.add_argument("--anyway", action="store_true", help="run on a busy machine, too")
    made.add_argument("--tiny", action="store_true", help="small models, to see that everything works")
    return made


def found(names: list[str], without_clone: Collection[str] = ()) -> tuple[dict[str, Any], dict[str, str]]:
    """The modules of these comparisons; and of those that cannot be run, what they lack.

    `without_clone` names the comparisons for which no folder was given.
    """
    modules, absent = {}, {}
    for name in names:
        if name not in COMPARISONS:
            raise SystemExit(f"benchmarks: there is no comparison {name!r}; there are {', '.join(COMPARISONS)}")
        if name in without_clone:
            address = f"https://github.com/{CLONES[name][0]}"
            absent[name] = f"clone {address}, and name the folder with --{name} FOLDER"
            continue
        try:
            modules[name] = importlib.import_module(f"tests.benchmarks.{name}")
        except ModuleNotFoundError as error:
            if str(error.name).startswith(("minilora", "tests")):
                raise
            absent[name] = f"there is no package {str(error.name)!r} here; pip install -e '.[test,oracle]' autograd"
    return modules, absent


def write_into(page: Path, text: str) -> None:
    """Put `text` between the page's two markers."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f"benchmarks: expected the lines {BEGIN.strip()} and {END} in {page}, to write between them")
    page.write_text(before + begin + text + end + after, encoding="utf-8")


def _clone(text: str, file: str) -> Path:
    """The folder of a clone that has this file."""
    if not (Path(text) / file).is_file():
        raise argparse.ArgumentTypeError(f"expected a folder with {file}, and there is none in {text}")
    return Path(text).resolve()


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
