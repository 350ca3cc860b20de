"""`minilora bench` on a model of a few thousand parameters: its output and JSON file, regardless of the times."""

import functools
import json
import re

import pytest

from minilora.cli import bench, main

SIZES = dict(layers=2, heads=2, hidden=16, intermediate=24, context=8, batch=2, rank=2, threads=2, rounds=3)
COMMAND = ["bench", *(word for flag, n in SIZES.items() for word in (f"--{flag}", str(n)))]
TIMES = "full_step_ms", "lora_step_ms", "decode_tokens_per_s"
PROMISED = dict.fromkeys(TIMES, float) | dict.fromkeys(("peak_bytes_full", "peak_bytes_lora", "threads"), int)
MODEL = 256 * 16 + 2 * (4 * 16 * 16 + 3 * 16 * 24 + 2 * 16) + 16  # embedding (tied to the head), layers, norms
ADAPTER = 2 * 2 * (4 * (16 + 16) + 3 * (16 + 24))  # layers · r · Σ (in + out)


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Generate fewer tokens and use fewer batches."""
    monkeypatch.setattr(bench, "TOKENS", 4)
    monkeypatch.setattr(bench, "BATCHES", 3)


@pytest.fixture
def figures(minilora, tmp_path):
    """figures(*flags): run the benchmark; return the contents of the JSON file, and the printed output."""

    def run(*flags):
        out = minilora(*COMMAND, *flags, "--json", tmp_path / "made" / "bench.json")
        return json.loads((tmp_path / "made" / "bench.json").read_text()), out

    return run


def test_the_file_has_what_is_promised(figures):
    found, _ = figures()
    assert {name: type(found[name]) for name in PROMISED} == PROMISED
    assert all(found[name] > 0 for name in PROMISED)
    assert {name: found[name] for name in SIZES} == SIZES
    assert found["versions"].keys() == {"minilora", "numpy", "python"}
    for name in TIMES:
        low, high = found[f"{name}_quartiles"]
        assert low <= found[name] <= high
    assert found["full_over_lora"] == found["full_step_ms"] / found["lora_step_ms"]


def test_the_memory_is_that_of_these_models(figures):
    found, _ = figures()
    full, adapted = found["memory_bytes_full"], found["memory_bytes_lora"]
    assert found["trainable_parameters"] == ADAPTER
    assert (full["weights"], full["gradients"], full["optimizer"]) == (4 * MODEL, 4 * MODEL, 12 * MODEL)
    assert (adapted["weights"], adapted["gradients"]) == (4 * (MODEL + ADAPTER), 4 * ADAPTER)
    assert adapted["optimizer"] == 12 * ADAPTER
    for method, split in (("full", full), ("lora", adapted)):
        assert found[f"peak_bytes_{method}"] == sum(split.values())
    assert found["peak_bytes_lora"] < found["peak_bytes_full"]


def test_what_is_printed_is_what_is_written(figures):
    found, out = figures()
    assert f"2 layers, 2 heads, width 16, MLP 24, context 8, batch 2: {MODEL:,} parameters" in out
    assert f"LoRA of rank 2 trains {ADAPTER:,} new parameters" in out
    assert "2 threads; medians of 3 rounds (interquartile range)" in out
    for name, method in (("full", "full"), ("LoRA", "lora")):
        time, speed = re.search(rf"^training step, {name} +([\d.,]+) ms .* ([\d,]+) tokens/s$", out, re.M).groups()
        assert time == f"{found[f'{method}_step_ms']:,.1f}"
        assert speed == f"{16e3 / found[f'{method}_step_ms']:,.0f}"
        columns = re.search(rf"^{name}  +(.*)$", out, re.M)[1].split()
        split = [*found[f"memory_bytes_{method}"].values(), found[f"peak_bytes_{method}"]]
        assert columns == [f"{size / 1e6:.2f}" for size in split]
    head = re.search(r"^memory per step, MB +(.*)$", out, re.M)[1].split()
    assert head == ["weights", "gradients", "optimizer", "activations", "peak"]
    assert re.search(r"^full time / LoRA time +([\d.]+)$", out, re.M)[1] == f"{found['full_over_lora']:.2f}"
    written = re.search(r"^generation, one stream +([\d,]+) tokens/s", out, re.M)[1]
    assert written == f"{found['decode_tokens_per_s']:,.0f}"


def test_one_round_is_enough(figures):
    found, out = figures("--rounds", 1, "--threads", 1)
    assert found["full_step_ms_quartiles"] == [found["full_step_ms"]] * 2
    assert found["threads"] == 1
    assert "1 thread; " in out


def test_without_a_file_nothing_is_written(minilora, tmp_path):
    before = list(tmp_path.rglob("*"))
    assert "peak" in minilora(*COMMAND)
    assert list(tmp_path.rglob("*")) == before


def test_times_are_medians_of_turns_taken_alternately(monkeypatch):
    seconds = {"a": iter([90, 80, 1, 2, 9]), "b": iter([70, 60, 5, 4, 6])}
    now, order = [0.0], []

    def work(name):
        order.append(name)
        now[0] += next(seconds[name])

    monkeypatch.setattr(bench.time, "perf_counter", lambda: now[0])
    programs = {name: functools.partial(work, name) for name in seconds}
    assert bench._in_turns(programs, 3, "turns") == {"a": [1, 2, 9], "b": [5, 4, 6]}
    assert order == ["a", "b"] * 5
    assert bench._spread([1, 2, 9]) == [1.5, 2, 5.5]


WRONG = {
    "--batch 0": "expected `batch` to be a positive integer, got 0",
    "--rounds 0": "expected --rounds to be at least 1, got 0",
    "--threads 0": "--threads: expected a positive integer, got '0'",
    "--rank 0": "rank r to be a positive integer, got 0",
    "--layers 0": "expected num_hidden_layers to be a positive integer, got 0",
    "--heads two": "--heads: invalid int value: 'two'; see minilora bench --help",
    "--json .": "expected --json to name a file, but . is a folder",
    "--json file/x.json": "file",
    "--hidden 100000000000000": "not enough memory for models of this size",
}


@pytest.mark.parametrize("flags", WRONG)
def test_invalid_flags_are_refused_before_anything_is_measured(flags, fails, tmp_path, monkeypatch):
    (tmp_path / "work" / "file").touch()
    monkeypatch.setattr(bench, "_in_turns", None)
    assert WRONG[flags] in fails(*COMMAND, *flags.split())


def test_ctrl_c_leaves_nothing_behind(monkeypatch, capsys, tmp_path):
    def press(*_):
        raise KeyboardInterrupt

    old = tmp_path / "bench.json"
    old.write_text("{}")
    for function in ("_in_turns", "step_memory"):
        with monkeypatch.context() as patch:
            patch.setattr(bench, function, press)
            assert main([*COMMAND, "--json", str(old)]) == 130
        assert capsys.readouterr().err == "minilora: stopped\n"
        assert old.read_text() == "{}"
        assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["bench.json"]
