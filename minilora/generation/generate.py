"""Generation: ids or text that continue a prompt, all at once or streamed. Each function calls `decode`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from minilora.backend import Array
from minilora.data.tokenizer import ByteTokenizer
from minilora.generation.decode import decode
from minilora.generation.request import Chooser, Request, Token
from minilora.generation.sampling import Sampler
from minilora.nn import Llama
from minilora.nn.choice import Choice, resolve


def generate(
    model: Llama,
    prompts: Sequence[Array],
    tokens: int,
    sampler: Chooser | None = None,
    seed: int = 0,
    adapters: Choice | Sequence[Choice] = None,
) -> list[Array]:
    """New ids for each prompt: `tokens` of them, or fewer, ending with an end token; prompts may differ in length.

    Row i has its own random generator, seeded with (seed, i), so its text does not depend on the other rows. `adapters`
    replace the active ones: a name, names with strengths, or a list with one of these, or None for the base, for each
    prompt.
    """
    written: list[list[int]] = [[] for _ in prompts]
    for column in stream(model, prompts, tokens, sampler, seed, adapters):
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
) -> Iterator[list[int | None]]:
    """As `generate`, but yields each step's new ids as they come: one for each row, None for a row that has ended."""
    if len(prompts) == 0:
        raise ValueError("expected at least one prompt, got none")
    choices: list[Choice] = [None] * len(prompts)
    if adapters is not None:
        rows = resolve(model, adapters, len(prompts))
        choices = [rows.distinct[i] for i in rows.index]
    requests = [
        Request(prompt, tokens, sampler or Sampler(), (seed, row), choice)
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
    tokens: int,
    sampler: Chooser | None = None,
    seed: int = 0,
    adapters: Choice = None,
    stop: str | Sequence[str] = (),
) -> str:
    """The model's continuation of `prompt`: at most `tokens` tokens, without the stop text.

    It ends before the first occurrence of a text in `stop`, or at an end token of the model (`eos_token_id`).
    """
    return "".join(write_stream(model, prompt, tokens, sampler, seed, adapters, stop))


def write_stream(
    model: Llama,
    prompt: str,
    tokens: int,
    sampler: Chooser | None = None,
    seed: int = 0,
    adapters: Choice = None,
    stop: str | Sequence[str] = (),
) -> Iterator[str]:
    """As `write`, but streamed; a multi-byte character is yielded with its last byte."""
    request = Request(ByteTokenizer().encode(prompt), tokens, sampler or Sampler(), (seed, 0), adapters)
    stops = [stop] if isinstance(stop, str) else list(stop)
    if not all(stops):
        raise ValueError("a text to stop at should not be empty")
    return _until(_pieces(decode(model, [request])), stops)


def _pieces(steps: Iterator[list[Token]]) -> Iterator[str]:
    decoder = ByteTokenizer().stream()
    for (token,) in steps:
        if token.finish_reason != "stop":
            yield decoder.decode(bytes([token.id]))
    yield decoder.decode(b"", final=True)


def _until(pieces: Iterable[str], stops: Sequence[str]) -> Iterator[str]:
    """The pieces of a text up to where one of `stops` begins. What may be the beginning of one is held back."""
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
