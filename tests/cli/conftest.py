"""Fixtures for the command line: no network, and a tiny model with two adapters, all trained by the commands."""

import os
import shutil
from types import SimpleNamespace

import pytest

from minilora import lora
from minilora.cli import main
from minilora.data import pastiche, sources
from minilora.nn import Llama

SHORT = ["--context", 16, "--batch", 4, "--iters", 5]
TINY = ["--layers", 1, "--hidden", 16, "--intermediate", 32, "--heads", 2, "--dtype", "float32", *SHORT]
ADAPT = [*SHORT, "--lr", 0.05]


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """Isolate each test: an empty working folder, no local corpora, no network, and no waiting for the disk."""
    for folder in ("work", "data", "cache"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("MINILORA_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(sources, "cache_folder", lambda: tmp_path / "cache")

    def no_network(url):
        raise OSError("there is no network")

    monkeypatch.setattr(sources, "_open", no_network)
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # no test simulates a power failure


def call(arguments):
    """Run a command and return its exit code."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as stop:  # argparse exits this way after --help or an invalid flag
        return stop.code


@pytest.fixture(scope="session")
def original(tmp_path_factory):
    """A folder, made once, with the files `text` and `verse`, the model `tiny`, and its adapters `bard` and `log`."""
    root = tmp_path_factory.mktemp("original")
    for name, voice in (("text", "prose"), ("verse", "verse")):
        (root / name).write_text(pastiche.write(voice, 2500))
    assert call(["pretrain", *TINY, "--corpus", root / "text", "--out", root / "tiny"]) == 0
    for name, corpus, rank in (("bard", "verse", 2), ("log", "text", 3)):
        flags = ["--model", root / "tiny", "--corpus", root / corpus, "--rank", rank, "--seed", rank]
        assert call(["finetune", *flags, *ADAPT, "--out", root / name]) == 0
    return root


@pytest.fixture
def here(original, tmp_path):
    """A copy of `original` that a test may modify: here.tiny, here.bard, ...; here.work is empty."""
    for name in ("tiny", "bard", "log"):
        shutil.copytree(original / name, tmp_path / name)
    for name in ("text", "verse"):
        shutil.copy(original / name, tmp_path / name)
    return SimpleNamespace(**{path.name: path for path in tmp_path.iterdir()}, root=tmp_path)


@pytest.fixture
def model(here):
    """The tiny model with bard at 0.75 and log at -0.5, attached through the library."""
    model = Llama.from_pretrained(here.tiny)
    for name in ("bard", "log"):
        lora.load_adapter(model, getattr(here, name), name)
    lora.set_active(model, {"bard": 0.75, "log": -0.5})
    return model


@pytest.fixture
def both(here):
    """The flags for the same model and adapters as `model`."""
    return ["--model", here.tiny, "--adapter", f"{here.bard}:0.75", "--adapter", f"{here.log}:-0.5"]


@pytest.fixture
def minilora(capsys):
    """minilora(*arguments): run a command that must succeed and return its output."""

    def run(*arguments):
        capsys.readouterr()
        assert call(arguments) == 0
        out, err = capsys.readouterr()
        assert err == ""
        return out

    return run


@pytest.fixture
def fails(capsys):
    """fails(*arguments): run a command that must fail and return its one-line error message."""

    def run(*arguments):
        capsys.readouterr()
        assert call(arguments) == 2
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        assert err.endswith("\n")
        assert err.startswith("minilora: error: ")
        assert len(err.splitlines()) == 1
        return err.removeprefix("minilora: error: ").strip()

    return run


@pytest.fixture(scope="session")
def contents():
    """contents(folder): the bytes of every file, by relative path."""
    return lambda folder: {
        str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()
    }


@pytest.fixture
def written(here, minilora, contents):
    """written(command, *flags): run a command; return its output without the speed lines, and its files in {out}."""

    def run(command, *flags):
        out = here.root / "-".join(flags)
        printed = minilora(*command.format(out=out, **vars(here)).split(), *flags)
        lines = [line.replace(str(out), "OUT") for line in printed.splitlines() if "tok/s" not in line]
        return lines, contents(out) if out.exists() else {}

    return run


@pytest.fixture(scope="session")
def adapt():
    """The flags of a short fine-tuning run."""
    return ADAPT
