"""Writing text against llama2.c, a Llama in one file of C: the same weights, one thread each.

llama2.c is compiled as by its `make runfast` (`cc -Ofast`, no OpenMP) and runs as a process of its own, which reports
its speed itself. That is tokens per second from the end of its first token to its end, by a clock of milliseconds: each
token's pass through the model, the choice of the likeliest and its printing, but neither the start of the process, nor
the reading of the weights, nor the first token. The seconds in the table are those of all tokens at this speed.
minilora's are those of a whole call of `generate` in a process that is already running, with one thread for NumPy, too.

Both go on from token 1, with which `run.c` begins when it has no prompt.
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
"""The token that stands between two texts: `run.c` begins with it, and stops where the model writes it."""


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
    """A decisive model that never writes token 1: its score is zero, and the highest of 256 is far above."""
    model = decisive_model(size, TOKENS)
    model.lm_head.weight.data[BEGIN] = 0
    return model


def in_llama2c(model: Llama, clone: Path, folder: Path) -> Callable[[], tuple[np.ndarray, Took]]:
    """llama2.c with the weights of `model`: each call runs it, for its tokens and the seconds that they took.

    Its program and its files are made in `folder`. Raises Failed when it cannot be compiled.
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
