"""`--threads`: the output does not depend on the number; an invalid number is rejected before anything is written."""

import pytest

from minilora import threads
from minilora.training import pieces
from tests.cli.test_devices import COMMANDS

CHOSEN = {name: COMMANDS[name] for name in ("pretrain", "finetune", "eval")}


@pytest.fixture
def asked(monkeypatch):
    """The requested numbers of threads. Small batches are divided into pieces, as large ones are."""
    for name in ("PIECE", "MIN_TOKENS", "MIN_TOKENS_LARGE"):
        monkeypatch.setattr(pieces, name, 20)
    numbers, init = [], threads.Threads.__init__

    def noting(self, number=None, *device):
        numbers.append(number)
        init(self, number, *device)

    monkeypatch.setattr(threads.Threads, "__init__", noting)
    return numbers


@pytest.mark.parametrize("command", CHOSEN.values(), ids=CHOSEN)
def test_the_number_of_threads_changes_nothing_that_is_written(command, written, asked):
    one = written(command, "--threads", "1")
    assert set(asked) == {1}
    assert written(command, "--threads", "3") == one
    assert set(asked) == {1, 3}


@pytest.mark.parametrize("number", ["0", "two"])
@pytest.mark.parametrize("command", CHOSEN.values(), ids=CHOSEN)
def test_what_is_no_number_of_threads_is_refused(command, number, here, fails, asked):
    out = here.root / "out"
    message = fails(*command.format(out=out, **vars(here)).split(), f"--threads={number}")
    assert f"--threads: expected a positive integer, got '{number}'" in message
    assert not out.exists()
    assert not asked
