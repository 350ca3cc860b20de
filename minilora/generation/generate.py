"""Generate token ids or text from prompts, all at once or streamed. Each function here calls `decode`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from minilora.backend import Array
from minilora.data.tokenizer import ByteTokenizer
from minilora.generation.decode import decode
from minilora.generation.request import Chooser, Request, Token
from minilora.generation.sampling import make_sampler
from minilora.messages import expect, shown
from minilora.nn import Llama
from minilora.nn.choice import Choice, resolve
from minilora.nn.module import check_module


def generate(
    model: Llama,
    prompts: Sequence[Array],
    tokens: int,
    sampler: Chooser | None = None,
    seed: int = 0,
    adapters: Choice | Sequence[Choice] = None,
    **sampling: Any,
) -> list[Array]:
    """Return the new ids for each prompt: `tokens` ids, or fewer if an end token comes first, which is included.

    Prompts may differ in length. Row i has its own random generator, seeded with (seed, i), so its text does not depend
    on the other rows. `adapters` overrides the active adapters: a name or a dict of strengths by name for all prompts,
    or a list with one entry per prompt, where None is the base. The keyword arguments `sampling` are settings of
    `Sampler`, such as `temperature=0.5`, given instead of `sampler`.
    """
    steps = stream(model, prompts, tokens, sampler, seed, adapters, **sampling)
    written: list[list[int]] = [[] for _ in prompts]
    for column in steps:
        for row, token in enumerate(column):
            if token is not None:
                written[row].append(token)
    return [np.array(row, dtype=np.int64) for row in written]


def stream(
    model: Llama,
    prompts: Sequence[Array],
    tokens: int,
    sampler: Chooser | None = None,
    seed: int = 0,
    adapters: Choice | Sequence[Choice] = None,
    **sampling: Any,
) -> Iterator[list[int | None]]:
    """Streaming form of `generate`: yields the new ids of each step, one per row, None for a row that has ended."""
    expect(prompts, Sequence | np.ndarray, "a list of prompts, each an array of token ids")
    if len(prompts) == 0:
        raise ValueError("expected at least one prompt, got none")
    choices: list[Choice] = [None] * len(prompts)
    if adapters is not None:
        rows = resolve(model, adapters, len(prompts))
        choices = [rows.distinct[i] for i in rows.index]
    sampler = make_sampler(sampler, sampling)
    requests = [
        Request(prompt, tokens, sampler, (seed, row), choice)
        for row, (prompt, choice) in enumerate(zip(prompts, choices, strict=True))
    ]
    return _columns(requests, decode(model, requests))


def _columns(requests: list[Request], steps: Iterator[list[Token]]) -> Iterator[list[int | None]]:
    for step in steps:
        written = {token.request: token.id for token in step}
        yield [written.get(request) for request in requests]


def write(
    model: Llama,
    prompt: str,
    tokens: int = 100,
    sampler: Chooser | None = None,
    seed: int = 0,
    adapters: Choice = None,
    stop: str | Sequence[str] = (),
    **sampling: Any,
) -> str:
    """Return the model's continuation of `prompt`, at most `tokens` tokens long.

    The text ends before the first occurrence of a string in `stop` or before the model's end token (`eos_token_id`).
    The keyword arguments `sampling` are settings of `Sampler`, such as `temperature=0.5`, given instead of `sampler`.
    """
    return "".join(write_stream(model, prompt, tokens, sampler, seed, adapters, stop, **sampling))


def write_stream(
    model: Llama,
    prompt: str,
    tokens: int = 100,
    sampler: Chooser | None = None,
    seed: int = 0,
    adapters: Choice = None,
    stop: str | Sequence[str] = (),
    **sampling: Any,
) -> Iterator[str]:
    """Streaming form of `write`; a multi-byte character is yielded with its last byte."""
    check_bytes(model)
    request = Request(ByteTokenizer().encode(prompt), tokens, make_sampler(sampler, sampling), (seed, 0), adapters)
    stops = [stop] if isinstance(stop, str) else list(stop)
    if not all(isinstance(text, str) and text for text in stops):
        raise ValueError(f"expected `stop` to be a non-empty string, or a list of them, got {shown(stop)}")
    return _until(_pieces(decode(model, [request])), stops)


def check_bytes(model: Llama) -> None:
    """Raise ValueError unless the tokens of a model are the 256 bytes."""
    check_module(model)
    if model.config.vocab_size != ByteTokenizer.vocab_size:
        raise ValueError(
            f"expected a model whose tokens are the {ByteTokenizer.vocab_size} bytes, got one with a vocabulary of "
            f"{model.config.vocab_size:,}; for a model with another tokenizer, use its token ids and `generate`"
        )


def _pieces(steps: Iterator[list[Token]]) -> Iterator[str]:
    decoder = ByteTokenizer().stream()
    for (token,) in steps:
        if token.finish_reason != "stop":
            yield decoder.decode(bytes([token.id]))
    yield decoder.decode(b"", final=True)


def _until(pieces: Iterable[str], stops: Sequence[str]) -> Iterator[str]:
    """Yield the text up to the first stop string, holding back text that may be the beginning of one."""
    text = ""
    for piece in pieces:
        text += piece
        ends = [end for stop in stops if (end := text.find(stop)) >= 0]
        if ends:
            yield text[: min(ends)]
            return
        held = max((n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
        yield text[: len(text) - held]
        text = text[len(text) - held :]
    yield text
