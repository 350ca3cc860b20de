"""`train_steps`, for callers with their own display: the same run as with `train`."""

import contextvars
import threading

import numpy as np
import pytest

from minilora.training import train, train_steps


@pytest.fixture
def parts(make_model, ids, config):
    return make_model("lora"), ids[:300], ids[300:], config()


@pytest.fixture
def whole(parts, make_model, bits):
    """The final parameters and the history of the same run with `train`."""
    twin = make_model("lora")
    history = train(twin, *parts[1:], quiet=True)
    return bits(twin), history


def test_it_yields_after_every_step_and_at_the_end_and_says_nothing(parts, whole, bits, capsys):
    lengths, evaluated = [], []
    for run in train_steps(*parts):
        lengths.append(len(run.history.losses))
        evaluated.append([step for step, _ in run.history.evaluations])
    assert lengths == [1, 2, 3, 4, 5, 6, 6]
    assert evaluated == [[0], [0], [0, 2], [0, 2], [0, 2, 4], [0, 2, 4], [0, 2, 4, 6]]
    assert (bits(parts[0]), run.history) == whole
    assert capsys.readouterr() == ("", "")


def test_closing_it_saves_the_state_and_stops(parts, whole, tmp_path, bits):
    model, *rest = parts
    path = tmp_path / "state"
    steps = train_steps(model, *rest, path)
    for _ in range(2):
        next(steps)
    steps.close()
    assert model.rng is None  # no longer in training mode
    history = train(model, *rest, checkpoint_path=path, resume=True, quiet=True)
    assert (bits(model), history) == whole


def test_each_step_may_come_in_another_thread_and_context(parts, whole, bits):
    """As in a web server. NumPy's error settings outside the steps are unchanged."""
    steps, found = train_steps(*parts), []
    for _ in range(7):
        thread = threading.Thread(target=contextvars.Context().run, args=[lambda: found.append(next(steps))])
        thread.start()
        thread.join()
    assert len(found) == 7
    assert np.geterr() == {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}
    assert (bits(parts[0]), found[-1].history) == whole


def test_a_mistake_is_found_before_anything_is_written(parts, tmp_path):
    model, _, val_ids, config = parts
    with pytest.raises(ValueError, match="tokens, but one window needs"):
        next(train_steps(model, val_ids[:3], val_ids, config, tmp_path / "state"))
    assert not list(tmp_path.iterdir())
