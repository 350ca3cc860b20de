"""`minilora mix`: combine several adapters into one that has the same effect as all of them together."""

import re

import numpy as np
import pytest

from minilora import lora
from minilora.files import read_tensors

IDS = np.random.default_rng(1).integers(0, 256, (3, 16))


def logits_of(model, folder):
    lora.load_adapter(model, folder, "found")
    return model(IDS).data


def test_cat_is_the_default_and_exact(both, here, model, minilora):
    out = minilora("mix", *both, "--out", "blend")
    together = model(IDS).data
    assert np.abs(logits_of(model, "blend") - together).max() < 1e-5 * np.abs(together).max()
    assert np.abs(model(IDS, adapters="bard").data - together).max() > 1e-2 * np.abs(together).max()
    assert out.startswith("mixed: cat, rank 5 in 7 modules; equal to the weighted sum")
    assert float(re.search(r"max \|Δlogit\|, saved mixture vs\. the adapters together: (\S+)\n", out)[1]) < 1e-4
    file = here.work / "blend" / "adapter_model.safetensors"
    said = f"{sum(array.size for array in read_tensors(file).values()):,} parameters, {file.stat().st_size:,} bytes"
    assert out.splitlines()[-1] == f"adapter saved in blend: {said}"
    assert "rank 5, alpha 5" in minilora("info", "blend")


def test_svd_of_a_rank(both, model, minilora):
    out = minilora("mix", *both, "--how", "svd", "--rank", 1, "--out", "blend")
    made = lora.mix(model, {"bard": 0.75, "log": -0.5}, "expected", "svd", 1)
    expected = model(IDS).data
    np.testing.assert_array_equal(logits_of(model, "blend"), expected)
    assert out.splitlines()[0] == str(made).replace("expected", "mixed")
    assert float(re.search(r"together: (\S+)", out)[1]) > 1e-3  # the approximation error is reported


def test_linear(both, here, minilora, model):
    minilora("mix", *both[:4], "--adapter", f"{here.bard}:2", "--how", "linear", "--out", "blend")
    lora.load_adapter(model, here.bard, "again")
    lora.mix(model, {"bard": 0.75, "again": 2}, "expected", "linear")
    expected = model(IDS).data
    np.testing.assert_array_equal(logits_of(model, "blend"), expected)


def test_half_precision_on_disk_is_part_of_the_difference(both, minilora):
    single, half = (
        minilora("mix", *both, "--dtype", dtype, "--out", dtype).split("together: ")[1]
        for dtype in ("float32", "float16")
    )
    assert {a.dtype for a in read_tensors("float16/adapter_model.safetensors").values()} == {np.dtype(np.float16)}
    assert float(single.split()[0]) < 1e-5 < float(half.split()[0]) < 0.1


def test_one_adapter_keeps_what_it_does_at_its_strength(here, minilora):
    """The new adapter includes the strength: at strength 1, it generates the same text as the old one at 5."""
    minilora("mix", "--model", here.tiny, "--adapter", f"{here.bard}:5", "--out", "strong")
    flags = ["generate", "--model", here.tiny, "--tokens", 40]
    strong = minilora(*flags, "--adapter", "strong")
    assert strong == minilora(*flags, "--adapter", f"{here.bard}:5") != minilora(*flags)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--out out", "expected at least one --adapter to mix"),
        ("--adapter {bard} --out {log}", "log already contains a model or an adapter; choose another folder"),
        ("--adapter {bard} --out {tiny}", "tiny already contains a model or an adapter; choose another folder"),
        ("--adapter {bard} --rank 4 --out out", "r can be set only for how='svd', got r=4"),
        ("--adapter {bard} --adapter {log} --how linear --out out", "'linear' requires adapters of equal rank"),
        ("--adapter {bard} --out {verse}/out", "verse"),
    ],
    ids=str,
)
def test_what_is_refused_writes_nothing(arguments, message, here, fails, contents):
    before = contents(here.root)
    assert re.search(message, fails("mix", "--model", here.tiny, *arguments.format(**vars(here)).split()))
    assert contents(here.root) == before
