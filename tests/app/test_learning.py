"""Training a voice on a text: unusable texts are rejected, the time limit is kept, and the best adapter is saved."""

import dataclasses
import itertools
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest

from minilora import lora
from minilora.app import learning
from minilora.assets import BASE
from minilora.data import ByteTokenizer
from minilora.nn import Llama
from minilora.runs import load_settings
from minilora.training import History, evaluate

LONG = "All work and no play makes Jack a dull boy.\n" * 30


def training_text(name="diary", pasted=LONG, upload=None, taken=("python", "Mine")):
    return learning.training_text(name, pasted, upload, taken)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": None}, "1 to 20 characters"),
        ({"name": "../up"}, "1 to 20 characters"),
        ({"name": "1st"}, "starting with a letter"),
        ({"name": "x" * 21}, "1 to 20 characters"),
        ({"name": "MINE"}, "already a voice called MINE"),
        ({"name": "base"}, "already a voice called base"),
        ({"pasted": None}, "at least 1,000 characters of training text; this text has 0"),
        ({"pasted": " x" + " " * 2000}, "this text has 1"),
        ({"pasted": "é" * 999}, "this text has 999"),
        ({"pasted": "a\0" * 1000}, "contains NUL bytes"),
        ({"pasted": "a" * 2_097_153}, "2,097,153 bytes; the limit is 2,097,152"),
    ],
)
def test_an_unusable_name_or_text_is_an_error(changes, message):
    with pytest.raises(ValueError, match=message):
        training_text(**changes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x89PNG\r\n\x1a\n\0\0\0" + bytes(5000), "The file is empty, unreadable or not UTF-8 text"),
        (
            "все счастливые семьи похожи\n".encode("cp1251") * 99,
            "The file is empty, unreadable or not UTF-8 text. Save it as",
        ),
        (b'{"prompt": "Once"}\n' * 99, "The file contains JSON records. Save it as plain text"),
        (b"too short", "this text has 9"),
        (b"a" * 2_097_153, "2,097,153 bytes; the limit is 2,097,152"),
    ],
)
def test_a_file_without_usable_text_is_an_error(tmp_path, content, message):
    file = tmp_path / "secret-folder-name.txt"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=message) as raised:
        training_text(pasted=" ", upload=str(file))
    assert "secret" not in str(raised.value)
    with pytest.raises(ValueError, match="Clear one of them"):
        training_text(upload=str(file))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_is_read_as_its_pasted_text(tmp_path, encoding):
    text = LONG.replace("dull", "düll")
    (tmp_path / "a.txt").write_bytes(text.replace("\n", "\r\n").encode(encoding))
    found = training_text(pasted="", upload=str(tmp_path / "a.txt"))
    pasted = training_text(pasted=text.replace("\n", "\r\n"))
    assert np.array_equal(found.train_ids, pasted.train_ids)
    expected = ByteTokenizer().encode(text)
    assert np.array_equal(np.concatenate([found.train_ids, found.val_ids]), expected)
    assert len(ByteTokenizer().decode(found.train_ids)) == int(0.9 * len(text))


def test_the_settings_are_the_demos_and_short_texts_get_a_shorter_context():
    lessons = [training_text(pasted="x" * n) for n in (1000, 1290, 9000)]
    assert [learning.settings(each, 200).training.context for each in lessons] == [99, 128, 128]
    found, demo = learning.settings(lessons[-1], 200), load_settings("demo")
    own = {"eval_every": 200, "eval_windows": learning.WINDOWS}
    assert found.training == dataclasses.replace(demo.training, **own)
    assert found.adapter == dataclasses.replace(demo.adapter, target_modules=learning.TARGETS)
    assert learning.settings(training_text(), 10).training.warmup == 2


def test_a_voice_is_trained_and_saved(tmp_path, recipes):
    *_, end = learning.learn(training_text(pasted=recipes), tmp_path / "cook", seconds=4)
    assert end.finished
    assert end.best[1] < end.evaluations[0][1]
    assert len(end.losses) >= learning.PROBE or end.seconds_left > 0
    model = Llama.from_pretrained(BASE)
    lora.load_adapter(model, tmp_path / "cook")
    found = evaluate(model, training_text(pasted=recipes).val_ids, 128, learning.WINDOWS)
    assert found == pytest.approx(end.best[1], abs=1e-4)


@pytest.fixture
def quick(monkeypatch):
    """quick(losses): replace training with ten empty steps that evaluate to these losses; return the saved adapters."""

    def install(losses, seconds_a_step=0.0):
        clock = SimpleNamespace(now=0.0)
        saved, found = [], iter(losses)

        def steps(*_, **__):
            run = SimpleNamespace(steps=0, model=None, history=History([], [(0, next(found))]))
            run.evaluate = lambda: run.history.evaluations.append((run.steps, next(found)))
            for run.steps in itertools.count(1):
                clock.now += seconds_a_step
                run.history.losses.append(2.0)
                yield run

        monkeypatch.setattr(learning, "run_steps", steps)
        monkeypatch.setattr(learning, "_steps_in", lambda *_: 10)
        monkeypatch.setattr(learning, "PAUSE", -1)
        monkeypatch.setattr(learning, "EVALUATIONS", 5)
        monkeypatch.setattr(learning.time, "monotonic", lambda: clock.now)
        monkeypatch.setattr(learning.lora, "save_adapter", lambda model, folder, name, dtype: saved.append(name))
        return saved

    return install


def test_the_best_is_saved_and_none_that_is_worse(quick, tmp_path):
    saved = quick([1.0, 2.0, 1.5, 1.6, 1.4, 1.7])  # before training, and after steps 2, 4, 6, 8, 10
    *_, end = learning.learn(training_text(), tmp_path, 60)
    assert end.evaluations == [(0, 1.0), (2, 2.0), (4, 1.5), (6, 1.6), (8, 1.4), (10, 1.7)]
    assert saved == ["diary"] * 3  # after steps 2, 4 and 8
    assert end.best == (8, 1.4)
    assert str(end) == ("Trained for 10 steps; kept the state after step 8: held-out loss 1.00 → 1.40 nats per byte.")


def test_every_step_is_shown(quick, tmp_path):
    quick([1.0] * 6, seconds_a_step=2.0)
    shown = list(learning.learn(training_text(), tmp_path, 60))
    assert [len(progress.losses) for progress in shown] == list(range(1, 11))
    assert [progress.seconds_left for progress in shown] == [2.0 * left for left in range(9, -1, -1)]
    assert [progress.finished for progress in shown] == [False] * 9 + [True]


def test_when_stopped_it_keeps_what_it_has(quick, tmp_path):
    saved = quick([1.0, 0.9])
    *_, end = learning.learn(training_text(), tmp_path, 60, stopped=lambda: True)
    assert (end.finished, len(end.losses), saved) == (True, 1, ["diary"])


def test_a_busy_machine_gets_half_as_much_time_again(quick, tmp_path):
    quick([1.0] * 6, seconds_a_step=20.0)
    *_, end = learning.learn(training_text(), tmp_path, 60)
    assert len(end.losses) == 5  # 100 s: the first check above 1.5 × 60 = 90 s


@pytest.mark.parametrize(("seconds", "a_step", "steps"), [(60, 0.5, 104), (60, 0.25, 212), (1, 0.5, learning.PROBE)])
def test_as_many_steps_as_fit_into_the_time(monkeypatch, seconds, a_step, steps):
    clock = SimpleNamespace(now=0.0)

    def slow_first(*_, **__):
        for step in itertools.count():
            clock.now += a_step if step else 9.0
            yield

    monkeypatch.setattr(learning, "run_steps", slow_first)
    monkeypatch.setattr(learning.time, "monotonic", lambda: clock.now)
    assert learning._steps_in(training_text(), seconds) == steps


def test_the_archive_holds_the_folder(tmp_path):
    (tmp_path / "cook").mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / "cook" / name).write_text(name)
    archive = learning.pack(tmp_path / "cook")
    assert archive.name == "cook.zip"
    with zipfile.ZipFile(archive) as file:
        assert file.namelist() == ["cook/adapter_config.json", "cook/adapter_model.safetensors"]
        assert file.read("cook/adapter_config.json") == b"adapter_config.json"
