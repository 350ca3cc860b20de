"""`--threads`: any number writes the same bytes, and what is no number is refused before anything is written."""

import pytest

from minilora import threads

COMMANDS = {
    "pretrain": "pretrain --corpus {text} --layers 1 --hidden 8 --heads 2 --context 16 --iters 3 --batch 6 --out {out}",
    "finetune": "finetune --model {tiny} --corpus {verse} --context 16 --iters 3 --batch 6 --dropout 0.2 --out {out}",
    "eval": "eval --model {tiny} --adapter {bard} --corpus {verse} --windows 70",
}


@pytest.fixture
def asked(monkeypatch):
    """The numbers of threads that were asked for; and small batches are cut as large ones are."""
    monkeypatch.setattr(threads, "PIECE", 20)
    monkeypatch.setattr(threads, "LEAST", 20)
    numbers, init = [], threads.Threads.__init__

    def noting(self, number=None, *device):
        numbers.append(number)
        init(self, number, *device)

    monkeypatch.setattr(threads.Threads, "__init__", noting)
    return numbers


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_the_number_of_threads_changes_nothing_that_is_written(command, here, minilora, contents, asked):
    written = []
    for number in ("1", "3"):
        asked.clear()
        out = here.root / number
        printed = minilora(*command.format(out=out, **vars(here)).split(), "--threads", number)
        assert set(asked) == {int(number)}
        lines = [line.replace(str(out), "OUT") for line in printed.splitlines() if "tok/s" not in line]
        written.append((lines, contents(out) if out.exists() else {}))
    assert written[0] == written[1]


@pytest.mark.parametrize("number", ["0", "-1", "two", "1.5"])
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_what_is_no_number_of_threads_is_refused(command, number, here, fails, asked):
    out = here.root / "out"
    message = fails(*command.format(out=out, **vars(here)).split(), f"--threads={number}")
    assert f"--threads: expected a whole number of at least 1, got '{number}'" in message
    assert not out.exists()
    assert not asked
