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
