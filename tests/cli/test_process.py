"""The command in a separate process, as run from a shell."""

import os
import subprocess
import sys

import pytest


@pytest.fixture
def shell(here):
    """shell(*arguments): run `python -m minilora` with the given arguments and return the completed process."""

    def run(*arguments, **environment):
        command = [sys.executable, "-m", "minilora", *map(str, arguments)]
        return subprocess.run(
            command, capture_output=True, env={**os.environ, **environment}, cwd=here.work, check=False
        )

    return run


@pytest.mark.parametrize(
    "arguments",
    [
        "generate --model nowhere",
        "finetune --model {tiny} --corpus {verse} --context 16 --lr 1e39 --out out",
        "merge --model {tiny}",
    ],
)
def test_an_error_is_one_line(arguments, shell, here):
    done = shell(*arguments.format(**vars(here)).split())
    assert done.returncode == 2
    assert done.stderr.startswith(b"minilora: error: ")
    assert done.stderr.count(b"\n") == 1


def test_a_terminal_without_greek_letters(shell, here):
    flags = ["merge", "--model", here.tiny, "--adapter", here.bard, "--out", "merged"]
    done = shell(*flags, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"max |?logit|, merged vs. attached" in done.stdout


LOADING = """
import builtins, os, signal, sys
load = builtins.__import__

def stop(name, *arguments):
    if name == sys.argv[1]:
        os.kill(os.getpid(), signal.SIGINT)
    return load(name, *arguments)

signal.signal(signal.SIGINT, signal.default_int_handler)
builtins.__import__ = stop
from minilora.__main__ import main
sys.exit(main())
"""


@pytest.mark.skipif(os.name != "posix", reason="requires POSIX signals")
@pytest.mark.parametrize("module", ["numpy", "argparse", "minilora.cli", "minilora.training"])
def test_ctrl_c_while_the_program_is_loading(module):
    done = subprocess.run([sys.executable, "-c", LOADING, module], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"minilora: stopped\n")


def test_a_prompt_from_standard_input(shell, here):
    flags = ["generate", "--model", here.tiny, "--tokens", 5]
    command = [sys.executable, "-m", "minilora", *map(str, flags), "--prompt", "-"]
    piped = subprocess.run(command, input="The üüü".encode(), capture_output=True, check=True, cwd=here.work)
    assert piped.stdout == shell(*flags, "--prompt", "The üüü").stdout
