"""A run stops at values that are not finite, which never overwrite a valid checkpoint, and at Ctrl-C."""

import signal
import threading
import warnings

import numpy as np
import pytest

from minilora import lora
from minilora.files import read_tensors
from minilora.training import AdamW, CheckpointError, Interrupted, TrainingError
from minilora.training import run as run_module


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoint.safetensors"


@pytest.mark.parametrize(("method", "step"), [("full", 1), ("full", 6), ("lora", 4)])
def test_a_loss_that_is_not_finite_stops_the_run(step, method, make_model, config, run, path, act_in, bits):
    """The error names the step and the checkpoint, which is unchanged and can be resumed."""
    model, c, good = make_model(method), config(checkpoint_every=2), []

    def poison():
        good.append(path.read_bytes())
        model.parameters(trainable=True)[0].data[0, 0] = np.nan

    act_in(model, step, poison)
    with pytest.raises(TrainingError, match=rf"loss is nan .* at step {step};") as caught:
        run(model, c, path)
    assert f"the last good state is in {path}. A lower learning rate than 0.05" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [path.read_bytes()] == good
    resumed, whole = make_model(method), make_model(method)
    assert run(resumed, c, path, resume=True) == run(whole, c)
    assert bits(resumed) == bits(whole)


@pytest.mark.parametrize("lr", [1e20, 1e300])
def test_an_enormous_learning_rate(lr, make_model, config, run, path):
    """One error and no warnings, and the checkpoint contains only finite values."""
    c = config(lr=lr, iters=60, checkpoint_every=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(TrainingError, match=r"(after|at) step \d+; the last good state is in"):
            run(make_model(), c, path)
    tensors = read_tensors(path)
    assert all(np.isfinite(tensors[name]).all() for name in ("parameters", "losses", "evaluations"))


def test_a_parameter_that_is_not_finite_is_not_saved(make_model, config, run, path, monkeypatch):
    """After the last step, no later loss would reveal it."""
    update = AdamW.step

    def overflow(self, lr):
        update(self, lr)
        if self.steps == 6:
            self.data[3] = np.inf

    monkeypatch.setattr(AdamW, "step", overflow)
    with pytest.raises(TrainingError, match="after step 6; the last good state is in"):
        run(make_model(), config(checkpoint_every=1), path)
    tensors = read_tensors(path)
    assert np.isfinite(tensors["parameters"]).all()
    assert len(tensors["losses"]) == 5


def test_a_validation_loss_that_is_not_finite_stops_the_run(make_model, config, run, path, monkeypatch):
    monkeypatch.setattr(run_module, "evaluate", lambda *_, **__: np.inf)
    with pytest.raises(TrainingError, match="the validation loss is inf after step 0; the last good state is in"):
        run(make_model(), config(), path)


def test_a_checkpoint_that_was_not_kept_is_not_spoken_of(make_model, config, run, act_in):
    model = make_model()
    act_in(model, 3, lambda: model.model.norm.weight.data.fill(np.nan))
    with pytest.raises(TrainingError, match="at step 3; no checkpoint was saved"):
        run(model, config())


@pytest.mark.parametrize(("times", "error", "saved"), [(1, Interrupted, 3), (2, KeyboardInterrupt, 0)])
def test_ctrl_c_saves_the_step_and_a_second_one_stops_at_once(
    times, error, saved, make_model, config, run, act_in, path
):
    model, before = make_model(), signal.getsignal(signal.SIGINT)
    act_in(model, 3, lambda: [signal.raise_signal(signal.SIGINT) for _ in range(times)])
    with pytest.raises(error):
        run(model, config(checkpoint_every=100), path)
    assert signal.getsignal(signal.SIGINT) is before
    assert len(read_tensors(path)["losses"]) == saved


def test_a_run_in_a_thread(make_model, config, run, bits):
    """Only the main thread can handle signals. In another thread, as in an app, a run is the same without Ctrl-C."""
    models, histories = [make_model(), make_model()], []
    thread = threading.Thread(target=lambda: histories.append(run(models[0], config())))
    thread.start()
    thread.join()
    assert histories == [run(models[1], config())]
    assert bits(models[0]) == bits(models[1])


def test_a_checkpoint_is_not_begun_anew_by_mistake(make_model, config, run, path):
    run(make_model(), config(), path)
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match="already exists; continue with resume=True"):
        run(make_model(), config(), path)
    assert path.read_bytes() == before


def test_a_merged_model_is_not_trained(make_model, config, run):
    model = make_model()
    lora.inject(model, lora.LoraConfig(r=2), rng=np.random.default_rng(0))
    lora.merge(model)
    with pytest.raises(lora.AdapterError, match="cannot train while adapters are merged"):
        run(model, config())
