"""The README's table of laws: which hold for minilora, which for the installed PEFT. Needs the extra `oracle`.

`python figures/laws.py` writes the table anew between its markers in README.md; `python figures/laws.py --cases 50` is
quicker.
"""

import argparse
from importlib.metadata import version
from pathlib import Path

from minilora.laws import CONFORMANCE, Law, Verdict, catalogue, run
from minilora.laws.kit.implementations.own import MiniloraLayer
from minilora.laws.kit.implementations.peft import PeftLayer

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- laws: made by figures/laws.py -->\n", "<!-- end of laws -->"
DTYPES = "float64", "float32"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=200, help="for each law and dtype")
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
    return "not offered" if verdicts[0].holds is None else "**differs**"


def text(found: list[tuple[Law, list[Verdict], list[Verdict]]], cases: int) -> str:
    """A summary, the table, and the counterexamples."""
    peft = f"PEFT {version('peft')}"
    held = [sum(word(row[i]) == "holds" for row in found) for i in (1, 2)]
    lines = [
        f"Of these {len(found)} laws, {held[0]} hold for minilora and {held[1]} for {peft}, with {cases} cases of each",
        "in float64 and in float32 (`python figures/laws.py` has made this part).",
        "",
        "<details><summary>The table</summary>",
        "",
        f"| law | equation | minilora | {peft} |",
        "|---|---|---|---|",
    ]
    for law, own, theirs in found:
        equation = law.equation.replace("|", "\\|")
        lines.append(f"| {law.name} | {equation} | {word(own)} | {word(theirs)} |")
    lines += [
        "",
        "</details>",
        "",
        f"<details><summary>Where {peft} differs, and the smallest case found</summary>",
        "",
        "```",
    ]
    for law, _, theirs in found:
        for verdict in [v for v in theirs if v.holds is False][:1]:
            lines += [f"{law.name} ({verdict.dtype})", *(f"    {t}" for t in verdict.counterexample.splitlines())]
    return "\n".join([*lines, "```", "", "</details>", ""])


if __name__ == "__main__":
    main()
