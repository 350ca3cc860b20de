"""`minilora bench`: the speed of training steps and of generation on this machine, and the memory of a step."""

from __future__ import annotations

import itertools
import os
import platform
import statistics
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from minilora import __version__, lora
from minilora.cli import options
from minilora.files import write_json
from minilora.generation import Sampler, generate
from minilora.nn import Llama, LlamaConfig
from minilora.threads import Threads
from minilora.training import Run, StepMemory, TrainingConfig, step_memory
from minilora.training.pieces import Batch

PROMPT, TOKENS = 16, 256  # token ids in the prompt, and token ids to generate
BATCHES = 64  # distinct batches, so that a model does not memorize them
WARM_UP = 2  # rounds that are not timed: memory is allocated and caches are filled
METHODS = "full", "lora"
SIZES = {
    "layers": (6, "decoder layers"),
    "heads": (6, "attention heads"),
    "hidden": (192, "hidden size"),
    "intermediate": (512, "intermediate size of the MLP"),
    "context": (128, "tokens per window"),
    "batch": (32, "windows per step"),
    "rank": (8, "rank r of the LoRA adapter"),
    "rounds": (10, "timed rounds"),
}


def add(commands: Any) -> None:
    parser = options.command(
        commands,
        "bench",
        "measure time and memory of training steps (full and LoRA) and the speed of generation on this machine",
        "minilora bench --layers 4 --heads 4 --hidden 128 --intermediate 352 --json bench.json",
    )
    for flag, (default, what) in SIZES.items():
        parser.add_argument(f"--{flag}", type=int, default=default, metavar="N", help=f"{what} (default: {default})")
    options.add_threads(parser)
    parser.add_argument("--json", metavar="FILE", help="also write the results to a JSON file")
    parser.set_defaults(run=run)


def run(flags: Namespace) -> None:
    if flags.json:
        _check_file(Path(flags.json))  # first, so that an unwritable file is reported before the measurement
    try:
        results = _measure(flags)
    except MemoryError:
        raise ValueError("not enough memory for models of this size; choose smaller sizes") from None
    if flags.json:
        write_json(flags.json, results)


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise ValueError(f"expected --json to name a file, but {path} is a folder")
    there = next(folder for folder in path.absolute().parents if folder.exists())
    if not (there.is_dir() and os.access(there, os.W_OK)):
        raise ValueError(f"cannot write {path} for --json; choose another folder")


def _measure(flags: Namespace) -> dict[str, Any]:
    """Run the benchmark, print each result as soon as it is known, and return all of them for the JSON file."""
    config = TrainingConfig(batch=flags.batch, context=flags.context, schedule="constant", warmup=0)
    if flags.rounds < 1:
        raise ValueError(f"expected --rounds to be at least 1, got {flags.rounds}")
    models, pool = {method: _model(flags, method) for method in METHODS}, Threads(flags.threads)
    batches = _batches(flags)
    counts = lora.report(models["lora"])
    _headline(flags, pool.number, counts)
    with pool:
        runs = {method: Run(model, None, None, config, threads=flags.threads) for method, model in models.items()}
        steps = {method: _endless(run.step, batches) for method, run in runs.items()}
        times = _in_turns(steps, flags.rounds, "training steps")
        times |= _in_turns({"writing": _writing(flags)}, flags.rounds, "generation")
    _print_times(times, flags.batch * flags.context)
    memory = {method: step_memory(model, batches[0], pool.number) for method, model in models.items()}
    _print_memory(memory)
    return {**_record(flags, times, memory), "threads": pool.number, "trainable_parameters": counts.trainable}


def _model(flags: Namespace, method: str) -> Llama:
    """Build the model, with the same weights each time; for "lora", freeze it and adapt every linear layer."""
    config = LlamaConfig(
        hidden_size=flags.hidden,
        intermediate_size=flags.intermediate,
        num_hidden_layers=flags.layers,
        num_attention_heads=flags.heads,
        max_position_embeddings=max(flags.context, PROMPT + TOKENS),
    )
    adapter = lora.LoraConfig(r=flags.rank, lora_alpha=2 * flags.rank, target_modules="all-linear")
    model = Llama(config, np.random.default_rng(0))
    if method == "lora":
        lora.inject(model, adapter, rng=np.random.default_rng(1))
    return model


def _batches(flags: Namespace) -> list[Batch]:
    """Return batches of random ids; their values do not affect the time."""
    rng = np.random.default_rng(2)
    ids = [rng.integers(256, size=(flags.batch, flags.context + 1)) for _ in range(BATCHES)]
    return [(rows[:, :-1], rows[:, 1:]) for rows in ids]


def _endless(step: Callable[[list[Batch]], float], batches: list[Batch]) -> Callable[[], float]:
    """Return a function without arguments that runs a step on the next batch, starting over after the last one."""
    circle = itertools.cycle(batches)
    return lambda: step([next(circle)])


def _writing(flags: Namespace) -> Callable[[], object]:
    """Return a function that generates one sequence greedily with `generate`."""
    model, prompt = _model(flags, "full"), np.random.default_rng(3).integers(256, size=PROMPT)
    return lambda: generate(model, [prompt], TOKENS, Sampler(temperature=0))


def _in_turns(programs: Mapping[str, Callable[[], object]], rounds: int, what: str) -> dict[str, list[float]]:
    """Time each program once per round (A B A B …), in seconds, so that a temporary slowdown affects all of them."""
    from tqdm import tqdm

    times: dict[str, list[float]] = {name: [] for name in programs}
    turns = tqdm(range(WARM_UP + rounds), what, leave=False, unit="round", disable=not sys.stderr.isatty())
    for turn in turns:
        for name, program in programs.items():
            begun = time.perf_counter()
            program()
            if turn >= WARM_UP:
                times[name].append(time.perf_counter() - begun)
    return times


def _spread(values: Sequence[float]) -> list[float]:
    """Return the lower quartile, the median and the upper quartile."""
    return statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [*values] * 3


def _headline(flags: Namespace, threads: int, counts: lora.Report) -> None:
    print(
        f"{flags.layers} layers, {flags.heads} heads, width {flags.hidden}, MLP {flags.intermediate}, "
        f"context {flags.context}, batch {flags.batch}: {counts.total - counts.trainable:,} parameters\n"
        f"LoRA of rank {flags.rank} trains {counts.trainable:,} new parameters\n"
        f"{threads} thread{'s' * (threads > 1)}; medians of {flags.rounds} rounds (interquartile range)\n",
        flush=True,
    )


def _print_times(times: dict[str, list[float]], tokens: int) -> None:
    for name, method in (("full", "full"), ("LoRA", "lora")):
        low, median, high = (f"{1e3 * x:,.1f}" for x in _spread(times[method]))
        speed = tokens / statistics.median(times[method])
        print(f"training step, {name}    {median:>9} ms ({low} to {high})  {speed:,.0f} tokens/s")
    print(f"full time / LoRA time  {_ratio(times):>9.2f}")
    high, median, low = (f"{TOKENS / x:,.0f}" for x in _spread(times["writing"]))
    print(f"generation, one stream {median:>9} tokens/s ({low} to {high})\n", flush=True)


def _ratio(times: dict[str, list[float]]) -> float:
    """Return the ratio of the median times of a full step and a LoRA step."""
    return statistics.median(times["full"]) / statistics.median(times["lora"])


def _print_memory(memory: dict[str, StepMemory]) -> None:
    columns = ["weights", "gradients", "optimizer", "activations", "peak"]
    print(f"{'memory per step, MB':20}" + "".join(f"{name:>13}" for name in columns))
    for name, method in (("full", "full"), ("LoRA", "lora")):
        print(f"{name:20}" + "".join(f"{getattr(memory[method], column) / 1e6:>13.2f}" for column in columns))
    print(
        "\nWith a small rank, LoRA saves most of the memory for gradients and optimizer state, which grows with the\n"
        "number of trainable parameters. It saves no memory for weights and little for activations, which grow with\n"
        "the number of tokens and threads."
    )


def _record(flags: Namespace, times: dict[str, list[float]], memory: dict[str, StepMemory]) -> dict[str, Any]:
    results: dict[str, Any] = {flag: getattr(flags, flag) for flag in SIZES}
    for method in METHODS:
        low, median, high = (1e3 * x for x in _spread(times[method]))
        results |= {f"{method}_step_ms": median, f"{method}_step_ms_quartiles": [low, high]}
        results |= {f"peak_bytes_{method}": memory[method].peak, f"memory_bytes_{method}": asdict(memory[method])}
    high, median, low = (TOKENS / x for x in _spread(times["writing"]))
    results |= {"decode_tokens_per_s": median, "decode_tokens_per_s_quartiles": [low, high]}
    versions = {"minilora": __version__, "numpy": np.__version__, "python": platform.python_version()}
    return {**results, "full_over_lora": _ratio(times), "versions": versions}
