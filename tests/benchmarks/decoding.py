"""Writing text: one stream against transformers' `generate`, many adapters in one batch against one adapter, and texts
of different lengths that join and leave against equal ones.

All take the likeliest token each time, so that it can be checked that they write the same. llama2.c, a program in C,
has a comparison of its own: `llama2c.py`.
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
    """One text, from a prompt of 16 tokens."""
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
    """32 rows at once: 30 with an adapter each and 2 with none, against the same rows with one adapter for all."""
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
        """Three rows, with the adapter that the peer uses, with another, and with none, are what they are alone."""
        mixed = programs["minilora"]()
        rows = [mixed[0], mixed[1], mixed[-1]]
        if any(np.array_equal(rows[i], rows[i - 1]) for i in range(3)):
            raise Unequal("the adapters make no difference")
        alone = [generate(model, prompt(), tokens, GREEDY, adapters=name)[0] for name in (names[1], {})]
        return same_tokens(rows, [programs[ONE_ADAPTER]()[0], *alone])

    what = f"{ROWS} rows of {tokens} tokens, {ADAPTERS} adapters, {size.layers}/{size.width}/{size.ffn}"
    return compare(what, programs, goals={ONE_ADAPTER: 0.85}, check=check, tokens=ROWS * tokens, **options.timing)


def joining(size: Size, tokens: int, options: Options) -> list[Row]:
    """Texts of different lengths, 32 at a time: whenever one ends another begins. As many tokens in all as the peer's.

    The peer writes 32 texts of equal length four times, one batch after the other.
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
        """Every token was written, and the first and the last text are what they are alone."""
        written: dict[Request, list[int]] = {request: [] for request in mixed}
        for step in decode(model, iter(mixed), rows=ROWS):
            for token in step:
                written[token.request].append(token.id)
        alone = [generate(model, [r.prompt], r.tokens, GREEDY)[0] for r in (mixed[0], mixed[-1])]
        return same_tokens([np.array(written[mixed[0]]), np.array(written[mixed[-1]])], alone)

    what = f"{4 * ROWS} texts of {half // 2} to {half + half // 2} tokens, {ROWS} at a time"
    return compare(what, programs, goals={EQUAL: 0.8}, check=check, tokens=count, **options.timing)


def decisive_model(size: Size, tokens: int) -> Llama:
    """A model with weights of unit scale: its likeliest token is likelier by far, so that rounding picks no other.

    Its head has a table of its own. Tied to so large an embedding it would only say again what it read last.
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
    """A text to go on from, alone in a list."""
    return [np.random.default_rng(5).integers(256, size=PROMPT)]
