"""`minilora compare`, `minilora voices`, and the `--voice` flag of the commands that accept adapters."""

import re

import pytest

from minilora.cli import columns
from minilora.cli.columns import Column, side_by_side
from minilora.generation import write
from minilora.voices import NAMES, attach

PAINTED = re.compile(r"\x1b\[30;48;5;(\d+)m(.)\x1b\[0m")


@pytest.fixture
def terminal(monkeypatch):
    """terminal(width): set the number of characters per line."""
    return lambda width: monkeypatch.setenv("COLUMNS", str(width))


def texts_of(out):
    """Return the columns of the first band, each with its title, as one string per column."""
    lines = [line.split(" | ") for line in out.split("\n\n\n")[0].splitlines()]
    cells = zip(*[row + [""] * (len(lines[0]) - len(row)) for row in lines], strict=True)
    return [" ".join(cell.strip() for cell in column if cell.strip()) for column in cells]


def test_columns_hold_what_generate_writes(minilora, terminal):
    terminal(120)
    out = minilora("compare", "--voices", "base,scripture", "--tokens", 60, "--seed", 4)
    base, scripture = texts_of(out)
    for column, flags in ((base, []), (scripture, ["--voice", "scripture"])):
        written = minilora("generate", "--prompt", "The king ", "--tokens", 60, "--seed", 4, *flags)
        assert column.partition("--- ")[2] == " ".join(written.split())
    assert base.startswith("base ---")
    assert re.match(r"scripture style meter \+\d\.\d\d nats per character ---", scripture)


def test_mixtures_have_a_meter_for_each_voice(minilora):
    out = minilora("compare", "--voices", "shakespeare:0.5+python:0.5", "--tokens", 40)
    assert re.search(r"shakespeare [+-]\d\.\d\d, python [+-]\d\.\d\d", out)
    assert len(minilora("compare", "--voices", "python:0.5", "--tokens", 5).split("---")[0].splitlines()) == 2


def test_all_voices_are_the_default(minilora, terminal):
    terminal(200)
    out = minilora("compare", "--tokens", 5)
    assert all(re.search(rf"(^|\| ){name}( |$)", out, re.M) for name in ["base", *NAMES])


def test_adapters_of_ones_own_can_be_compared(minilora, here, terminal, monkeypatch):
    """Each column is titled with the name as given, even if the names are similar."""
    terminal(120)
    monkeypatch.chdir(here.root)
    here.log.rename("a-b")
    (here.root / "a").mkdir()
    here.bard.rename("a/b")
    common = ["--model", here.tiny, "--prompt", "The ", "--tokens", 9]
    slashed, dashed, both = texts_of(minilora("compare", *common, "--voices", "a/b:2, a-b:-3, a/b + a-b"))
    for column, adapter in ((slashed, "a/b:2"), (dashed, "a-b:-3")):
        written = minilora("generate", *common, "--adapter", adapter)
        assert "".join(column.partition("--- ")[2].split()) == "".join(written.split())
        assert column.startswith(f"{adapter} style meter")
    assert re.match(r"a/b \+ a-b style meter \S+ nats per character a/b [+-]\d\.\d\d, a-b [+-]\d\.\d\d", both)
    assert "-0.00" not in both


def test_color_marks_what_the_voice_expected_more_or_less(minilora, terminal):
    terminal(120)
    flags = ["compare", "--voices", "base,python", "--tokens", 120]
    plain, painted = minilora(*flags), minilora(*flags, "--colour", "always")
    assert "\x1b" not in plain
    assert [line.rstrip() for line in PAINTED.sub(r"\2", painted).splitlines()] == plain.splitlines()
    assert {int(shade) for shade, _ in PAINTED.findall(painted)} <= {223, 216, 208, 195, 153, 75}
    base_column = [line.split(" | ")[0] for line in painted.splitlines()]
    assert not PAINTED.search("\n".join(base_column))
    assert "\x1b" in painted


@pytest.mark.parametrize(
    ("mark", "shade"),
    [(0.4, None), (0.6, 223), (2, 216), (99, 208), (-0.4, None), (-0.6, 195), (-2, 153), (-4, 75)],
)
def test_stronger_marks_have_stronger_shades(mark, shade):
    painted = side_by_side([Column("t", [("x", mark)])], color=True).splitlines()[-1]
    assert painted == ("x" if shade is None else f"\x1b[30;48;5;{shade}mx\x1b[0m")


@pytest.mark.parametrize(
    ("tty", "term", "no_color", "colored"),
    [(True, "xterm", "", True), (True, "xterm", "1", False), (True, "dumb", "", False), (False, "xterm", "", False)],
)
def test_only_a_terminal_is_colored_unless_asked_for(tty, term, no_color, colored, monkeypatch):
    monkeypatch.setattr(columns.sys.stdout, "isatty", lambda: tty, raising=False)
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("NO_COLOR", no_color)
    assert columns.wants_color("auto") is colored
    assert columns.wants_color("always")
    assert not columns.wants_color("never")


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("def f():\n    return aaaaaaaa + bbbbbbbb", ["def f():", "    return aaaaaaaa", "+ bbbbbbbb"]),
        ("a\n\n" + "x" * 45, ["a", "", "x" * 20, "x" * 20, "x" * 5]),
        ("a" * 20 + " bbb", ["a" * 20, "bbb"]),
        ("    " + "x" * 30, ["    " + "x" * 16, "x" * 14]),
        ("", [""]),
    ],
)
def test_lines_break_at_spaces_and_keep_their_indentation(text, lines, terminal):
    terminal(20)
    assert side_by_side([Column("t", [(text, 0.0)])]).split("\n") == ["t", "-" * 20, *lines]
    assert "\x1b" not in side_by_side([Column("t", [("a\x1b[2Jb\tc", 3.0)])])


def test_texts_begin_on_one_line_whatever_the_titles(terminal):
    terminal(80)
    columns = [Column("base", [("one", 0.0)]), Column("a voice\nstyle meter", [("two", 0.0)])]
    assert re.fullmatch(r"base +\| a voice\n +\| style meter\n-+ \| -+\none +\| two", side_by_side(columns))


def test_a_voice_that_is_named_twice_is_attached_once(minilora, terminal):
    terminal(120)
    out = minilora("compare", "--voices", "python:0.4+python:0.6,python,python:1.5", "--tokens", 20)
    first, second, third = texts_of(out)
    assert first.partition("---")[2] == second.partition("---")[2] != third.partition("---")[2]


def test_columns_that_do_not_fit_go_below(terminal):
    texts = [Column(name, [(name, 0.0)]) for name in "abcde"]
    for width, beside in [(30, 1), (74, 1), (75, 2), (113, 2), (114, 3), (120, 3), (500, 3)]:
        terminal(width)
        out = side_by_side(texts)
        assert len(out.splitlines()[0].split(" | ")) == beside, width
        assert max(map(len, out.splitlines())) <= width
        assert re.findall("[abcde]", out) == [c for i in range(0, 5, beside) for c in 2 * "abcde"[i : i + beside]]


def test_voices_lists_them_with_their_losses(minilora):
    out = minilora("voices")
    for name in NAMES:
        assert re.search(rf"^{name} +\d\.\d{{3}} → \d\.\d{{3}} +\d\.\d{{3}} → \d\.\d{{3}}  \w", out, re.M)
    assert "nats per character" in out


def test_voices_mix_with_strengths_wherever_adapters_do(minilora):
    out = minilora("generate", "--voice", "shakespeare", "--voice", "python:0.4", "--prompt", "The", "--tokens", 40)
    assert out == f"The{write(attach(), 'The', 40, adapters={'shakespeare': 1, 'python': 0.4})}\n"
    assert "rank 8 to 16" in minilora("mix", "--voice", "recipe:0.5", "--voice", "python:0.5", "--out", "blend")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (
            ["compare", "--voices", "base,nobody"],
            "nobody is not an adapter folder: expected a folder with adapter_config.json and "
            "adapter_model.safetensors, or the name of a packaged voice: fairytale, python, ",
        ),
        (["compare", "--voices", "python:loud"], "expected an adapter or voice as NAME or NAME:STRENGTH"),
        (["compare", "--voices", "base:0.5"], "'base' is the model without a voice; it has no strength"),
        (["compare", "--voices", "python:1e308", "--tokens", 3], "reduce the strengths of the adapters"),
        (["generate", "--seed", "-1"], "argument --seed: expected a non-negative integer"),
        (["generate", "--voice", "bard"], "bard is not an adapter folder: expected"),
        (["generate", "--voice", "python:loud"], "expected an adapter or voice as NAME or NAME:STRENGTH, such as "),
    ],
)
def test_mistakes(flags, says, fails):
    assert says in fails(*flags)
