"""`python -m tests.benchmarks [NAME ...]`: minilora against its peers, each comparison as a table in Markdown.

From the repository's folder, with `pip install -e ".[test,oracle]" autograd`. Nothing here runs with the tests:
times are for people to read.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from minilora.files import write_json
from tests.benchmarks import machine
from tests.benchmarks.interleave import Row, table
from tests.benchmarks.ours import Options

COMPARISONS = {
    "training_steps": "Training steps against PyTorch",
    "peft_step": "A LoRA step against PEFT",
    "decoding": "Writing text",
    "numpy_peers": "A training step against another autograd for NumPy",
    "importing": "Importing",
}


def main() -> int:
    """0 when all was measured; 1 when a comparison was refused or lacks a package; 2 when the machine is busy."""
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
    modules, absent = found(flags.names or list(COMPARISONS))
    threads = machine.use_threads(flags.threads)
    about = {**machine.describe(threads), "load": busy}
    print(machine.text(about), end="\n\n")
    reasons = ["the machine is busy"] * loaded + ["the models are tiny"] * flags.tiny
    if reasons:
        print(f"**No measurement: {' and '.join(reasons)}.**\n")
    options = Options(flags.rounds, flags.tiny)
    results: dict[str, list[Row]] = {}
    for name, module in modules.items():
        print(f"{name}: {flags.rounds} rounds ...", file=sys.stderr, flush=True)
        results[name] = module.run(options)
        print(f"## {COMPARISONS[name]}\n\n{table(results[name])}\n", flush=True)
    for name, package in absent.items():
        print(f"{name} is left out: there is no package {package!r} here")
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
    made.add_argument("--json", metavar="FILE", type=Path, help="also write the figures to a file")
    made.add_argument("--anyway", action="store_true", help="run on a busy machine, too")
    made.add_argument("--tiny", action="store_true", help="small models, to see that everything works")
    return made


def found(names: list[str]) -> tuple[dict[str, object], dict[str, str]]:
    """The modules of these comparisons; and for those that cannot be run, the package that is missing."""
    modules, absent = {}, {}
    for name in names:
        if name not in COMPARISONS:
            raise SystemExit(f"benchmarks: there is no comparison {name!r}; there are {', '.join(COMPARISONS)}")
        try:
            modules[name] = importlib.import_module(f"tests.benchmarks.{name}")
        except ModuleNotFoundError as error:
            if str(error.name).startswith(("minilora", "tests")):
                raise
            absent[name] = str(error.name)
    return modules, absent


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text}")
    return number


if __name__ == "__main__":
    sys.exit(main())
