"""The comparison with nanoGPT apart from the two programs themselves, and the options for clones."""

import argparse
import pickle

import numpy as np
import pytest

from minilora.data import ByteTokenizer
from minilora.data.batches import fixed_windows
from minilora.runs import load_settings
from tests.benchmarks import __main__ as command
from tests.benchmarks.interleave import Row, table

LOSS = Row("loss", "nanoGPT", [1.685], [1.88], goal=1.0, unit="nats")

MODEL = '''
"""In place of nanoGPT: a model whose loss is the mean of the targets, times its only weight."""
from dataclasses import dataclass
import torch


@dataclass
class GPTConfig:
    bias: bool = True


class GPT(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        print("number of parameters: 1")

    def forward(self, ids, targets):
        return None, self.weight * targets.float().mean()
'''


@pytest.fixture
def nanogpt():
    pytest.importorskip("torch")
    from tests.benchmarks import nanogpt

    return nanogpt


def test_one_measurement_is_shown_as_it_is():
    assert table([LOSS]).splitlines()[2] == "| loss | 1.685 nats | nanoGPT | 1.88 nats | **1.12** | ≥ 1.00 |  |"
    record = LOSS.record()
    assert (record["minilora"], record["peer"], record["unit"]) == (1.685, 1.88, "nats")
    assert record["times_as_low"] == pytest.approx(1.88 / 1.685)
    assert not {"minilora_ms", "times_as_fast"} & set(record)


def test_a_comparison_without_its_clone_is_left_out():
    modules, absent = command.found(["importing", "nanogpt"], without_clone=["nanogpt", "llama2c"])
    assert list(modules) == ["importing"]
    assert absent == {"nanogpt": "clone https://github.com/karpathy/nanoGPT and pass its folder as --nanogpt FOLDER"}


@pytest.mark.parametrize(("name", "file"), [("llama2c", "run.c"), ("nanogpt", "train.py")])
def test_a_clone_is_known_by_a_file(tmp_path, name, file):
    flags = [f"--{name}", str(tmp_path)]
    with pytest.raises(SystemExit):
        command.parser().parse_args(flags)
    with pytest.raises(argparse.ArgumentTypeError, match=f"expected a folder that contains {file}, got "):
        command._clone(str(tmp_path), file)
    (tmp_path / file).touch()
    assert getattr(command.parser().parse_args(flags), name) == tmp_path.resolve()


@pytest.mark.oracle
def test_a_copy_of_the_clone_gets_the_data(nanogpt, tmp_path):
    clone, copy = tmp_path / "clone", tmp_path / "copy"
    for path in ("train.py", "config/a.py", "data/shakespeare_char/prepare.py", "out-old/ckpt.pt", ".git/HEAD"):
        (clone / path).parent.mkdir(parents=True, exist_ok=True)
        (clone / path).write_text(path)
    before = sorted(clone.rglob("*"))
    encode = ByteTokenizer().encode
    val_ids = nanogpt.copy_with_data(clone, copy, encode("to be, or not"), encode("bet?\n"))
    assert sorted(clone.rglob("*")) == before
    files = {str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file()}
    data = copy / "data/shakespeare_char"
    names = {f"data/shakespeare_char/{name}" for name in ("train.bin", "val.bin", "meta.pkl")}
    assert files == {"train.py", "config/a.py"} | names
    meta = pickle.loads((data / "meta.pkl").read_bytes())
    assert [meta["itos"][i] for i in range(meta["vocab_size"])] == sorted(set("to be, or notbet?\n"))
    assert meta["stoi"] == {name: i for i, name in meta["itos"].items()}
    read = {name: np.fromfile(data / f"{name}.bin", np.uint16) for name in ("train", "val")}
    assert "".join(meta["itos"][i] for i in read["train"]) == "to be, or not"
    assert "".join(meta["itos"][i] for i in val_ids) == "bet?\n"
    np.testing.assert_array_equal(read["val"], val_ids)


@pytest.mark.oracle
def test_its_loss_is_that_of_its_checkpoint_over_the_fixed_windows(nanogpt, tmp_path, capsys):
    import torch

    (tmp_path / "model.py").write_text(MODEL)
    chosen, ids = load_settings(nanogpt.PRESET), np.random.default_rng(0).integers(9, size=500)
    with pytest.raises(nanogpt.Failed, match="expected nanoGPT to write"):
        nanogpt.their_loss(tmp_path, ids, chosen, windows=33)
    (tmp_path / nanogpt.CHECKPOINT).parent.mkdir()
    saved = {"model": {"weight": torch.tensor(0.5)}, "model_args": {"bias": False}}
    torch.save(saved, tmp_path / nanogpt.CHECKPOINT)
    targets = np.concatenate([y for _, y in fixed_windows(ids, 33, 64, batch=32)])  # the second batch has one window
    assert nanogpt.their_loss(tmp_path, ids, chosen, windows=33) == pytest.approx(0.5 * targets.mean(), rel=1e-6)
    assert capsys.readouterr().out == ""
