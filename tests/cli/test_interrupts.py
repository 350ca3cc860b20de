"""Ctrl-C and `kill -9` during a run: at any moment, `--resume` ends with bit-for-bit identical files.

The processes and the signals are real. The moment of a signal is a number of steps or function calls, not a time, so
that a failure is reproducible.
"""

import os
import random
import re
import signal
import subprocess
import sys
import textwrap
from functools import cache
from pathlib import Path

import pytest

from minilora.files import read_tensors

ROOT = Path(__file__).parents[2]  # so that the processes can import tests.training.methods
ITERS = 8
TRAINING = dict(iters=ITERS, batch=2, context=16, accumulate=2, lr=0.05, warmup=2, eval_every=3, eval_windows=4)

# `python -m minilora ...`, which kills itself at function call number `moment`, counted from the moment at which
# everything is loaded and the run starts to write files. With moment 0, it only counts the calls.
KILLED = textwrap.dedent(
    """
    import os, runpy, signal, sys
    import minilora.cli, tqdm.auto, safetensors.numpy
    from tests.training import methods

    methods.register()

    moment, calls, load_ids = int(sys.argv.pop(1)), 0, minilora.runs.settings.load_ids

    def watch(frame, event, argument):
        global calls
        calls += "call" in event
        if moment and calls == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def begin(*arguments, **options):
        texts = load_ids(*arguments, **options)
        sys.setprofile(watch)
        return texts

    minilora.runs.settings.load_ids = begin
    minilora.runs.runner.write = lambda *_, **__: ""  # samples would be most of the calls, but have no state
    os.fsync = lambda handle: None  # processes are killed here, not the machine
    try:
        runpy.run_module("minilora", run_name="__main__")
    finally:
        sys.setprofile(None)
        print("calls:", calls)
    """
)

# `python -m minilora ...`, which prints a line in its third step and waits there for a Ctrl-C.
WAITING = textwrap.dedent(
    """
    import os, runpy, signal, time
    from minilora.training import AdamW

    os.fsync = lambda handle: None
    clip = AdamW.clip

    def wait(self, max_norm):
        if self.steps == 2:
            ours = signal.getsignal(signal.SIGINT)
            print("third step", flush=True)
            while signal.getsignal(signal.SIGINT) is ours:  # the first Ctrl-C restores the previous handler
                time.sleep(0.01)
        return clip(self, max_norm)

    AdamW.clip = wait
    runpy.run_module("minilora", run_name="__main__")
    """
)


def start(script, *arguments):
    command = [sys.executable, "-c", script, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", env=environment
    )


@pytest.fixture(scope="module")
def preset(original, tmp_path_factory):
    """preset(checkpoint_every, method): a TOML file for a run with dropout and gradient accumulation."""

    def write(checkpoint_every, method="lora"):
        path = tmp_path_factory.mktemp("preset") / "run.toml"
        adapter = '{ r = 2, lora_alpha = 4, lora_dropout = 0.25, target_modules = "all-linear" }'
        lines = [f'corpus = ["{original}/verse"]', f'base = "{original}/tiny"', f'method = "{method}"']
        lines += [f"{method} = {adapter}"] * (method != "full") + ["[training]"]
        training = {**TRAINING, "checkpoint_every": checkpoint_every}
        path.write_text("\n".join([*lines, *(f"{name} = {value}" for name, value in training.items())]))
        return path

    return write


@pytest.fixture(scope="module")
def whole(preset, contents, tmp_path_factory):
    """whole(method): an uninterrupted run: its preset, its files, and its number of function calls."""

    @cache
    def of(method):
        made, folder = preset(1, method), tmp_path_factory.mktemp("whole")
        run = start(KILLED, 0, "finetune", "--preset", made, "--out", folder)
        out, err = run.communicate()
        assert (run.returncode, err) == (0, "")
        return made, contents(folder), int(re.search(r"^calls: (\d+)$", out, re.M)[1])

    return of


CHAINS = [
    *(("lora", [part]) for part in (0.0, 0.25, 0.5, 0.75, 0.995)),
    *(("lora", [random.Random(i).random() / 2.5 for i in range(n, n + 3)]) for n in (0, 9)),
    *((method, [0.4, 0.3]) for method in ("dora", "full", "restart", "prune")),
]


@pytest.mark.parametrize(("method", "parts"), CHAINS)
def test_kill_at_any_moment(method, parts, here, whole, contents):
    """Kill a run repeatedly, each time after a fraction of the calls of a complete run; its files stay valid."""
    preset, expected, calls = whole(method)
    folder = here.work / "killed"
    path, steps = folder / "checkpoint.safetensors", [0]
    for part in parts:
        go_on = ["--resume"] if (folder / "run.toml").exists() else ["--preset", preset]
        run = start(KILLED, 1 + int(part * calls), "finetune", *go_on, "--out", folder)
        _, err = run.communicate()
        assert (run.returncode, err) == (-signal.SIGKILL, "")
        steps.append(len(read_tensors(path)["losses"]) if path.exists() else 0)
    assert steps == sorted(steps)  # no progress is lost
    go_on = ["--resume"] if (folder / "run.toml").exists() else ["--preset", preset]
    run = start(KILLED, 0, "finetune", *go_on, "--out", folder)
    assert (run.communicate()[1], run.returncode) == ("", 0)
    assert contents(folder) == expected  # and there are no other files


def interrupted(*command):
    """Run a command, interrupt it in its third step, and return its stderr."""
    run = start(WAITING, *command)
    while "third step" not in run.stdout.readline():
        assert run.poll() is None
    run.send_signal(signal.SIGINT)
    _, err = run.communicate()
    assert run.returncode == 130
    return err


@pytest.mark.parametrize("method", ["lora", "full"])
def test_ctrl_c_saves_and_says_how_to_go_on(method, here, preset, minilora, contents):
    flags = ["finetune", "--preset", preset(100), "--method", method]
    said = interrupted(*flags, "--out", "stopped")
    assert said == f"minilora: stopped after step 3 of {ITERS}; resume with: minilora finetune --resume --out stopped\n"
    assert len(read_tensors("stopped/checkpoint.safetensors")["losses"]) == 3
    minilora(*said.rpartition(": minilora ")[2].split())  # the command in the message, verbatim
    minilora(*flags, "--out", "whole")
    assert contents(here.work / "stopped") == contents(here.work / "whole")
    assert ("adapter_model.safetensors" in contents(here.work / "whole")) == (method == "lora")


def test_ctrl_c_in_a_pretraining_run(here, minilora, contents):
    said = interrupted("pretrain", "--preset", here.tiny / "run.toml", "--out", "stopped")
    assert said == "minilora: stopped after step 3 of 5; resume with: minilora pretrain --resume --out stopped\n"
    minilora("pretrain", "--resume", "--out", "stopped")
    assert contents(here.work / "stopped") == contents(here.tiny)


def test_ctrl_c_elsewhere(here, monkeypatch, capsys):
    from minilora.cli import generate, main

    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(generate, "write_stream", interrupt)
    assert main(["generate", "--model", str(here.tiny)]) == 130
    assert capsys.readouterr().err == "minilora: stopped\n"
