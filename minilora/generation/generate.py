"""Generation: token after token, each from a cache of the past, for one text or several side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from minilora.adapters.attach import active
from minilora.autograd.tensor import no_grad
from minilora.backend import Array, to_host
from minilora.data.tokenizer import ByteTokenizer
from minilora.generation.sampling import Sampler
from minilora.generation.token_step import TokenStep, can_step
from minilora.nn import Cache, Llama
from minilora.nn.choice import Choice, RowChoice, resolve
from minilora.threads import one_core


def generate(
    model: Llama,
    prompts: Sequence[Array],
    tokens: int,
    sampler: Sampler | None = None,
    seed: int = 0,
    adapters: Choice | Sequence[Choice] = None,
) -> list[Array]:
    """`tokens` new ids for each prompt; prompts may differ in length, and in the adapters that they go on with.

    Row i draws from its own generator, seeded with (seed, i), and only for its own new tokens: what it writes does
    not depend on its neighbours. `adapters` are used in place of the active ones: a name, names with strengths, or a
    list that has one of these, or None for the base, for each prompt.
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
    sampler: Sampler | None = None,
    seed: int = 0,
    adapters: Choice | Sequence[Choice] = None,
) -> Iterator[list[int | None]]:
    """As `generate`, but yields each step's new ids as they come: one for each row, None where a row has none.

    Rows advance together. Where a longer prompt still has tokens to read, its row reads while others write, so
    nothing is padded and nothing masked. When the context is full, the older half of it is forgotten.
    """
    check_prompts(model, prompts, tokens)  # here, not at the first step: a mistake shows before anything is written
    if adapters is None and not model.merged:
        adapters = active(model)  # those of now: choosing others does not change a text half-way
    rows = None if adapters is None else resolve(model, adapters, len(prompts))
    return _columns(model, prompts, tokens, sampler or Sampler(), seed, rows)


def _columns(
    model: Llama, prompts: Sequence[Array], tokens: int, sampler: Sampler, seed: int, rows: RowChoice | None
) -> Iterator[list[int | None]]:
    rngs = [np.random.default_rng([seed, row]) for row in range(len(prompts))]
    lengths = [len(prompt) for prompt in prompts]
    ids = np.empty((len(prompts), max(lengths) + tokens), dtype=np.int64)  # (B, time)
    first = min(lengths)
    read = Reader(model, len(prompts), rows, calls=ids.shape[1] - first)
    ids[:, :first] = [prompt[:first] for prompt in prompts]
    for time in range(first, ids.shape[1]):
        logits = read(ids[:, :time])
        writes = [length <= time < length + tokens for length in lengths]
        draws = np.array([rng.random() if w else 0.0 for rng, w in zip(rngs, writes, strict=True)])
        column = sampler.choose(logits, draws)
        for row, prompt in enumerate(prompts):
            if time < lengths[row]:
                column[row] = prompt[time]
        ids[:, time] = column
        yield [int(token) if w else None for token, w in zip(column, writes, strict=True)]


def write(
    model: Llama, prompt: str, tokens: int, sampler: Sampler | None = None, seed: int = 0, adapters: Choice = None
) -> str:
    """The text that the model continues `prompt` with, `tokens` bytes long."""
    return "".join(write_stream(model, prompt, tokens, sampler, seed, adapters))


def write_stream(
    model: Llama, prompt: str, tokens: int, sampler: Sampler | None = None, seed: int = 0, adapters: Choice = None
) -> Iterator[str]:
    """As `write`, piece by piece; a character of several bytes comes when its last byte has."""
    return _pieces(stream(model, [ByteTokenizer().encode(prompt)], tokens, sampler, seed, adapters))


def _pieces(columns: Iterator[list[int | None]]) -> Iterator[str]:
    decoder = ByteTokenizer().stream()
    for (token,) in columns:
        assert token is not None  # a single row writes at every step
        yield decoder.decode(bytes([token]))
    yield decoder.decode(b"", final=True)


class Reader:
    """Reads what has not been read yet: several tokens by the model's forward pass, a single one by a TokenStep.

    `calls` is how often it will be called: the first call alone does not need a TokenStep.
    """

    def __init__(self, model: Llama, batch: int, rows: RowChoice | None, calls: int) -> None:
        self.model, self.batch, self.rows, self.end = model, batch, rows, 0
        self.context = model.config.max_position_embeddings
        self.cache: Cache = model.new_cache(batch)
        self.step = TokenStep(model, rows) if calls > 1 and can_step(model) else None

    @no_grad()
    def __call__(self, ids: Array) -> Array:
        """The logits (B, V), on the host, for what comes after `ids` (B, time): the last call's and what is new."""
        unread, self.end = ids[:, self.end :], ids.shape[1]
        if self.cache.length + unread.shape[1] > self.context:
            self.cache = self.model.new_cache(self.batch)
            unread = ids[:, -(self.context // 2 or 1) :]
        # e**-gate may be infinite, and silu is then 0; other infinities are found below.
        with one_core, np.errstate(all="ignore"):
            if self.step and unread.shape[1] == 1:
                logits = to_host(self.step(unread[:, 0], self.cache))
            else:
                logits = to_host(self.model(unread, self.cache, self.rows).data[:, -1])
        if not np.isfinite(logits).all():
            raise ValueError("the model's logits are not finite; adapters should have smaller strengths")
        return logits


def check_prompts(model: Llama, prompts: Sequence[Array], tokens: int) -> None:
    context = model.config.max_position_embeddings
    if any(not hasattr(prompt, "dtype") or prompt.ndim != 1 for prompt in prompts):
        raise ValueError("expected a list of prompts, each an array of ids (n,); for text there is `write`")
    if len(prompts) == 0 or tokens < 1:
        raise ValueError(
            f"expected at least one prompt and at least one token to write, got {len(prompts)} and {tokens}"
        )
    for prompt in prompts:
        if not 1 <= len(prompt) <= context:
            raise ValueError(
                f"a prompt should have 1 to {context} tokens, the model's context; this one has {len(prompt)}. "
                "In a byte-level model a token is a byte"
            )
