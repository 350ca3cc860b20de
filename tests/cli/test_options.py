"""Arguments as people write them: adapters by name or path, outputs that cannot be written, narrow terminals."""

import json
import re
import sys
from importlib import metadata

import pytest

from minilora.cli import COMMANDS, main
from minilora.cli.options import split_strength
from minilora.messages import install_command


@pytest.mark.parametrize(
    ("argument", "name", "strength"),
    [
        ("shakespeare", "shakespeare", 1.0),
        ("runs/bard:0.7", "runs/bard", 0.7),
        ("bard:-2e-1", "bard", -0.2),
        (r"C:\runs\bard", r"C:\runs\bard", 1.0),
        (r"C:\runs\bard:0.5", r"C:\runs\bard", 0.5),
        ("C:/runs/bard", "C:/runs/bard", 1.0),
        ("hdfs://host:80/x", "hdfs://host:80/x", 1.0),
    ],
)
def test_a_strength_follows_the_last_colon(argument, name, strength):
    assert split_strength(argument) == (name, strength)


def test_a_folder_with_a_colon_in_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run:2").mkdir()
    assert split_strength("run:2") == ("run:2", 1.0)
    assert split_strength("run:2:0.5") == ("run:2", 0.5)


def test_voices_and_folders_are_accepted_alike(here, minilora):
    common = ["generate", "--model", here.tiny, "--tokens", 4, "--prompt", "The"]
    assert minilora(*common, "--voice", here.bard) == minilora(*common, "--adapter", here.bard)
    texts = [minilora("generate", flag, "python:0.5", "--tokens", 4) for flag in ("--voice", "--adapter")]
    assert texts[0] == texts[1]
    (here.work / "python").mkdir()  # a folder of that name without an adapter does not hide the voice
    assert minilora("generate", "--voice", "python:0.5", "--tokens", 4) == texts[0]
    assert minilora("compare", "--voices", "python", "--tokens", 4)
    assert "fits the packaged base model" in minilora("info", "python")


@pytest.mark.parametrize(
    "command",
    [
        "eval --corpus text --json {file}/x.json",
        "finetune --corpus pastiche --out {file}",
        "finetune --corpus pastiche --out {file}/new",
        "merge --voice python --out {file}",
        "demo --out {file}",
        "laws --only merge --json {file}/x.json",
        "bench --json {root}",
    ],
)
def test_outputs_that_cannot_be_written_are_reported_first(command, here, capsys):
    file = here.work / "a-file"
    file.write_text("mine")
    assert main(command.format(file=file, root=here.root).split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.search(r"error: (--\w+: cannot write to|expected --\w+ to name a)", err)
    assert file.read_text() == "mine"


def test_a_table_of_the_users_own_is_not_replaced(here, fails, adapt):
    (here.work / "out").mkdir()
    (here.work / "out" / "log.csv").write_text("mine")
    line = fails("finetune", "--model", here.tiny, "--corpus", here.text, *adapt, "--out", "out")
    assert "out already contains log.csv, which would be replaced; choose another folder" in line
    assert [file.name for file in (here.work / "out").iterdir()] == ["log.csv"]


def test_a_rank_above_the_size_of_a_matrix_is_remarked_on(here, minilora, adapt):
    flags = ["finetune", "--model", here.tiny, "--corpus", here.text, *adapt]
    said = (
        r"rank 17 is larger than the smaller dimension of model\.layers\.0\.self_attn\.q_proj \(16 × 16\); rank 16 can"
    )
    assert re.search(said, minilora(*flags, "--rank", 17, "--out", "one"))
    assert "is larger than the smaller" not in minilora(*flags, "--rank", 16, "--out", "two")


@pytest.mark.parametrize("command", [[], *([module.__name__.rpartition(".")[2]] for module in COMMANDS)], ids=str)
def test_help_fits_a_narrow_terminal(command, monkeypatch, capsys):
    """Only the examples, which can be copied, and the names of flags are wider."""
    monkeypatch.setenv("COLUMNS", "40")
    with pytest.raises(SystemExit):
        main([*command, "--help"])
    wide = [line for line in capsys.readouterr().out.splitlines() if len(line) > 40]
    assert all(re.match(r"  minilora |  +\[?-", line) for line in wide)


def test_install_commands_lead_to_where_minilora_came_from(monkeypatch):
    def installed(origin):
        record = None if origin is None else json.dumps(origin)
        found = type("Distribution", (), {"read_text": lambda self, name: record})
        monkeypatch.setattr(metadata, "distribution", lambda name: found())
        return install_command("app")

    pip = f"{sys.executable} -m pip install"
    assert installed({"url": "file:///home/me/a%20clone", "dir_info": {}}) == f"{pip} '/home/me/a clone[app]'"
    assert installed({"url": "file:///x", "dir_info": {"editable": True}}) == f"{pip} -e '/x[app]'"
    assert installed({"url": "https://host/x.whl", "archive_info": {}}) == f"{pip} 'minilora[app]'"
    assert installed(None) == f"{pip} 'minilora[app]'"
