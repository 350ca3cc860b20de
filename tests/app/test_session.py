"""The voices trained in a browser belong to its session and do not affect other browsers."""

import pytest

from minilora import lora
from minilora.app.session import MOST, Session
from minilora.voices import stream


def written(model, choice):
    return "".join(letters[0].text for letters in stream(model, "The king ", [choice], tokens=25))


def contents(model):
    return {name: array.tobytes() for name, array in model.state_dict().items()}


def test_a_voice_of_its_own_speaks_and_the_shared_model_stays_as_it_was(session, model, teach):
    before, names = contents(model), lora.adapters(model)
    teach(session, "mine")
    assert written(session.model, "mine") == written(model, "python") != written(model, None)
    assert lora.active(session.model) == lora.active(model) == {}
    assert (contents(model), lora.adapters(model)) == (before, names)
    arrays = {id(array) for array in model.state_dict().values()}
    assert not arrays & {id(array) for array in session.model.state_dict().values()}


def test_a_text_that_is_being_written_keeps_its_model(session, teach):
    teach(session, "first")
    before, names = session.model, lora.adapters(session.model)
    teach(session, "second", like="recipe")
    assert session.model is not before
    assert lora.adapters(before) == names
    assert list(session.voices) == ["first", "second"]
    assert written(session.model, "first") == written(before, "first")


def test_there_is_room_for_three(session, teach):
    for name in ("a", "b", "c"):
        teach(session, name)
    assert len(session.voices) == MOST == 3
    with pytest.raises(ValueError, match="at most 3 new voices"):
        teach(session, "d")
    assert list(session.voices) == ["a", "b", "c"]


def test_a_failed_voice_leaves_the_others(session, teach):
    teach(session, "good")
    before = session.model
    with pytest.raises(lora.AdapterError):
        session.add("never-learned")
    assert (session.model, list(session.voices)) == (before, ["good"])


def test_closing_removes_its_files_and_no_others(tmp_path, teach):
    one, other = Session(tmp_path), Session(tmp_path)
    teach(one, "mine")
    teach(other, "mine")
    kept = other.folder("mine")
    assert one.folder("mine") != kept
    one.close()
    Session(tmp_path).close()  # a session without voices has no files
    assert list(tmp_path.iterdir()) == [kept.parent]
    assert (one.voices, one.model) == ({}, None)
    assert one.stopped == {"writing", "learning"}
