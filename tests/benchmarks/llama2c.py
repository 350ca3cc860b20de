"""Generation speed against llama2.c, a Llama in a single C file: the same weights, one thread each.

llama2.c is compiled as by its `make runfast` (`cc -Ofast`, no OpenMP) and runs as a separate process, which reports its
own speed: tokens per second from the end of the first token to the end, by a clock with millisecond resolution. This
includes the forward pass of each token, the argmax and the printing, but not the start of the process, the loading of
the weights, or the first token. Its time in the table is that of all tokens at this speed. minilora's time is that of a
complete call of `generate` in a running process, also with one thread for NumPy.

Both start from token 1, as `run.c` does without a prompt.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from minilora.generation import generate
from minilora.nn import Llama
from tests.benchmarks import llama2c_files
from tests.benchmarks.decoding import GREEDY, TOKENS, decisive_model
from tests.benchmarks.equal import same_tokens
from tests.benchmarks.interleave import Row, Took, compare
from tests.benchmarks.ours import Options, Size
from tests.benchmarks.processes import Failed, finished

LLAMA2C, GOAL = "llama2.c", 0.7
BEGIN = 1
"""The token that separates texts: `run.c` starts with it, and stops when the model generates it."""


def run(options: Options) -> list[Row]:
    assert options.llama2c is not None
    (size,) = options.sizes(3)
    what = f"one stream of {TOKENS} tokens, {size.layers}/{size.width}/{size.ffn}, one thread each"
    model = endless_model(size)
    try:
        with tempfile.TemporaryDirectory() as folder, threadpool_limits(1):
            theirs = in_llama2c(model, options.llama2c, Path(folder))
            programs: dict[str, Callable[[], Any]] = {
                "minilora": lambda: generate(model, [np.array([BEGIN])], TOKENS, GREEDY),
                LLAMA2C: lambda: theirs()[1],
            }

            def check() -> str:
                return same_tokens(programs["minilora"](), [theirs()[0]])

            goals = {LLAMA2C: GOAL}
            return compare(what, programs, goals=goals, check=check, tokens=TOKENS, **options.timing)
    except Failed as failed:
        return [Row(what, LLAMA2C, goal=GOAL, refusal=str(failed))]


def endless_model(size: Size) -> Llama:
    """A `decisive_model` that never generates token 1: its logit is zero, and the largest of the 256 is far above."""
    model = decisive_model(size, TOKENS)
    model.lm_head.weight.data[BEGIN] = 0
    return model


def in_llama2c(model: Llama, clone: Path, folder: Path) -> Callable[[], tuple[np.ndarray, Took]]:
    """Build llama2.c in `folder` with the weights of `model`. Raises Failed if it cannot be compiled.

    Returns a function that runs it and returns the tokens and the seconds that they took.
    """
    program, weights, vocabulary = folder / "run", folder / "model.bin", folder / "tokenizer.bin"
    finished(["cc", "-Ofast", "-o", program, clone / "run.c", "-lm"])
    weights.write_bytes(llama2c_files.checkpoint(model))
    vocabulary.write_bytes(llama2c_files.tokenizer())
    command = [program, weights, "-z", vocabulary, "-t", "0", "-n", str(TOKENS)]

    def call() -> tuple[np.ndarray, Took]:
        done = finished(command)
        return llama2c_files.answer(done.stdout, done.stderr)

    return call
