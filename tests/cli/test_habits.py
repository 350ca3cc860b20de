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
    said = r"the schedule ends at step 9 instead of 5: the learning rate at step 5 is 0\.0\d+ instead of 0\.00\d+"
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
    rows = {line.split()[0]: line.split() for line in lines[1:-1]}
    assert rows["bard"][1:-3] == ["lora", "r=2", "verse", "5/5", "0.05"]
    assert rows["tiny"][1:-3] == ["full", "text", "5/5", "0.002"]
    assert all(re.fullmatch(r"\d\.\d{4}", number) for name in ("bard", "tiny") for number in rows[name][-3:])
    assert "unreadable:" in rows["bad"]
    assert "found no runs in runs; expected folders with run.toml" in fails("runs")


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
    said = r"\d\d\.\d% of the bytes are not ASCII, .* much better result: --targets '\.\*_proj\|lm_head'"
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
        "minilora: warning: french.txt: 120 characters were replaced by ASCII and 30 (3.2%) dropped, such as ×; "
        "without the conversion (--ascii, ascii=True), they are kept\n"
    )
