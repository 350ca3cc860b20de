"""The handlers: what they display, and that browsers do not affect each other."""

import re
from html import unescape

import pytest

from minilora import lora
from minilora.app import actions, learning
from minilora.app.session import Session
from minilora.assets import BASE
from minilora.generation import Sampler, write
from minilora.nn import Llama

NONE = [0.0] * 8


@pytest.fixture
def act(model):
    return actions.Actions(model, seconds=1)


def mix(*strengths):
    return [*strengths, *NONE[len(strengths) :]]


def texts(html):
    """Return the texts of the base and of the voices as plain text."""
    return [
        unescape(re.sub("<[^>]*>", "", part)) for part in re.findall('class="written">(.*?)</span></p>', html, re.S)
    ]


def test_writing_shows_both_texts_and_their_numbers(act, session):
    *_, (status, html, meter, following) = act.write(session, "The king ", 0.8, 3, 50, *mix(1.0))
    base = Llama.from_pretrained(BASE)
    assert texts(html)[0] == write(base, "The king ", 50, Sampler(0.8), 3) != texts(html)[1]
    assert status == "50 of 50 characters, seed 3"
    assert "nats per character" in meter
    assert 'class="next"' in following


def test_sliders_are_the_voices_in_their_order(act, session, model):
    for place, name in enumerate(actions.names(session)):
        *_, (_, html, _, _) = act.write(session, "The king ", 0.8, 0, 30, *mix(*[0.0] * place, 1.0))
        assert texts(html)[1] == write(model, "The king ", 30, Sampler(0.8), 0, adapters=name)


def test_a_voice_that_no_longer_exists_is_an_error(act, session):
    """For example, the slider of a page that was open when the app was restarted."""
    with pytest.raises(ValueError, match="The voice gone no longer exists"):
        actions.parameters(session, "gone")
    with pytest.raises(ValueError, match="A voice trained on this page is gone"):
        next(act.write(session, "The king ", 0.8, 0, 30, *[0.0] * 6, 1.0, 0.0))
    *_, (_, html, _, _) = act.write(session, "The king ", 0.8, 0, 30, *[0.0] * 8)
    assert texts(html)[0] == texts(html)[1]


def test_a_stop_is_for_the_text_that_is_being_written(act, session):
    actions.stop_writing(session)  # too early: there is no text to stop yet
    writing = act.write(session, "The king ", 0.8, 0, 200, *mix(1.0))
    next(writing)
    actions.stop_writing(session)
    *_, (status, _, _, _) = writing
    assert int(status.split()[0]) < 200


def test_two_browsers_write_at_once_and_read_the_same_as_alone(act, model, teach, tmp_path, monkeypatch):
    monkeypatch.setattr("minilora.app.writing.PAUSE", -1)
    one, other = Session(tmp_path), Session(tmp_path)
    teach(other, "mine", like="recipe")
    calls = [(one, mix(1.0)), (other, mix(*[0.0] * 5, 1.0))]
    alone = [list(act.write(session, "The king ", 0.8, 0, 40, *strengths))[-1] for session, strengths in calls]
    running = [act.write(session, "The king ", 0.8, 0, 40, *strengths) for session, strengths in calls]
    *_, together = zip(*running, strict=True)  # the steps of the two alternate
    assert list(together) == alone
    assert texts(alone[1][1])[1] == write(model, "The king ", 40, Sampler(0.8), 0, adapters="recipe")
    assert "mine" not in actions.names(one)


def test_a_voice_is_trained_in_its_own_session(act, session, model, tmp_path, recipes):
    before = {name: array.tobytes() for name, array in model.state_dict().items()}
    status, progress = list(act.learn(session, "cook", recipes, None))[-1]
    assert status.startswith("Trained for")
    assert "cook now has a slider" in status
    assert progress.finished
    assert list(session.voices) == ["cook"]
    assert actions.names(session)[-1] == "cook"
    assert actions.names(Session(tmp_path)) == actions.names(session)[:-1]
    assert {name: array.tobytes() for name, array in model.state_dict().items()} == before
    assert lora.adapters(model) == actions.names(session)[:-1]
    assert "6.19%" in actions.parameters(session, "cook")
    assert "bit-for-bit identical" in actions.merging(session, "cook")


def test_errors_are_reported_before_the_queue_and_after_it(act, session, teach, recipes):
    for handler in (act.check, act.learn):
        with pytest.raises(ValueError, match="already a voice called shakespeare"):
            next(handler(session, "shakespeare", recipes, None))
    assert "one voice is trained at a time" in next(act.check(session, "cook", recipes, None))
    for name in "abc":
        teach(session, name)
    for handler in (act.check, act.learn):
        with pytest.raises(ValueError, match="at most 3 new voices"):
            next(handler(session, "cook", recipes, None))


def test_a_stopped_voice_is_kept(act, session, recipes):
    learns = actions.Actions(act.model, seconds=600).learn(session, "cook", recipes, None)
    next(learns)
    next(learns)
    actions.stop_learning(session)
    *_, (status, _) = learns
    assert status.startswith("Trained for 2 steps")
    assert list(session.voices) == ["cook"]


def test_a_stop_also_cancels_a_queued_training_but_not_the_next(act, session, recipes, monkeypatch):
    monkeypatch.setattr(learning, "learn", lambda *_: iter([]))
    actions.stop_learning(session)  # too early: there is nothing to stop yet
    for stop in (False, True, False):
        list(act.check(session, "cook", recipes, None))
        if stop:
            actions.stop_learning(session)
            with pytest.raises(ValueError, match="Training was stopped before it started"):
                list(act.learn(session, "cook", recipes, None))
        else:
            assert len(list(act.learn(session, "cook", recipes, None))) == 1
