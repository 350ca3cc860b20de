"""The parts of the benchmarks that do not depend on speed."""

import itertools
import json

import numpy as np
import pytest

from tests.benchmarks import machine
from tests.benchmarks.equal import Unequal, same_losses, same_tokens
from tests.benchmarks.interleave import Row, Spread, compare, interleave, spread, table
from tests.benchmarks.ours import TINY

ROW = Row("step", "peer", ours=[1.0, 2.0, 4.0], theirs=[3.0, 2.0, 8.0], goal=1.3, checked="loss 2 → 1")


def losing(*losses):
    """A training step that returns these losses, one per call."""
    return iter(losses).__next__


def test_programs_take_turns():
    calls = []
    programs = {name: lambda name=name: calls.append(name) for name in "ABC"}
    times = interleave(programs, rounds=2, warm_up=1, turn=0, pause=0)
    assert "".join(calls) == "ABC" + "ABC" * 2
    assert {name: len(values) for name, values in times.items()} == {"A": 2, "B": 2, "C": 2}


def test_a_short_call_is_repeated_until_its_turn_is_over():
    clock = itertools.count().__next__  # advances one second per reading, so each call takes a second
    calls = []
    times = interleave({"A": lambda: calls.append(1)}, rounds=1, warm_up=0, turn=3, pause=0, clock=clock)
    assert len(calls) == 3
    assert times == {"A": [1.0]}


def test_the_spread_is_the_middle_half_and_the_ratio_that_of_the_medians():
    assert spread([5.0]) == (5, 5, 5)
    assert spread([4.0, 1.0, 2.0, 3.0, 100.0]) == (2, 3, 4)
    assert ROW.ratio == Spread(1.5, 1.5, 2.5)  # medians 2 and 3; the ratios per round are 3, 1 and 2


def test_table():
    assert table([ROW]).splitlines() == [
        "| what | minilora | against | its time | times as fast | goal | equal before timing |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| step | 2,000.0 ms (1,500.0 to 3,000.0) | peer | 3,000.0 ms (2,500.0 to 5,500.0) "
        "| **1.50** (1.50 to 2.50) | ≥ 1.30 | loss 2 → 1 |",
    ]


def test_table_of_tokens_and_of_refusals():
    rows = [Row("write", "peer", [0.5], [2.0], tokens=100), Row("a|b", "c", refusal="no")]
    written, refused = table(rows).splitlines()[2:]
    assert (
        written
        == "| write | 200 tokens/s (200 to 200) | peer | 50 tokens/s (50 to 50) | **4.00** (4.00 to 4.00) |  |  |"
    )
    assert refused == "| a\\|b |  | c |  | not compared: no |  |  |"


def test_records_are_json():
    assert json.loads(json.dumps(ROW.record()))["minilora_ms"]["median"] == 2000
    assert Row("a", "b", refusal="no").record() == {"what": "a", "against": "b", "checked": "", "refusal": "no"}


def test_nothing_is_timed_when_the_check_fails():
    def refuse():
        raise Unequal("they differ")

    programs, refused = (
        {"minilora": pytest.fail, "peer": pytest.fail},
        Row("step", "peer", goal=2.0, refusal="they differ"),
    )
    assert compare("step", programs, rounds=1, goals={"peer": 2.0}, check=refuse) == [refused]


@pytest.mark.parametrize(
    ("theirs", "message"),
    [((4.0, 3.0, 2.0, 1.01), "after 3 steps"), ((4.0, 3.1, 2.0, 1.0), "after 1 steps"), ((np.nan,) * 4, "nan")],
)
def test_losses_are_the_same_or_unequal(theirs, message):
    same = {"minilora": losing(4.0, 3.0, 2.0, 1.0), "peer": losing(4.0, 3.001, 2.0, 1.0005)}
    assert same_losses(same) == "loss 4.0000 → 1.0000 in 3 steps"
    with pytest.raises(Unequal, match=message):
        same_losses({"minilora": losing(4.0, 3.0, 2.0, 1.0), "peer": losing(*theirs)})


@pytest.mark.parametrize("last", [4.0, 3.99, 5.0, np.nan])
def test_losses_that_hardly_move_show_nothing(last):
    with pytest.raises(Unequal, match=r"expected three steps of minilora to lower the loss by more than 0\.5%"):
        same_losses({"minilora": losing(4.0, 4.0, 4.0, last), "peer": losing(4.0, 4.0, 4.0, last)})


def test_same_tokens():
    assert same_tokens([np.array([1, 2, 3])], [np.array([1, 2, 3])]) == "3 tokens"
    assert same_tokens([np.array([1, 2])] * 2, [np.array([1, 2])] * 2) == "2 texts of 2 tokens"
    for theirs, message in [
        ([[1, 2, 4]], "from token 2 onward"),
        ([[1, 2]], "has 3 tokens in one program and 2 in the other"),
        ([], "got 1 and 0"),
    ]:
        with pytest.raises(Unequal, match=message):
            same_tokens([np.array([1, 2, 3])], theirs)
    with pytest.raises(Unequal, match="repeats a single token"):
        same_tokens([np.array([7, 7])], [np.array([7, 7])])


@pytest.mark.parametrize(
    ("load", "cores", "busy"), [(0.1, 2, False), (0.5, 2, False), (0.6, 2, True), (1.9, 8, False), (None, 1, False)]
)
def test_a_machine_is_busy_by_its_load_for_each_core(load, cores, busy):
    assert machine.is_loaded(load, cores) is busy


def test_the_machine_is_described():
    about = machine.describe({"openblas": 2})
    assert about["versions"].keys() >= {"python", "numpy"}
    assert "openblas 2" in machine.text(about)


@pytest.mark.oracle
@pytest.mark.parametrize("adapted", [False, True], ids=["full", "lora"])
def test_minilora_and_pytorch_take_the_same_steps(adapted):
    pytest.importorskip("torch").set_num_threads(1)
    from tests.benchmarks import training_steps

    assert same_losses(training_steps.steps(TINY, adapted, compiled=False)).startswith("loss 5.5")


@pytest.mark.oracle
def test_grouped_heads_in_pytorch():
    torch = pytest.importorskip("torch")
    from tests.benchmarks import ours, torch_llama

    model = ours.fresh_model(TINY, heads=1)
    ids, targets = ours.batches(TINY)[0]
    theirs = torch_llama.from_minilora(model)(torch.tensor(ids), torch.tensor(targets))
    assert theirs.item() == pytest.approx(model.loss(ids, targets).item(), rel=1e-5)
