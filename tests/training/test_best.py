"""Which result a run keeps, when it stops early, how a finished run goes on, and its log."""

import csv
import re

import pytest

from minilora.training import CheckpointError, History, train_steps
from minilora.training import run as run_module
from minilora.training.log import write_log

VALUES = 3.0, 2.0, 1.0, 2.0  # the validation losses after 0, 2, 4 and 6 steps


@pytest.fixture
def losses(monkeypatch):
    """losses(values): make the next evaluations return these values."""

    def arrange(values):
        left = iter(values)
        monkeypatch.setattr(run_module, "evaluate", lambda *_, **options: next(left))

    return arrange


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoint.safetensors"


def test_the_best_parameters_are_those_of_a_shorter_run(make_model, config, run, losses, bits):
    models = {}
    for name, changes in {"best": {"keep": "best"}, "last": {}, "shorter": {"iters": 4}}.items():
        losses(VALUES)
        models[name] = make_model("lora")
        history = run(models[name], config(schedule="constant", **changes))
        assert history.best == (4, 1.0)
        assert len(history.losses) == changes.get("iters", 6)
    assert bits(models["best"]) == bits(models["shorter"]) != bits(models["last"])


@pytest.mark.parametrize("stop", range(1, 7))
def test_a_resumed_run_keeps_the_same_best(stop, make_model, config, run, losses, path, bits, ids):
    whole, stopped, resumed = make_model("lora"), make_model("lora"), make_model("lora")
    losses(VALUES)
    run(whole, config(keep="best"))
    losses(VALUES)
    steps = train_steps(stopped, ids[:300], ids[300:], config(keep="best"), path)
    for _ in range(stop):
        next(steps)
    steps.close()
    losses(VALUES[(stop + 1) // 2 :])
    run(resumed, config(keep="best"), path, resume=True)
    assert bits(resumed) == bits(whole)


def test_a_run_stops_when_the_loss_no_longer_falls(make_model, config, run, losses, path, capsys):
    losses([3.0, 1.0, 2.0, 1.5, 0.5])
    history = run(make_model(), config(iters=20, patience=2), path, quiet=False)
    assert [step for step, _ in history.evaluations] == [0, 2, 4, 6]
    assert len(history.losses) == 6
    said = "stopped early after step 6: 2 evaluations in a row without a validation loss below 1.000, which was reached"
    assert said in capsys.readouterr().out
    losses([])
    assert run(make_model(), config(iters=20, patience=2), path, resume=True, quiet=False) == history
    assert said in capsys.readouterr().out  # it remains stopped, and says so
    losses([0.5, 3.0, 2.0, 1.0, 1.0])
    longer = run(make_model(), config(iters=20, patience=3), path, resume=True)
    assert [step for step, _ in longer.evaluations] == [0, 2, 4, 6, 8, 10, 12, 14]


def test_without_patience_a_run_never_stops(make_model, config, run, losses):
    losses([1.0, 2.0, 3.0, 4.0])
    assert len(run(make_model(), config()).losses) == 6


def test_a_finished_run_goes_on_longer(make_model, config, run, path, bits):
    """With a constant learning rate, it is the same run as one that was longer from the start."""
    whole, parts = make_model("lora"), make_model("lora")
    history = run(whole, config(schedule="constant", iters=10))
    run(make_model("lora"), config(schedule="constant"), path)
    assert run(parts, config(schedule="constant", iters=10), path, resume=True) == history
    assert bits(parts) == bits(whole)
    with pytest.raises(
        CheckpointError,
        match=r"expected `iters` to be at least 10, the steps already done in .*, got 9; choose a larger",
    ):
        run(make_model("lora"), config(schedule="constant", iters=9), path, resume=True)


@pytest.mark.parametrize(("every", "steps"), [(None, [0, 2, 4, 6]), (3, [0, 3, 6]), (4, [0, 4, 6]), (9, [0, 6])])
def test_samples_have_their_own_interval(every, steps, make_model, config, run, capsys):
    model, seen = make_model(), []
    run(model, config(sample_every=every), quiet=False, sample=lambda: seen.append(model.rng) or f"sample {len(seen)}")
    assert re.findall(r"    sample (\d+)", capsys.readouterr().out) == [str(i + 1) for i in range(len(steps))]
    assert seen == [None] * len(steps)  # in evaluation mode


def test_the_log_is_a_table_of_all_losses(make_model, config, run, path, tmp_path):
    log = tmp_path / "log.csv"
    history = run(make_model(), config(), path, log_path=log)
    rows = list(csv.DictReader(log.open()))
    assert [int(row["step"]) for row in rows] == [0, 1, 2, 3, 4, 5, 6]
    assert [float(row["train_loss"]) for row in rows[1:]] == pytest.approx(history.losses, rel=1e-5)
    assert {int(row["step"]): float(row["val_loss"]) for row in rows if row["val_loss"]} == pytest.approx(
        dict(history.evaluations), rel=1e-5
    )
    assert rows[0]["train_loss"] == ""
    before = log.read_bytes()
    assert run(make_model(), config(), path, resume=True, log_path=log) == history
    assert log.read_bytes() == before


def test_the_log_of_a_run_without_steps(tmp_path):
    assert write_log(tmp_path / "log.csv", History()).read_text() == "step,train_loss,val_loss\n"


@pytest.mark.parametrize("wrong", [{"keep": "first"}, {"patience": 0}, {"sample_every": 1.5}, {"patience": "two"}])
def test_invalid_settings(wrong, config):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"expected `{name}` to be"):
        config(**wrong)
