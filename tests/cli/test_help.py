"""The help of every command explains every flag and ends with an example that is a valid command."""

import re

import pytest

import minilora as package
from minilora.cli import COMMANDS, main

NAMES = [
    *("demo", "pretrain", "finetune", "runs", "generate", "voices", "compare", "app"),
    *("merge", "mix", "eval", "info", "laws", "bench", "data"),
]


def help_of(capsys, *command):
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0
    return capsys.readouterr().out


def test_the_commands_are_these(capsys):
    text = help_of(capsys)
    assert re.findall(r"^    (\w+) ", text, re.M) == NAMES
    assert text.rstrip().endswith("Start with: minilora demo")


@pytest.fixture
def parsed(monkeypatch):
    """Replace the commands with stubs; the flags that they were called with."""
    found = []
    for module in COMMANDS:
        for name in [name for name in vars(module) if name == "run" or name.startswith("run_")]:
            monkeypatch.setattr(module, name, found.append)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_help_ends_with_an_example_that_is_a_command(name, capsys, parsed):
    *_, title, example = help_of(capsys, name).rstrip().splitlines()
    assert title == "example:"
    assert example.startswith(f"  minilora {name}")
    words = [word.strip('"') for word in re.findall(r'"[^"]*"|\S+', example)]
    assert main(words[1:]) == 0
    assert len(parsed) == 1


@pytest.mark.parametrize("name", NAMES)
def test_every_flag_is_explained(name, capsys):
    text = help_of(capsys, name)
    options = re.split(r"\n  (?=-)", text.split("options:")[1].split("example:")[0])[1:]
    assert options
    for option in options:
        assert len(re.split(r"\s{2,}|\n", option.strip(), maxsplit=1)) == 2, option


def test_the_version(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"minilora {package.__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["help"], ["--help"]], ids=str)
def test_without_a_command_the_help_is_shown(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 0
    assert capsys.readouterr().out == help_of(capsys)


@pytest.mark.parametrize("name", NAMES)
def test_help_of_a_command(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["help", name])
    assert stop.value.code == 0
    assert capsys.readouterr().out == help_of(capsys, name)


@pytest.mark.parametrize(
    ("word", "advice"),
    [
        ("finetun", "did you mean finetune?"),
        ("generat", "did you mean generate?"),
        ("xyz", f"commands: {', '.join(NAMES)}"),
    ],
)
@pytest.mark.parametrize("before", [[], ["help"]], ids=str)
def test_an_unknown_command(before, word, advice, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*before, word])
    assert stop.value.code == 2
    expected = f"minilora: error: unknown command {word!r} ({advice}); see minilora --help\n"
    assert capsys.readouterr() == ("", expected)


def test_the_short_flag_for_the_version(capsys):
    with pytest.raises(SystemExit):
        main(["-V"])
    assert capsys.readouterr().out == f"minilora {package.__version__}\n"
