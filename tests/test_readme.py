"""The README is kept true: its code runs, its commands exist, its links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest

from minilora import cli, laws, voices
from minilora.assets import BASE

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = re.findall(r"^\| `minilora (.*?)`", README, flags=re.MULTILINE)


@pytest.mark.parametrize("block", BLOCKS)
def test_the_code_runs(block, tmp_path, monkeypatch, capsys):
    """With fewer steps, and the corpus that needs no network."""
    monkeypatch.chdir(tmp_path)
    block = block.replace("iters=50", "iters=2").replace('"tinyshakespeare"', '"pastiche:verse:20000"')
    exec(compile(block, "README.md", "exec"), {})
    assert capsys.readouterr().out


def test_there_are_code_and_commands_to_check():
    assert len(BLOCKS) == 7
    assert len(COMMANDS) == 14


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_are_understood(command, monkeypatch):
    """Each as far as its own work, which the tests of the command line see to."""
    ran = []
    for module in cli.COMMANDS:
        for name in vars(module):
            if name.startswith("run"):
                monkeypatch.setattr(module, name, ran.append)
    assert cli.main(shlex.split(command)) == 0
    assert len(ran) == 1


@pytest.mark.parametrize("file", re.findall(r"\]\((?!http)([^)]+)\)", README))
def test_the_links_lead_somewhere(file):
    assert (Path(__file__).parent.parent / file).exists()


def test_the_card_says_what_the_record_says():
    card = (BASE / "README.md").read_text(encoding="utf-8")
    final = re.search(r"\[3000, ([0-9.]+)\]", (BASE / "history.json").read_text())
    assert final is not None
    assert f"**{float(final[1]):.4f} nats per character**" in card


def test_the_table_has_the_laws_that_there_are():
    table = re.findall(
        r"^\| ([\w-]+) \| .* \| (holds|\*\*differs\*\*) \| (?:holds|\*\*differs\*\*) \|$", README, re.MULTILINE
    )
    assert table == [(law.name, "holds") for law in laws.catalogue(*laws.CONFORMANCE)]
    assert f"Of these {len(table)} laws, {len(table)} hold for minilora" in README


def test_the_voices_write_what_is_shown(capsys, monkeypatch):
    """On the first seed, and nothing of it chosen or changed."""
    monkeypatch.setenv("COLUMNS", "120")
    assert cli.main(["compare"]) == 0
    assert f"$ minilora compare\n{capsys.readouterr().out.rstrip()}\n```" in README


@pytest.mark.parametrize("voice", voices.voices(), ids=lambda voice: voice.name)
def test_the_voices_losses_are_those_of_their_cards(voice):
    f = voice.metrics
    losses = f"{f['before']:.3f} → {f['after']:.3f} | {f['base_off']:.3f} → {f['base_on']:.3f}"
    assert f"/{voice.name}/README.md) | {f['description']} | {losses} |" in README


def test_the_mistake_is_found_as_it_is_printed(capsys):
    (block,) = [block for block in BLOCKS if "check(MyLoraLinear)" in block]
    printed = README.partition(block)[2].split("```")[2].strip("\n").removesuffix("…")
    exec(compile(block, "README.md", "exec"), {})
    assert capsys.readouterr().out.startswith(printed)


def test_no_block_waits_to_be_filled():
    blocks = re.findall(r"^```\w*\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert len(blocks) > 8
    assert all(block.strip() for block in blocks)


def test_the_words_about_speed_are_those_of_the_table():
    """Faster than PyTorch's eager step for each size, and a LoRA step by much more."""
    marked = re.search(r"<!-- speed: made by .*? -->\n(.*)<!-- end of speed -->", README, re.DOTALL)
    assert marked is not None
    rows = [line.strip("| ").split(" | ") for line in marked[1].splitlines() if line.startswith("| ")]
    ratios = {
        (what.partition(",")[0], what.partition(", ")[2]): float(ratio.strip("*").partition("*")[0])
        for what, _, against, _, ratio in rows
        if against == "PyTorch eager"
    }
    full, adapted = (
        {size: r for (what, size), r in ratios.items() if what == name} for name in ("full step", "LoRA step")
    )
    assert len(full) == len(adapted) == 4
    assert all(1 < full[size] < adapted[size] for size in full)
    for peer in (
        "PyTorch compiled",
        "PEFT on transformers",
        "transformers' generate",
        "llama2.c",
        "nanoGPT",
        "HIPS autograd",
    ):
        assert any(peer == row[2] for row in rows), peer
