"""Generation speed: one stream against transformers' `generate`, many adapters in one batch against one adapter, and
a continuous batch of texts of different lengths against batches of equal texts.

Decoding is greedy, so that the generated tokens can be compared. The comparison with llama2.c, a program in C, is in
`llama2c.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from minilora.generation import Request, Sampler, decode, generate
from minilora.nn import Llama
from tests.benchmarks import ours
from tests.benchmarks.equal import Unequal, same_tokens
from tests.benchmarks.hugging_face import in_transformers
from tests.benchmarks.interleave import Row, compare
from tests.benchmarks.ours import Options, Size
from tests.unit_scale import unit_scale_llama

GREEDY = Sampler(temperature=0)
TRANSFORMERS, ONE_ADAPTER, EQUAL = "transformers' generate", "32 rows, one adapter", "32 equal texts"
PROMPT, TOKENS, ROWS, ADAPTERS = 16, 256, 32, 30


def run(options: Options) -> list[Row]:
    (size,) = options.sizes(3)
    tokens = 32 if options.tiny else TOKENS
    return one_stream(size, tokens, options) + many_adapters(size, tokens, options) + joining(size, tokens, options)


def one_stream(size: Size, tokens: int, options: Options) -> list[Row]:
    """A single text, with a prompt of 16 tokens."""
    model = decisive_model(size, tokens)
    theirs = in_transformers(model).eval()
    ids = torch.tensor(np.stack(prompt()))  # (time,) -> (1, time)
    settings = {"attention_mask": torch.ones_like(ids), "max_new_tokens": tokens, "do_sample": False}
    programs: dict[str, Callable[[], Any]] = {
        "minilora": lambda: generate(model, prompt(), tokens, GREEDY),
        TRANSFORMERS: lambda: theirs.generate(input_ids=ids, **settings),
    }

    def check() -> str:
        return same_tokens(programs["minilora"](), programs[TRANSFORMERS]()[:, PROMPT:].numpy())

    what = f"one stream of {tokens} tokens, {size.layers}/{size.width}/{size.ffn}"
    return compare(what, programs, goals={TRANSFORMERS: 6.0}, check=check, tokens=tokens, **options.timing)


def many_adapters(size: Size, tokens: int, options: Options) -> list[Row]:
    """32 rows in a batch, 30 with different adapters and 2 with none, against the same rows with a single adapter."""
    model = decisive_model(size, tokens)
    for i in range(ADAPTERS):
        ours.with_lora(model, f"adapter{i}", seed=i, init_lora_weights=False)
    names: list[str | None] = [f"adapter{i}" for i in range(ADAPTERS)]
    names += [None] * (ROWS - ADAPTERS)
    texts = prompt() * ROWS
    programs: dict[str, Callable[[], Any]] = {
        "minilora": partial(generate, model, texts, tokens, GREEDY, adapters=names),
        ONE_ADAPTER: partial(generate, model, texts, tokens, GREEDY, adapters="adapter0"),
    }

    def check() -> str:
        """Compare three rows (the baseline's adapter, another adapter, no adapter) with runs that mix no adapters."""
        mixed = programs["minilora"]()
        rows = [mixed[0], mixed[1], mixed[-1]]
        if any(np.array_equal(rows[i], rows[i - 1]) for i in range(3)):
            raise Unequal("the adapters have no effect on the generated tokens")
        alone = [generate(model, prompt(), tokens, GREEDY, adapters=name)[0] for name in (names[1], {})]
        return same_tokens(rows, [programs[ONE_ADAPTER]()[0], *alone])

    what = f"{ROWS} rows of {tokens} tokens, {ADAPTERS} adapters, {size.layers}/{size.width}/{size.ffn}"
    return compare(what, programs, goals={ONE_ADAPTER: 0.85}, check=check, tokens=ROWS * tokens, **options.timing)


def joining(size: Size, tokens: int, options: Options) -> list[Row]:
    """128 texts of different lengths, 32 at a time: when one ends, the next begins.

    The baseline generates four batches of 32 texts of equal length, one after the other: about as many tokens in total.
    """
    model, rng = decisive_model(size, tokens), np.random.default_rng(6)
    half = tokens // 2
    lengths = rng.integers(half // 2, half + half // 2 + 1, 4 * ROWS)
    prompts = [rng.integers(256, size=n) for n in rng.integers(PROMPT // 2, 2 * PROMPT - PROMPT // 2 + 1, 4 * ROWS)]
    mixed = [Request(p, int(n), GREEDY) for p, n in zip(prompts, lengths, strict=True)]
    equal = [Request(prompt()[0], int(lengths.sum()) // (4 * ROWS), GREEDY) for _ in range(ROWS)]
    count = int(lengths.sum())
    programs: dict[str, Callable[[], Any]] = {
        "minilora": lambda: [len(step) for step in decode(model, iter(mixed), rows=ROWS)],
        EQUAL: lambda: [len(step) for _ in range(4) for step in decode(model, equal)],
    }

    def check() -> str:
        """Compare the first and the last text with runs of their own."""
        written: dict[Request, list[int]] = {request: [] for request in mixed}
        for step in decode(model, iter(mixed), rows=ROWS):
            for token in step:
                written[token.request].append(token.id)
        alone = [generate(model, [r.prompt], r.tokens, GREEDY)[0] for r in (mixed[0], mixed[-1])]
        return same_tokens([np.array(written[mixed[0]]), np.array(written[mixed[-1]])], alone)

    what = f"{4 * ROWS} texts of {half // 2} to {half + half // 2} tokens, {ROWS} at a time"
    return compare(what, programs, goals={EQUAL: 0.8}, check=check, tokens=count, **options.timing)


def decisive_model(size: Size, tokens: int) -> Llama:
    """A model with unit-scale weights: its most likely token leads by so much that rounding cannot change the choice.

    The head is not tied to the embedding. With an embedding this large, a tied head would only repeat the last token.
    """
    return unit_scale_llama(
        seed=4,
        vocab_size=256,
        hidden_size=size.width,
        intermediate_size=size.ffn,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        max_position_embeddings=PROMPT + tokens,
        tie_word_embeddings=False,
    )


def prompt() -> list[np.ndarray]:
    """A list with one random prompt of 16 tokens."""
    return [np.random.default_rng(5).integers(256, size=PROMPT)]
