"""Every error is one line that starts with `minilora: error:`, with exit code 2 and no traceback."""

import re

import pytest

from minilora.cli import main
from minilora.data import sources
from minilora.runs import presets

TUNE = "finetune --model {tiny} --corpus {verse} --context 16 --iters 2 --batch 2 --out out"
LINEAR = "down_proj, gate_proj, k_proj, lm_head, o_proj, q_proj, up_proj, v_proj"
WRITE = "generate --model {tiny} --tokens 5"

CASES = {
    "unknown preset": (f"{TUNE} --preset nothing", f"unknown preset 'nothing'; expected one of {', '.join(presets())}"),
    "unknown corpus": ("eval --model {tiny} --corpus hamlet", "unknown corpus 'hamlet'; expected one of tinysh"),
    "no corpus": ("finetune --model {tiny} --preset {root}/empty.toml --out out", "expected at least one corpus"),
    "missing model": (
        "generate --model nowhere",
        "there is no folder nowhere; models from the Hugging Face Hub must be downloaded first",
    ),
    "missing adapter": (
        f"{WRITE} --adapter nowhere",
        "nowhere is not an adapter folder: expected a folder with adapter_config.json",
    ),
    "unknown target": (f"{TUNE} --targets q_proj,w_proj", f"'w_proj' matches no linear module; .* named {LINEAR}"),
    "broken target expression": (f"{TUNE} --targets (w", "is not a valid regular expression"),
    "rank 0": (f"{TUNE} --rank 0", "rank r to be a positive integer, got 0"),
    "learning rate 0": (f"{TUNE} --lr 0", "expected `lr` to be positive"),
    "context too long": (TUNE.replace("16", "17"), "a context of 17 tokens is longer than the model's maximum of 16"),
    "text too short": (TUNE.replace("{verse}", "{root}/short"), "tokens, but one window needs 17"),
    "enormous learning rate": (f"{TUNE} --lr 1e39", "is not finite|the loss is nan"),
    "out below a file": (TUNE.replace("--out out", "--out {verse}/out"), "verse"),
    "demo below a file": ("demo --quick --out {verse}/out", "verse"),
    "json below a file": ("eval --model {tiny} --corpus {verse} --windows 2 --json {verse}/x.json", "verse"),
    "long prompt": (f"{WRITE} --prompt 12345678901234567", "expected a prompt of 1 to 16 tokens .*, got 17"),
    "no text to stop at": ("generate --model {tiny} --stop=", "argument --stop: expected a text to stop at"),
    "no tokens": ("generate --model {tiny} --tokens 0", "expected `tokens` to be at least 1, got 0"),
    "negative temperature": (
        f"{WRITE} --temperature -1",
        "expected `temperature` to be a number of at least 0, got -1",
    ),
    "top-k 0": (f"{WRITE} --top-k 0", "expected `top_k` to be a positive integer or None, got 0"),
    "top-p 2": (f"{WRITE} --top-p 2", "expected `top_p` to be a number above 0 and at most 1, or None, got 2"),
    "unknown method": (f"{TUNE} --method lorra", "argument --method: invalid choice: 'lorra'"),
    "strength is a word": (f"{WRITE} --adapter {{bard}}:much", "expected an adapter or voice as NAME or NAME:STRENGTH"),
    "strength is nan": (f"{WRITE} --adapter {{bard}}:nan", "expected an adapter or voice as NAME or NAME:STRENGTH"),
    "merge nothing": ("merge --model {tiny} --out out", "expected at least one --adapter"),
    "resume nothing": ("finetune --resume --out nowhere", "there is no run to resume in nowhere"),
    "unknown command": ("finetun", r"unknown command 'finetun' \(did you mean finetune\?\); see minilora --help"),
    "unknown flag": ("generate --temprature 1", "unrecognized arguments: --temprature 1; see minilora generate --help"),
    "missing flag": ("merge --model {tiny}", "required: --out; see minilora merge --help"),
    "rank is a word": (f"{TUNE} --rank many", "--rank: invalid int value: 'many'; see minilora finetune --help"),
    "a name with a line break": ("info two\nlines", "there is no folder two lines"),
}


@pytest.mark.parametrize("case", CASES)
def test_one_line(case, here, fails, contents):
    (here.root / "empty.toml").write_text("[lora]\n[training]\ncontext = 16\n")
    (here.root / "short").write_text("To be, or not to be. " * 4)
    before = contents(here.root)
    line, words = CASES[case]
    arguments = [word.format(**vars(here)) for word in line.split(" ") if word]
    assert re.search(words, fails(*arguments))
    after = contents(here.root)
    assert {name: after.get(name) for name in before} == before  # existing files are unchanged


def test_a_missing_corpus_without_a_network(here, capsys):
    capsys.readouterr()
    assert main(["eval", "--model", str(here.tiny), "--corpus", "tinyshakespeare"]) == 2
    note, line = capsys.readouterr().err.splitlines()
    assert note.startswith("downloading tinyshakespeare: 1,115,394 bytes from https://")
    assert line.startswith(
        "minilora: error: tinyshakespeare could not be downloaded: there is no network. Download https://"
    )
    assert sources.SOURCES["tinyshakespeare"].sha256 in line
    assert str(here.data) in line  # the folder in MINILORA_DATA


@pytest.mark.parametrize("command", ["eval --model {tiny} --corpus grimm", "data fetch grimm", "data verify"])
def test_a_corpus_with_another_checksum(command, here, fails):
    wrong = here.data / "grimms_fairytales.txt"
    wrong.write_text("Once upon a time")
    line = fails(*command.format(**vars(here)).split())
    assert "grimm" in line
    assert "not the expected file" in line
    assert wrong.read_text() == "Once upon a time"
