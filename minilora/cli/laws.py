"""`minilora laws`: check the mathematics of LoRA on random cases."""

from __future__ import annotations

import importlib
import json
import math
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minilora import laws
from minilora.cli import options
from minilora.files import write_atomically
from minilora.laws import CONFORMANCE, GROUPS, Law, Verdict, catalogue
from minilora.laws.kit.check import ALPHA_IS_THE_SCALE, conventional, explanation, first_problem
from minilora.messages import install_command

DTYPES = "float64", "float32"
LAYERS = {
    "minilora": "minilora.laws.kit.implementations.own:MiniloraLayer",
    "peft": "minilora.laws.kit.implementations.peft:PeftLayer",
    "twenty-lines": "minilora.laws.kit.implementations.twenty_lines:TwentyLines",
}


def add(commands: Any) -> None:
    parser = options.command(
        commands, "laws", "check the mathematics of LoRA, law by law, on random cases", "minilora laws --only merge"
    )
    parser.add_argument("--list", action="store_true", help="print the catalogue without running the laws")
    parser.add_argument(
        "--only",
        metavar="GROUP",
        action="append",
        default=[],
        help=f"run only this group, one of {', '.join(GROUPS)}; can be repeated",
    )
    parser.add_argument("--cases", type=int, default=200, metavar="N", help="cases per law and dtype (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the cases (default: 0)")
    parser.add_argument(
        "--layer",
        default="minilora",
        metavar="NAME",
        help=f"LoRA layer to check: {', '.join(LAYERS)}, or your own class as module:Class (default: minilora)",
    )
    parser.add_argument("--json", metavar="FILE", help="also write the verdicts to a JSON file")
    parser.set_defaults(run=run)


def run(flags: Namespace) -> int:
    """Print the catalogue or the verdicts; return 1 if a law is broken, else 0."""
    if flags.cases < 1:
        raise ValueError(f"expected --cases to be at least 1, got {flags.cases}")
    layer = find_layer(flags.layer)
    chosen = catalogue(*flags.only or (GROUPS if flags.layer == "minilora" else CONFORMANCE))
    if flags.layer != "minilora" and any(not law.takes_layer for law in chosen):
        raise ValueError(f"--layer supports only the groups {', '.join(CONFORMANCE)}; the others test only minilora")
    if flags.list:
        for_each(chosen, listed)
        return 0
    begun, results = time.perf_counter(), []
    if flags.layer not in LAYERS:
        if problem := first_problem(layer, DTYPES[0]):
            print(problem)
            return 1
        layer, given = conventional(layer, flags.cases, DTYPES[0], flags.seed), layer
        if layer is not given:
            print(ALPHA_IS_THE_SCALE)

    def tried(law: Law) -> str:
        results.append([laws.run(law, layer, flags.cases, dtype, flags.seed) for dtype in DTYPES])
        return result(results[-1])

    for_each(chosen, tried)
    print(f"\n{closing(results)}, {time.perf_counter() - begun:.0f} seconds")
    if flags.json:
        text = json.dumps([record(verdicts) for verdicts in results], indent=2, ensure_ascii=False)
        write_atomically(Path(flags.json), text + "\n")
    return int(any(verdict.word == "BROKEN" for verdicts in results for verdict in verdicts))


def find_layer(name: str) -> type[Any]:
    """Import the class of a layer in LAYERS or given as `module:Class`, also from a module in the current folder."""
    module, _, attribute = LAYERS.get(name, name).partition(":")
    if not attribute:
        raise ValueError(f"unknown layer {name!r}; expected {', '.join(LAYERS)}, or your own as module:Class")
    sys.path.insert(0, "")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, TypeError, ValueError) as error:  # the last two for malformed names
        hint = f"; install it with {install_command('oracle')}" if name == "peft" else ""
        raise ValueError(f"cannot import the layer {name!r} ({error}){hint}") from None
    finally:
        sys.path.remove("")
    if not isinstance(found, type):
        raise ValueError(f"expected the layer {name!r} to be a class, got a {type(found).__name__}")
    return found


def for_each(chosen: list[Law], text: Callable[[Law], str]) -> None:
    """Print `text(law)` for each law below the heading of its group, with a progress bar on a terminal."""
    from tqdm import tqdm

    group = ""
    with tqdm(chosen, leave=False, disable=not sys.stderr.isatty(), bar_format="{n}/{total} {desc}") as bar:
        for law in bar:
            bar.set_description_str(law.name)
            lines = text(law)
            if law.group != group:
                group = law.group
                lines = f"\n{group}: {GROUPS[group]}\n\n{lines}"
            bar.write(lines, file=sys.stdout)
            sys.stdout.flush()


def listed(law: Law) -> str:
    """Return the catalogue entry of a law: name, statement, equation and source."""
    return f"  {law.name}\n      {law.statement}\n      {law.equation}\n      [{law.source}]"


def result(verdicts: list[Verdict]) -> str:
    """Return the result of a law: name, equation and, for each dtype, the cases, the worst error and the bound."""
    law, worst = verdicts[0].law, _worst(verdicts)
    lines = f"  {worst.word:7}  {law.name}\n           {law.equation}"
    if worst.holds is None:
        return f"{lines}\n           not run: requires {', '.join(law.needs)}, which the layer does not fully implement"
    found = [
        f"{v.dtype}: {v.cases} cases, worst error {_size(v.worst_error)}, bound {_size(v.bound)}" for v in verdicts
    ]
    lines += f"\n           {'; '.join(found)}"
    return lines if worst.holds else f"{lines}\n{explanation(worst)}"


def _size(error: float) -> str:
    return f"{error:.1e}" if error else "0"


def closing(results: list[list[Verdict]]) -> str:
    """Return how many laws have each verdict, as text."""
    words = [_worst(verdicts).word for verdicts in results]
    parts = [f"{words.count('holds')} laws hold", f"{words.count('BROKEN')} broken"]
    others = {"inexact": "up to rounding", "differs": "by another convention", "-": "not run"}
    return ", ".join(parts + [f"{words.count(word)} {text}" for word, text in others.items() if word in words])


def _worst(verdicts: list[Verdict]) -> Verdict:
    """Return the worst of a law's verdicts in the different dtypes."""
    order = ["BROKEN", "differs", "inexact", "-", "holds"]
    return min(verdicts, key=lambda verdict: order.index(verdict.word))


def record(verdicts: list[Verdict]) -> dict[str, Any]:
    """Return a law's entry in the JSON file: the float64 results, with those of float32 under "float32".

    An infinite error becomes null.
    """
    law, first = verdicts[0].law, verdicts[0]
    broken = next((v for v in verdicts if v.holds is False), None)
    return {
        **{name: getattr(law, name) for name in ("name", "group", "statement", "equation", "source")},
        **numbers(first),
        "holds": None if first.holds is None else broken is None,
        "float32": {**numbers(verdicts[1]), "holds": verdicts[1].holds},
        "counterexample": broken.counterexample if broken else "",
    }


def numbers(verdict: Verdict) -> dict[str, Any]:
    worst = verdict.worst_error if math.isfinite(verdict.worst_error) else None
    return {"cases": verdict.cases, "worst_error": worst, "bound": verdict.bound}
