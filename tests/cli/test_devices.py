"""`--device cuda`: on the CuPy stand-in of tests/gpu, the output and the files are the same as on the CPU. Without CuPy
or a GPU, the command fails with one line before it writes anything.
"""

import sys

import pytest

from tests.gpu import standin

COMMANDS = {
    "pretrain": "pretrain --corpus {text} --layers 1 --hidden 8 --heads 2 --context 16 --iters 3 --batch 6 --out {out}",
    "finetune": "finetune --model {tiny} --corpus {verse} --context 16 --iters 3 --batch 6 --dropout 0.2 --out {out}",
    "full": "finetune --model {tiny} --method full --corpus {verse} --context 16 --iters 3 --batch 2 --out {out}",
    "generate": "generate --model {tiny} --adapter {bard}:0.5 --adapter {log} --tokens 20",
    "eval": "eval --model {tiny} --adapter {bard} --corpus {verse} --windows 5",
}


@pytest.fixture
def moved(monkeypatch):
    """The arrays that were copied to the stand-in."""
    cupy, arrays = standin.module(), []
    asarray = cupy.asarray
    cupy.asarray = lambda array: (arrays.append(array), asarray(array))[1]
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    return arrays


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_the_device_changes_nothing_that_is_written(command, written, moved):
    expected = written(command, "--device", "cpu")
    assert not moved
    assert written(command, "--device", "cuda") == expected
    assert moved


def test_a_run_resumes_on_another_device(here, minilora, contents, moved):
    flags = COMMANDS["finetune"].format(out=here.root / "out", **vars(here)).split()
    minilora(*flags, "--device", "cuda")
    expected = contents(here.root / "out")
    minilora("finetune", "--resume", "--out", here.root / "out", "--device", "cpu")  # already finished
    assert contents(here.root / "out") == expected


@pytest.mark.parametrize("command", [*COMMANDS.values(), "demo --out {out}"], ids=[*COMMANDS, "demo"])
def test_without_cupy_one_line_says_what_to_do(command, here, fails, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    line = fails(*command.format(out=here.root / "out", **vars(here)).split(), "--device", "cuda")
    wanted = "device 'cuda' requires CuPy, which is not installed; run pip install \"cupy-cuda12x[ctk]\", or use 'cpu'"
    assert line == wanted
    assert not (here.root / "out").exists()


def test_without_a_gpu_one_line_says_so(here, fails, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", standin.module(devices=0))
    line = fails("generate", "--model", "nowhere", "--device", "cuda")  # reported before the missing model
    assert line.startswith("device 'cuda' requires an NVIDIA GPU, but CuPy finds none")
