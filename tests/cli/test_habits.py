"""What people do in their first week: repeat a command with --resume, train longer, start from an adapter."""

import re

import pytest

from minilora import lora
from minilora.cli import main
from minilora.files import read_tensors
from minilora.runs import load_settings


@pytest.fixture
def again(here):
    """The flags with which the run `bard` was started."""
    flags = ["--context", 16, "--batch", 4, "--iters", 5, "--lr", 0.05, "--rank", 2, "--seed", 2]
    settings = load_settings(here.bard / "run.toml")
    return ["finetune", "--model", settings.base, "--corpus", *settings.corpus, *flags, "--out", here.bard]


def test_the_same_command_with_resume(here, minilora, again, contents):
    before = contents(here.bard)
    minilora(*again, "--resume")
    minilora(*again, "--resume", "--preset", "demo")
    assert contents(here.bard) == before


def test_a_finished_run_goes_on_longer(here, minilora):
    out = minilora("finetune", "--resume", "--iters", 9, "--eval-every", 3, "--out", here.bard)
    said = r"the schedule ends at step 9 instead of 5: the learning rate after step 5 is 0\.0\d+ instead of 0\.00\d+"
    assert re.search(said, out)
    assert re.findall(r"^step +(\d)/9", out, re.M) == ["6", "9"]
    settings = load_settings(here.bard / "run.toml")
    assert (settings.training.iters, settings.training.eval_every) == (9, 3)
    assert "9/9" in minilora("runs", here.root)
    assert minilora("finetune", "--resume", "--out", here.bard).count("step") == 0


def test_training_starts_from_an_adapter(here, minilora, fails, adapt):
    common = ["finetune", "--adapter", here.bard, "--corpus", here.text]
    out = minilora(*common, *adapt, "--lr", 1e-9, "--out", "more")
    first, second = (read_tensors(folder / "adapter_model.safetensors") for folder in (here.bard, here.work / "more"))
    assert first.keys() == second.keys()
    assert all(abs(first[key] - second[key]).max() < 1e-6 for key in first)
    assert "tiny" in load_settings("more/run.toml").base  # the base that the adapter records
    before, after = re.findall(r"^step +\d/5 .*val (\S+)", out, re.M)
    assert before == after
    assert "has its own rank; leave out rank, or train a new adapter" in fails(*common, "--rank", 3, "--out", "other")
    minilora("finetune", "--resume", "--out", "more")


def test_a_voice_can_be_trained_further(minilora, here, adapt):
    minilora("finetune", "--voice", "shakespeare", "--corpus", here.text, *adapt, "--out", "more")
    assert lora.read_adapter("more")[0] == lora.read_adapter("shakespeare")[0]


def test_run_toml_works_from_any_folder(here, minilora, monkeypatch, adapt):
    monkeypatch.chdir(here.root)
    minilora("finetune", "--model", "tiny", "--corpus", "text", *adapt, "--out", "first")
    (here.root / "elsewhere").mkdir()
    monkeypatch.chdir(here.root / "elsewhere")
    minilora("finetune", "--preset", "../first/run.toml", "--out", "second")
    first, second = (read_tensors(f"{folder}/adapter_model.safetensors") for folder in ("../first", "second"))
    assert all((first[key] == second[key]).all() for key in first)
    (here.root / "mine.toml").write_text('corpus = ["text"]\nbase = "tiny"\n[training]\niters = 2\ncontext = 9')
    minilora("finetune", "--preset", "../mine.toml", "--out", "third")  # paths beside the preset
    minilora("finetune", "--resume", "--out", "third")


def test_a_table_of_runs(here, minilora, fails):
    (here.root / "bad").mkdir()
    (here.root / "bad" / "run.toml").write_text("corpus = [")
    lines = minilora("runs", here.root).splitlines()
    assert lines[0].split() == ["run", "method", "corpus", "steps", "lr", "first", "last", "best"]
    rows = {line.split()[0]: line.split() for line in lines[1:-2]}
    assert rows["bard"][1:-3] == ["lora", "r=2", "verse", "5/5", "0.05"]
    assert rows["tiny"][1:-3] == ["full", "text", "5/5", "0.002"]
    assert all(re.fullmatch(r"\d\.\d{4}", number) for name in ("bard", "tiny") for number in rows[name][-3:])
    assert lines[-1].startswith("bad cannot be read: ")
    (here.bard / "checkpoint.safetensors").unlink()
    (here.tiny / "log.csv").write_text("a,b\n1,2\n")
    lines = minilora("runs", here.root).splitlines()
    assert [line.split()[4:6] for line in lines if line.startswith("bard ")] == [["–/5", "0.05"]]
    assert "tiny cannot be read: 'val_loss'" in lines
    assert "found no runs in runs; expected folders that contain run.toml" in fails("runs")


def test_texts_in_other_letters_and_encodings(here, minilora, fails, adapt):
    text = "Быть или не быть, вот в чём вопрос. " * 30
    (here.work / "utf8.txt").write_text(text, encoding="utf-8")
    (here.work / "cp1251.txt").write_bytes(text.encode("cp1251"))
    common = ["--context", 16, "--windows", 4]
    known = minilora("eval", "--corpus", "utf8.txt", *common)
    found = minilora("eval", "--corpus", "cp1251.txt", "--encoding", "cp1251", *common)
    assert found.replace("cp1251", "utf8") == known
    assert "cp1251.txt is not UTF-8: byte 0 cannot be decoded" in fails("eval", "--corpus", "cp1251.txt", *common)
    flags = ["finetune", *adapt, "--corpus", "cp1251.txt", "--encoding", "cp1251", "--out"]
    said = r"\d\d\.\d% of the bytes are not ASCII, .* start a new run that .*: --targets '\.\*_proj\|lm_head'"
    assert re.search(said, minilora(*flags, "one"))
    assert "not ASCII" not in minilora(*flags, "two", "--targets", ".*_proj|lm_head")
    assert load_settings("one/run.toml").encoding == "cp1251"
    minilora("finetune", "--resume", "--out", "one")


def test_conversion_to_ascii(here, capsys):
    (here.work / "french.txt").write_text("Une crème brûlée à la carte. × " * 30, encoding="utf-8")
    capsys.readouterr()
    assert main(["eval", "--corpus", "french.txt", "--ascii", "--context", "16", "--windows", "4"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("held-out loss on french.txt: ")
    assert err == (
        "minilora: warning: french.txt: 120 characters were replaced by ASCII characters and 30 (3.2% of the text) "
        "were dropped, such as ×; leave out --ascii (in Python, ascii=True) to keep them\n"
    )


def test_a_run_whose_text_and_base_have_moved(here, minilora, fails, original):
    (here.root / "more").write_text("other text " * 99)
    common = ["finetune", "--resume", "--iters", 6, "--out", here.bard]
    before = (here.bard / "run.toml").read_bytes()
    assert "the training text is not the same as when" in fails(*common, "--corpus", here.root / "more")
    assert (here.bard / "run.toml").read_bytes() == before
    minilora(*common, "--corpus", here.verse, "--model", here.tiny)
    assert load_settings(here.bard / "run.toml").base == str(here.tiny)


def test_a_run_without_its_checkpoint_is_not_started_again(here, fails, contents):
    (here.bard / "checkpoint.safetensors").unlink()
    before = contents(here.bard)
    assert "checkpoint.safetensors is missing; choose another folder for a new run" in fails(
        "finetune", "--resume", "--iters", 9, "--out", here.bard
    )
    assert contents(here.bard) == before


@pytest.mark.parametrize("name", ["model.safetensors", "adapter_model.safetensors", "tokenizer.json", "run.toml"])
def test_files_of_the_users_own_are_not_replaced(name, here, fails, adapt, contents):
    (here.work / "out").mkdir()
    (here.work / "out" / name).write_text("seed = 1" if name == "run.toml" else "mine")
    before = contents(here.work)
    for command in (["finetune", "--corpus", here.text, *adapt], ["merge"], ["mix"]):
        if name != "run.toml" or command[0] == "finetune":
            given = ["--adapter", here.bard] if command[0] != "finetune" else ["--model", here.tiny]
            assert "already contains" in fails(*command, *given, "--out", "out")
    assert contents(here.work) == before


def test_what_cannot_start_leaves_nothing(here, fails, adapt):
    flags = ["finetune", "--model", here.tiny, "--corpus", here.text, *adapt, "--out", "out"]
    assert "a context of 17 tokens is longer" in fails(*flags, "--context", 17)
    assert "--rank has no effect on full training" in fails(*flags, "--method", "full", "--rank", 2)
    assert "expected `lr` to be positive and finite, got -1.0" in fails(*flags, "--lr", -1)
    assert not (here.work / "out").exists()


def test_settings_of_a_run_that_started_from_an_adapter(here, minilora, fails, adapt):
    minilora("finetune", "--adapter", here.bard, "--corpus", here.text, *adapt, "--out", "more")
    again = ["finetune", "--preset", "more/run.toml", "--out"]
    assert "has its own rank; leave out rank" in fails(*again, "other", "--rank", 16)
    minilora(*again, "same")
    first, second = (read_tensors(here.work / name / "adapter_model.safetensors") for name in ("more", "same"))
    assert all((first[key] == second[key]).all() for key in first)


def test_an_adapter_whose_base_has_moved_is_trained_further(here, minilora, adapt):
    here.tiny.rename(here.root / "moved")
    flags = ["--model", here.root / "moved", "--corpus", here.text, *adapt]
    minilora("finetune", "--adapter", here.bard, *flags, "--out", "more")
