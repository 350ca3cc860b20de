"""`minilora laws`: the listing, the verdicts, and the report on a layer with a mistake."""

import json
import sys
from pathlib import Path

import pytest

from minilora import laws
from minilora.laws import CONFORMANCE, GROUPS, LAWS, catalogue
from tests.cli.conftest import call

FIELDS = {"name", "group", "statement", "equation", "source", "cases", "worst_error", "bound", "holds"}

MINE = """
import numpy as np

class Mine:
    def __init__(self, W, A, B, alpha, r):
        self.W, self.A, self.B, self.scale = W, A, B, alpha / r

    def forward(self, x):
        return x @ self.W.T + (x @ self.A.T) @ self.B.T
"""


@pytest.fixture
def mine(monkeypatch):
    """The name of a layer that does not scale its update, in a file in the current folder."""
    Path("mine_with_a_mistake.py").write_text(MINE)
    yield "mine_with_a_mistake:Mine"
    sys.modules.pop("mine_with_a_mistake", None)


def test_the_list_is_the_catalogue_to_read(minilora, monkeypatch):
    monkeypatch.setattr("minilora.laws.run", None)  # no law may be run
    out = minilora("laws", "--list")
    places = [out.index(f"\n  {law.name}\n      {law.statement}\n      {law.equation}\n") for law in catalogue()]
    assert places == sorted(places)
    assert all(f"\n{group}: {about}\n" in out for group, about in GROUPS.items())
    assert out.count(" (LoRA)") > 10
    out = minilora("laws", "--list", "--only", "many", "--only", "lora")
    assert [group for group in GROUPS if f"\n{group}:" in out] == ["lora", "many"]


def test_one_group_with_verdicts(minilora):
    out = minilora("laws", "--only", "merge", "--cases", 5, "--json", "laws.json")
    for law in catalogue("merge"):
        assert f"  holds    {law.name}\n           {law.equation}\n           float64: 5 cases, worst error " in out
    assert "bound 1.0e-12; float32: 5 cases, worst error " in out
    assert f"\n{len(catalogue('merge'))} laws hold, 0 broken, " in out
    assert "lora:" not in out
    record = json.loads(Path("laws.json").read_text())
    assert [entry["name"] for entry in record] == [law.name for law in catalogue("merge")]
    for entry in record:
        assert entry.keys() >= FIELDS
        assert entry["holds"] is True
        assert entry["cases"] == 5
        assert 0 <= entry["worst_error"] <= entry["bound"] <= 1e-10
        assert entry["bound"] == LAWS[entry["name"]].bound["float64"]
        assert entry["float32"]["bound"] == LAWS[entry["name"]].bound["float32"]


def test_every_group_is_run_without_flags(minilora, monkeypatch):
    seen = []

    def record(law, layer, cases, dtype, seed):
        seen.append((law.name, cases, dtype, seed))
        return laws.Verdict(law, dtype, True, cases)

    monkeypatch.setattr("minilora.laws.run", record)
    minilora("laws")
    assert seen == [(law.name, 200, dtype, 0) for law in catalogue() for dtype in ("float64", "float32")]


def test_a_layer_of_ones_own_with_a_mistake(mine, capsys):
    assert call(["laws", "--layer", mine, "--cases", 30, "--json", "laws.json"]) == 1
    out = capsys.readouterr().out
    assert "  BROKEN   the-update-is-BA-scaled-by-alpha-over-r\n" in out
    assert "The smallest counterexample found, in float64:\n" in out
    assert "h should be [[" in out
    assert "          not run: requires merge, which the layer does not fully implement\n" in out
    assert "\n10 laws hold, 3 broken, 40 not run, " in out
    record = {entry["name"]: entry for entry in json.loads(Path("laws.json").read_text())}
    assert set(record) == {law.name for law in catalogue(*CONFORMANCE)}
    broken = record["the-rank-divides-the-scale"]
    assert broken["holds"] is False
    assert broken["worst_error"] > 0.1
    assert "h should be" in broken["counterexample"]
    assert record["merging-twice-is-merging-once"]["holds"] is None
    assert call(["laws", "--layer", "twenty-lines", "--only", "many", "--cases", 2]) == 0  # a law not run is not broken


def test_infinite_errors_are_valid_json(mine):
    Path("mine_with_a_mistake.py").write_text(
        MINE + "\n    forward = lambda self, x: x @ self.W.T if len(x) == 4 else x[:, :0]\n"
    )
    assert call(["laws", "--layer", mine, "--only", "lora", "--cases", 5, "--json", "laws.json"]) == 1
    entry = json.loads(Path("laws.json").read_text(), parse_constant=pytest.fail)[0]
    assert entry["worst_error"] is None


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--only", "lor"], f"unknown group of laws 'lor'; valid groups: {', '.join(GROUPS)}"),
        (["--cases", 0], "expected --cases to be at least 1, got 0"),
        (
            ["--layer", "pefft"],
            "unknown layer 'pefft'; expected minilora, peft, twenty-lines, or your own as module:Class",
        ),
        (["--layer", "nowhere:Class"], "cannot import the layer 'nowhere:Class' (No module named 'nowhere')"),
        (["--layer", ":Class"], "cannot import the layer ':Class' ("),
        (["--layer", "../x:Class"], "cannot import the layer '../x:Class' ("),
        (["--layer", "json:Class"], "cannot import the layer 'json:Class' (module 'json' has no attribute 'Class')"),
        (["--layer", "json:dumps"], "expected the layer 'json:dumps' to be a class, got a function"),
        (["--json", "."], "expected --json to name a file, but . is a folder"),
        (["--layer", "twenty-lines", "--only", "model"], "--layer supports only the groups lora, merge, many"),
    ],
)
def test_errors(flags, message, capsys):
    assert call(["laws", *flags]) == 2
    assert message in capsys.readouterr().err


def test_the_search_path_stays(mine):
    before = list(sys.path)
    call(["laws", "--layer", mine, "--list"])
    assert sys.path == before


def test_a_layer_of_ones_own_with_another_scale(mine, capsys):
    other = MINE.replace("alpha / r", "alpha").replace("(x @ self.A.T) @", "self.scale * (x @ self.A.T) @")
    Path("mine_with_a_mistake.py").write_text(other)
    assert call(["laws", "--layer", mine, "--cases", 20]) == 0
    out = capsys.readouterr().out
    assert out.startswith("  differs  the scale: this layer multiplies B A by α")
    assert "\n13 laws hold, 0 broken, 40 not run, " in out


def test_a_layer_of_ones_own_that_raises(mine, capsys):
    Path("mine_with_a_mistake.py").write_text(MINE.replace("self.W.T", "self.W"))
    assert call(["laws", "--layer", mine]) == 1
    assert capsys.readouterr().out.startswith("  BROKEN  the first case, W (3, 5), A (2, 5)")
