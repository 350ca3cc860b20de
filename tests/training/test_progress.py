"""Progress display: a bar in a terminal, one updated line in a notebook, and plain lines elsewhere."""

import re
import sys
from types import ModuleType, SimpleNamespace

import pytest

from minilora.training import progress
from minilora.training.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    """A manual clock: clock[0] is the time in seconds and changes only when a test sets it."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_plain_lines_come_every_ten_seconds(clock, capsys):
    shown = Progress(iters=100, start=0, tokens_per_step=64)
    for step in range(1, 31):
        clock[0] += 1
        shown.step(step, 3.0 - step / 100)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"step {step:5d}/100  loss {3 - (step + 1) / 200:.3f}  64 tok/s  {left} left"  # the mean of all steps so far
        for step, left in ((10, "1:30"), (20, "1:20"), (30, "1:10"))
    ]


def test_an_evaluation_is_always_told(clock, capsys):
    shown = Progress(iters=100, start=0, tokens_per_step=64)
    shown.evaluation(0, 5.5)
    clock[0] += 2
    shown.step(49, 2.0)
    shown.step(50, 3.0)
    shown.evaluation(50, 2.25)
    shown.sample(50, "The king\nis here")
    assert capsys.readouterr().out.splitlines() == [
        "step     0/100  val 5.500",
        "step    50/100  loss 2.500  val 2.250  1,600 tok/s  0:02 left",
        "    The king",
        "    is here",
    ]


def test_one_line_per_step_and_one_meaning_of_loss(clock, capsys):
    """No plain line directly before an evaluation; *loss* is the mean since the previous one on every line."""
    shown = Progress(iters=60, start=20, tokens_per_step=64, eval_every=20, losses=[9.0, 9.0])
    for step in range(21, 61):
        clock[0] += 5
        shown.step(step, 3.0 if step <= 40 else 1.0)
        if step % 20 == 0:
            shown.evaluation(step, 2.0)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    steps = [int(line[1].split("/")[0]) for line in lines]
    assert steps == sorted(set(steps))
    losses = {step: float(line[3]) for step, line in zip(steps, lines, strict=True)}
    assert losses[22] == pytest.approx((9 + 9 + 3 + 3) / 4)
    assert losses[40] == pytest.approx((9 + 9 + 20 * 3) / 22, abs=1e-3)
    assert {losses[step] for step in steps if step > 40} == {1.0}


def test_a_resumed_run_counts_its_own_speed(clock, capsys):
    shown = Progress(iters=100, start=90, tokens_per_step=64)
    clock[0] += 10
    shown.step(95, 1.0)
    assert capsys.readouterr().out == "step    95/100  loss 1.000  32 tok/s  0:10 left\n"


def test_a_terminal_has_a_bar(clock, capsys, monkeypatch):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True)
    shown = Progress(iters=4, start=0, tokens_per_step=64)
    for step in range(1, 5):
        clock[0] += 1
        shown.step(step, 2.0)
    shown.evaluation(4, 1.75)
    shown.close()
    out, err = capsys.readouterr()
    assert "val 1.750" in out + err
    assert re.search(r"4/4 .*loss 2\.000", err)


def test_a_run_shows_losses_validation_and_samples(make_model, config, run, capsys):
    run(make_model(), config(), quiet=False, sample=lambda: "a sample")
    out = capsys.readouterr().out
    assert re.findall(r"step +(\d+)/6 .*val \d", out) == ["0", "2", "4", "6"]
    assert out.count("    a sample") == 4
    run(make_model(), config(), quiet=True, sample=lambda: "a sample")
    assert capsys.readouterr().out == ""


@pytest.fixture
def notebook(monkeypatch):
    """Simulate IPython in a notebook. Return the displays, each a list of its texts from first to last update."""
    displays = []

    def display(data, *, raw, display_id):
        assert raw
        assert display_id is True
        displays.append([data["text/plain"]])
        update = SimpleNamespace(update=lambda data, raw: displays[-1].append(data["text/plain"]))
        return update

    parts = {"ipykernel": {}, "IPython": {"get_ipython": object}, "IPython.display": {"display": display}}
    for name, contents in parts.items():
        module = ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)
    return displays


def test_a_notebook_has_one_line(clock, capsys, notebook, monkeypatch):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True)
    shown = Progress(iters=4, start=0, tokens_per_step=64)
    shown.evaluation(0, 5.5)
    for step in range(1, 5):
        clock[0] += 0.4
        shown.step(step, 2.0)
    shown.evaluation(4, 1.75)
    shown.sample(4, "The king")
    shown.close()
    (line,) = notebook
    assert line == [
        "",
        "step     0/4  val 5.500",
        "step     2/4  loss 2.000  val 5.500  160 tok/s  0:00 left",
        "step     4/4  loss 2.000  val 5.500  160 tok/s  0:00 left",
        "step     4/4  loss 2.000  val 1.750  160 tok/s  0:00 left",
    ]
    assert capsys.readouterr() == ("    The king\n", "")


def test_a_quiet_run_in_a_notebook_displays_nothing(notebook, capsys):
    shown = Progress(iters=4, start=0, tokens_per_step=64, quiet=True)
    shown.evaluation(4, 1.75)
    shown.sample(4, "The king")
    assert notebook == []
    assert capsys.readouterr() == ("", "")
