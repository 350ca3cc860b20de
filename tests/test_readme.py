"""The README and the pages it links to are correct: the code runs, the commands exist, and the values agree."""

import ast
import re
import shlex
from pathlib import Path

import pytest

from minilora import cli, laws, voices
from minilora.assets import BASE, VOICES
from tests.benchmarks.__main__ import SHORT

ROOT = Path(__file__).parent.parent
PAGES = {
    name: (ROOT / name).read_text(encoding="utf-8")
    for name in ("README.md", "minilora/README.md", "minilora/laws/README.md", "tests/benchmarks/README.md")
}
README, GUIDE, LAWS, BENCHMARKS = PAGES.values()
BLOCKS = [block for page in (README, GUIDE) for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)]
COMMANDS = re.findall(r"^\| `minilora (.*?)`", README, flags=re.MULTILINE)
LINKS = [(name, link) for name, page in PAGES.items() for link in re.findall(r"\]\((?!http)([^)]+)\)", page)]


def test_the_readme_is_short():
    assert len(README.encode()) <= 12_000


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """The names defined by the blocks so far, and the folder they run in. A block may continue the previous one."""
    return {}, tmp_path_factory.mktemp("readme")


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_the_code_runs(number, session, monkeypatch, capsys):
    """With fewer steps, and a corpus that needs no network. A block prints, writes a file or ends in an expression."""
    pytest.importorskip("matplotlib")
    names, folder = session
    monkeypatch.chdir(folder)
    block = BLOCKS[number].replace("iters=50", "iters=2").replace('"tinyshakespeare"', '"pastiche:verse:20000"')
    if "import minilora" in block or "from minilora" in block:
        names.clear()
    exec(compile(block, f"block {number}", "exec"), names)
    last = ast.parse(block).body[-1]
    assert capsys.readouterr().out or isinstance(last, ast.Expr)


def test_there_are_code_and_commands_to_check():
    assert len(BLOCKS) == 12
    assert len(COMMANDS) == len(cli.COMMANDS) == 15


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_are_understood(command, monkeypatch):
    """Each command is parsed and calls one function; the tests in tests/cli check what the functions do."""
    ran = []
    for module in cli.COMMANDS:
        for name in vars(module):
            if name.startswith("run"):
                monkeypatch.setattr(module, name, ran.append)
    assert cli.main(shlex.split(command)) == 0
    assert len(ran) == 1


@pytest.mark.parametrize(("page", "link"), LINKS)
def test_the_links_lead_somewhere(page, link):
    assert (ROOT / page).parent.joinpath(link).exists()


def test_the_card_says_what_the_record_says():
    card = (BASE / "README.md").read_text(encoding="utf-8")
    final = re.search(r"\[3000, ([0-9.]+)\]", (BASE / "history.json").read_text())
    assert final is not None
    assert f"**{float(final[1]):.4f} nats per character**" in card


def test_the_tables_have_all_laws():
    judged = re.findall(
        r"^\| ([\w-]+) \| .* \| (holds|\*\*differs\*\*) \| (holds|up to rounding|\*\*differs\*\*) \|$",
        LAWS,
        re.MULTILINE,
    )
    own = [law.name for law in laws.catalogue(*laws.CONFORMANCE)]
    assert [row[:2] for row in judged] == [(name, "holds") for name in own]
    peft = sum(row[2] == "holds" for row in judged)
    assert f"Of these {len(own)} laws, {len(own)} hold for minilora and {peft} for PEFT" in LAWS
    others = re.findall(r"^\| ([\w-]+-[\w-]+) \| [^|]*(?:\\\|[^|]*)* \|$", LAWS, re.MULTILINE)
    assert others == [law.name for law in laws.catalogue() if law.name not in own]
    assert f"{len(laws.catalogue())} executable laws" in README
    assert f"{len(own)} of them check any LoRA layer" in README
    assert f"All {len(own)} laws hold for minilora, and {peft} for PEFT" in README


def test_the_voices_write_what_is_shown(capsys, monkeypatch):
    """The sample on the page is the unedited output, with the default seed."""
    monkeypatch.setenv("COLUMNS", "120")
    assert cli.main(["compare"]) == 0
    page = (VOICES / "README.md").read_text(encoding="utf-8")
    assert f"$ minilora compare\n{capsys.readouterr().out.rstrip()}\n```" in page


@pytest.mark.parametrize("voice", voices.voices(), ids=lambda voice: voice.name)
def test_the_voices_losses_are_those_of_their_cards(voice):
    f, page = voice.metrics, (VOICES / "README.md").read_text(encoding="utf-8")
    losses = f"{f['before']:.3f} → {f['after']:.3f} | {f['base_off']:.3f} → {f['base_on']:.3f}"
    assert f"({voice.name}/README.md) | {f['description']} | {losses} |" in page
    assert f"`{voice.name}`" in README


def test_the_mistake_is_found_as_it_is_printed(capsys):
    """Compare line by line; a line with only … stands for one or more omitted lines."""
    (block,) = [block for block in BLOCKS if "check(MyLoraLinear)" in block]
    printed = README.partition(block)[2].split("```")[2].strip("\n")
    exec(compile(block, "README.md", "exec"), {})
    pattern = re.sub(r"(?m)^(?:\\ )*…\\?$", "(?:.*\n)*.*", re.escape(printed))
    assert re.fullmatch(pattern, capsys.readouterr().out.rstrip())


def test_no_block_waits_to_be_filled():
    for page in PAGES.values():
        blocks = re.findall(r"^```\w*\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
        assert blocks
        assert all(block.strip() for block in blocks)


def speed_rows(page):
    """Return the rows of the speed tables, (what, ours, against, theirs, ratio), without the spread."""
    (marked,) = re.findall(r"<!-- speed: made by .*? -->\n(.*)<!-- end of speed -->", page, re.DOTALL)
    lines = [re.sub(r" \(.*?\)", "", line) for line in marked.splitlines() if line.startswith("| ")]
    return [tuple(line.strip("| ").split(" | ")) for line in lines]


def test_the_short_table_of_speed_is_of_the_full_one():
    full, short = speed_rows(BENCHMARKS), speed_rows(README)
    assert short[2:] == [row for key in SHORT for row in full if (row[0], row[2]) == key]
    assert len(short[2:]) == len(SHORT)


def test_the_full_table_names_every_library():
    against = {row[2] for row in speed_rows(BENCHMARKS)}
    assert against >= {
        *("PyTorch eager", "PyTorch compiled", "PEFT on transformers", "transformers' generate"),
        *("llama2.c", "nanoGPT", "HIPS autograd"),
    }
