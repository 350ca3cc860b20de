"""A run that is stopped and resumed ends bit-for-bit identical to an uninterrupted run."""

import contextlib
import signal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilora.training import CheckpointError, Interrupted

ITERS = 6
METHODS = [("full", 0.0), ("lora", 0.0), ("lora", 0.4)]


class Crash(Exception):
    """Simulates a power failure: the run ends without saving anything more."""


def crash():
    raise Crash


def ctrl_c():
    signal.raise_signal(signal.SIGINT)


def ctrl_c_twice():
    ctrl_c()
    ctrl_c()


STOPS = {ctrl_c: Interrupted, ctrl_c_twice: KeyboardInterrupt, crash: Crash}


@pytest.fixture(scope="session")
def result(make_model, run, bits):
    """result(method, dropout, config, path, ...): the final parameters, losses, evaluations and checkpoint of a run."""

    def of(method, dropout, config, path, prepare=lambda model: None, resume=False):
        model = make_model(method, dropout)
        prepare(model)
        history = run(model, config, path, resume=resume, threads=1)  # SIGINT is raised where the loss is computed
        return bits(model), history.losses, history.evaluations, path.read_bytes()

    return of


@settings(deadline=None, max_examples=20)
@given(
    method=st.sampled_from(METHODS),
    stops=st.lists(st.tuples(st.integers(1, ITERS), st.sampled_from(list(STOPS))), min_size=1, max_size=3),
    eval_every=st.integers(1, 4),
    checkpoint_every=st.integers(1, 4),
    accumulate=st.integers(1, 2),
)
def test_a_run_resumed_is_a_run_that_never_stopped(
    method, stops, eval_every, checkpoint_every, accumulate, config, result, act_in, tmp_path_factory
):
    c = config(iters=ITERS, eval_every=eval_every, checkpoint_every=checkpoint_every, accumulate=accumulate)
    path = tmp_path_factory.getbasetemp() / "checkpoint.safetensors"
    path.unlink(missing_ok=True)
    whole = result(*method, c, path)
    path.unlink()
    for call, act in stops:  # calls are counted from where the run resumes, so `call` may be past its end
        with contextlib.suppress(STOPS[act]):
            result(*method, c, path, lambda model, c=call, a=act: act_in(model, c, a), resume=path.exists())
    assert result(*method, c, path, resume=True) == whole


@pytest.mark.parametrize("stop", [1, 4, ITERS])
@pytest.mark.parametrize(("method", "dropout"), METHODS)
def test_ctrl_c_lets_the_step_end_and_no_step_is_done_again(method, dropout, stop, config, result, act_in, tmp_path):
    """The run resumes from that step, even if no checkpoint was due."""
    c, path, done = config(iters=ITERS, checkpoint_every=100), tmp_path / "stopped", []
    with pytest.raises(Interrupted, match=f"^stopped after step {stop} of {ITERS}$"):
        result(method, dropout, c, path, lambda model: act_in(model, stop, ctrl_c))

    def count(model):
        loss = model.loss
        model.loss = lambda *window: (done.append(1) if model.rng is not None else None) or loss(*window)

    resumed = result(method, dropout, c, path, count, resume=True)
    assert len(done) == ITERS - stop
    assert resumed == result(method, dropout, c, tmp_path / "whole")


def test_resuming_a_finished_run_changes_nothing(config, result, tmp_path):
    path = tmp_path / "run"
    assert result("lora", 0.4, config(), path) == result("lora", 0.4, config(), path, resume=True)


def test_without_a_path_there_is_nothing_to_resume(make_model, config, run):
    with pytest.raises(CheckpointError, match="this run has no checkpoint_path"):
        run(make_model(), config(), resume=True)
