"""Write the table of laws, showing which hold for minilora and for the installed PEFT. Needs the extra `oracle`.

`python figures/laws.py` rewrites the part of minilora/laws/README.md between its markers, in about five minutes;
`python figures/laws.py --cases 50` is faster.
"""

import argparse
from importlib.metadata import version
from pathlib import Path

from minilora.laws import CONFORMANCE, GROUPS, Law, Verdict, catalogue, run
from minilora.laws.kit.implementations.own import MiniloraLayer
from minilora.laws.kit.implementations.peft import PeftLayer

README = Path(__file__).parent.parent / "minilora" / "laws" / "README.md"
BEGIN, END = "<!-- laws: made by figures/laws.py -->\n", "<!-- end of laws -->"
DTYPES = "float64", "float32"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=200, help="random cases per law and dtype (default: 200)")
    cases = parser.parse_args().cases
    found = []
    for law in catalogue(*CONFORMANCE):
        found.append((law, *(both(law, layer, cases) for layer in (MiniloraLayer, PeftLayer))))
        print(law.name, *(word(verdicts) for verdicts in found[-1][1:]), flush=True)
    before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    README.write_text(before + BEGIN + text(found, cases) + END + after, encoding="utf-8")


def both(law: Law, layer: type, cases: int) -> list[Verdict]:
    return [run(law, layer, cases, dtype) for dtype in DTYPES]


def word(verdicts: list[Verdict]) -> str:
    if all(v.holds for v in verdicts):
        return "holds"
    if all(v.word in ("holds", "inexact") for v in verdicts):
        return "up to rounding"
    return "not offered" if verdicts[0].holds is None else "**differs**"


def text(found: list[tuple[Law, list[Verdict], list[Verdict]]], cases: int) -> str:
    """Return the summary, the tables and the counterexamples, as Markdown."""
    peft = f"PEFT {version('peft')}"
    held = [sum(word(row[i]) == "holds" for row in found) for i in (1, 2)]
    lines = [
        f"Of these {len(found)} laws, {held[0]} hold for minilora and {held[1]} for {peft}, with {cases} random cases",
        "per law in float64 and in float32.",
        "",
        f"| law | equation | minilora | {peft} |",
        "|---|---|---|---|",
        *(f"{row(law)} {word(own)} | {word(theirs)} |" for law, own, theirs in found),
        "",
        f"## Where {peft} differs, with the smallest case found",
        "",
        "```",
    ]
    for law, _, theirs in found:
        for verdict in [v for v in theirs if v.holds is False][:1]:
            lines += [f"{law.name} ({verdict.dtype})", *(f"    {t}" for t in verdict.counterexample.splitlines())]
    lines += ["```", "", "## Laws of the rest of minilora", "", "The tests check that all of them hold.", ""]
    for group, title in GROUPS.items():
        if group not in CONFORMANCE:
            laws = catalogue(group)
            lines += [f"**{group}**: {title} ({len(laws)} laws)", "", "| law | equation |", "|---|---|"]
            lines += [*map(row, laws), ""]
    return "\n".join(lines)


def row(law: Law) -> str:
    """Return the first two cells of a law's row."""
    equation = law.equation.replace("|", "\\|")
    return f"| {law.name} | {equation} |"


if __name__ == "__main__":
    main()
