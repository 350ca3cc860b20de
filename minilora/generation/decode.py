"""Decoding: requests in, tokens out. The one loop that writes text.

Each request writes one text: it has its prompt, adapters, sampler, seed, and says where to stop. Texts begin and end at
any step and are computed side by side, but none depends on the others, beyond the rounding of products. A text that
fills the model's context forgets its older half.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import nullcontext

import numpy as np

from minilora.adapters.attach import active
from minilora.autograd.tensor import Tensor, no_grad
from minilora.backend import Array, like, to_host
from minilora.generation.bucket import SMALLEST, Bucket
from minilora.generation.request import Chooser, Request, Token, check_prompt
from minilora.generation.snapshot import copy_adapters, snapshot
from minilora.generation.token_step import TokenStep, can_step
from minilora.nn import Cache, Llama
from minilora.nn.choice import choosing, row_choice, strengths
from minilora.threads import one_core

TOGETHER = 1 / 8  # of the rows have to be free before requests are taken: reading several prompts at once is faster
PADDED = 2  # prompts are read together if the longest is at most so many times as long as the shortest


def decode(model: Llama, requests: Iterable[Request], rows: int | None = None) -> Iterator[list[Token]]:
    """Write the texts of all requests; yields the new tokens of each step, in the order of the requests.

    Parameters
    ----------
    requests : all of them, or an iterator, which is asked for the next ones when rows are free
    rows : how many texts to write at a time; None: all

    The model is used as it is now: what happens to its adapters later does not change the texts. Raises ValueError for
    a request that cannot be met, AdapterError if that is because of its adapters; for a list before the first step.
    """
    decoding = Decoding(model)
    if isinstance(requests, Sequence):
        for request in requests:
            decoding.check(request)
    return _steps(decoding, iter(requests), rows)


def _steps(decoding: Decoding, waiting: Iterator[Request], rows: int | None) -> Iterator[list[Token]]:
    most = np.inf if rows is None else rows
    while True:
        if len(decoding.texts) <= most * (1 - TOGETHER):
            while len(decoding.texts) < most and (request := next(waiting, None)):
                decoding.add(request)
        if not decoding.texts:
            return
        yield decoding.step()


class _Text:
    """A text that is being written.

    Attributes
    ----------
    ids : the prompt and what has been written
    length : how many of them the cache holds
    choice : the strengths of its adapters; None where they are merged
    bucket : where its keys and values are; None while there is something to read before the next single token
    cache : the same, where the model cannot go through buckets
    """

    def __init__(self, request: Request, number: int, choice: dict[str, float] | None, stop: Collection[int]) -> None:
        self.request, self.number, self.choice, self.stop = request, number, choice, stop
        self.rng = np.random.default_rng(request.seed)
        self.ids = request.prompt.tolist()
        self.length, self.left = 0, request.tokens
        self.bucket: Bucket | None = None
        self.cache: Cache | None = None

    def write(self, token: int, logits: Array) -> Token:
        """Add a token."""
        self.ids.append(token)
        self.left -= 1
        reason = "stop" if token in self.stop else None if self.left else "length"
        return Token(self.request, token, logits, reason)


class Decoding:
    """Texts in the making. `decode` drives it; a server adds requests by itself.

    Parameters
    ----------
    model : it is used as it is now; adapters that are attached later are unknown here
    """

    def __init__(self, model: Llama) -> None:
        self.model = snapshot(model)
        self.context = model.config.max_position_embeddings
        self.texts: list[_Text] = []  # those that take a single token in the next step, then those that read more
        self._added = 0
        self._steps = can_step(self.model)
        self._token_step: TokenStep | None = None
        self._stepping: list[_Text] = []  # those of the last step
        self._buckets: dict[int, Bucket] = {}
        self._active = None if self.model.merged else active(self.model)
        self._known, self._copied = self.model.adapters, set[str]()

    def check(self, request: Request) -> dict[str, float] | None:
        """The strengths of the request's adapters; raises ValueError for what cannot be written."""
        check_prompt(request.prompt, self.context, self.model.config.vocab_size)
        if request.tokens < 1:
            raise ValueError(f"expected at least one token to write, got {request.tokens}")
        if request.adapters is None:
            return self._active
        self.model.refuse_if_merged("choose adapters for a text")
        return strengths(request.adapters, self._known)

    def add(self, request: Request) -> None:
        """Begin a text in the next step."""
        choice = self.check(request)
        stop = self.model.config.end_tokens if request.stop is None else frozenset(request.stop)
        if new := (choice or {}).keys() - self._copied:
            copy_adapters(self.model, new)
            self._copied |= new
        self.texts.append(_Text(request, self._added, choice, stop))
        self._added += 1

    def remove(self, request: Request) -> None:
        """End a text now, finished or not."""
        text = next(text for text in self.texts if text.request is request)
        if text.bucket:
            text.bucket.remove(text)
        place, last = self.texts.index(text), self.texts.pop()
        if last is not text:
            self.texts[place] = last  # so that few rows change

    def step(self) -> list[Token]:
        """One new token for each text, in the order in which they were added. A text that ends is removed."""
        logits = self._logits()  # it may reorder the texts
        order = sorted(range(len(self.texts)), key=lambda row: self.texts[row].number)
        texts = [self.texts[row] for row in order]
        chosen = self._choose(texts, logits[order] if order != list(range(len(order))) else logits)
        tokens = [text.write(token, row) for text, (token, row) in zip(texts, chosen, strict=True)]
        for token in tokens:
            if token.finish_reason:
                self.remove(token.request)
        return tokens

    def _choose(self, texts: list[_Text], logits: Array) -> list[tuple[int, Array]]:
        """A token for each text, and its logits."""
        draws = np.array([text.rng.random() for text in texts])
        samplers: dict[Chooser, list[int]] = {}
        for row, text in enumerate(texts):
            samplers.setdefault(text.request.sampler, []).append(row)
        if len(samplers) == 1:
            (sampler,) = samplers
            return list(zip(sampler.choose(logits, draws).tolist(), logits, strict=True))
        chosen = np.empty(len(texts), dtype=np.int64)
        for sampler, rows in samplers.items():
            chosen[rows] = sampler.choose(logits[rows], draws[rows])
        return list(zip(chosen.tolist(), logits, strict=True))

    @no_grad()
    def _logits(self) -> Array:
        """The logits (rows, V) for what comes next in each of `texts`, on the host."""
        self._make_room()
        reading = sorted((text for text in self.texts if not text.bucket), key=lambda text: -len(text.ids))
        if reading:
            self.texts = [text for text in self.texts if text.bucket] + reading
        stepping = self.texts[: len(self.texts) - len(reading)]
        # e**-gate may be infinite, and silu is then 0; other infinities are found below.
        with one_core, np.errstate(all="ignore"):
            parts = [self._step(stepping)] if stepping else []
            parts += [self._read(texts) for texts in self._read_together(reading)]
        logits = to_host(parts[0]) if len(parts) == 1 else np.concatenate([to_host(part) for part in parts])
        if not np.isfinite(logits).all():
            raise ValueError("the model's logits are not finite; adapters should have smaller strengths")
        return logits

    def _make_room(self) -> None:
        """See that there is room for one more token: in a larger bucket, or where the context is full by forgetting."""
        moving: dict[Bucket, list[_Text]] = {}
        for text in self.texts:
            if text.length + 1 > self.context:
                text.ids = text.ids[-(self.context // 2 or 1) :]
                text.length, text.cache = 0, None
                if text.bucket:
                    text.bucket.remove(text)
                    text.bucket = None
            elif text.bucket and text.length == text.bucket.room:
                moving.setdefault(text.bucket, []).append(text)
        for bucket, texts in moving.items():
            larger = self._bucket(bucket.room + 1)
            bucket.move(texts, larger)
            for text in texts:
                text.bucket = larger

    def _bucket(self, tokens: int) -> Bucket:
        """The bucket for texts of so many tokens."""
        room = SMALLEST
        while room < tokens:
            room *= 2
        if room not in self._buckets:
            self._buckets[room] = Bucket(self.model.config, room, self.model.model.embed_tokens.weight.data)
        return self._buckets[room]

    def _step(self, texts: list[_Text]) -> Array:
        """The logits after the newest token of each text, read by the single-token path."""
        if self._token_step is None:
            self._token_step = TokenStep(self.model)
        if texts != self._stepping:
            self._token_step.choose([text.choice or {} for text in texts])
            self._stepping = texts
        self._buckets = {room: bucket for room, bucket in self._buckets.items() if bucket.texts}
        past = list(self._buckets.values())
        rows = {id(text): row for row, text in enumerate(texts)}
        for bucket in past:
            alone = bucket.texts == texts
            bucket.slots = None if alone else np.array([rows[id(text)] for text in bucket.texts])
        tokens, positions = (np.array(x) for x in ([text.ids[-1] for text in texts], [text.length for text in texts]))
        logits = self._token_step(tokens, positions, past)
        for text in texts:
            text.length += 1
        return logits

    def _read_together(self, texts: list[_Text]) -> Iterator[list[_Text]]:
        """Texts, longest first, in groups to be read at once."""
        while texts:
            least = len(texts[0].ids) / PADDED if self._steps else np.inf
            together = texts[:1] + [text for text in texts[1:] if len(text.ids) >= least]
            texts = texts[len(together) :]
            yield together

    def _read(self, texts: list[_Text]) -> Array:
        """The logits after each text, read by the model's forward pass: shorter ones are padded at their end."""
        if not self._steps:
            return self._read_alone(*texts)
        lengths = np.array([len(text.ids) for text in texts])
        ids = np.zeros((len(texts), lengths.max()), dtype=np.int64)
        for row, text in enumerate(texts):
            ids[row, : lengths[row]] = text.ids
        cache, body = self.model.new_cache(len(texts)), self.model.model
        merged = texts[0].choice is None
        with nullcontext() if merged else choosing(row_choice([text.choice or {} for text in texts])):
            hidden = body(like(ids, body.embed_tokens.weight.data), cache).data  # (n, T, C)
            last = hidden[like(np.arange(len(texts)), hidden), like(lengths - 1, hidden)]
            logits = self.model.lm_head(Tensor(last[:, None])).data[:, 0]
        bucket = self._bucket(int(lengths.max()) + 1)
        for text in texts:
            text.length, text.bucket = len(text.ids), bucket
        bucket.add(texts, [array for layer in cache.layers for array in (layer.keys, layer.values)])
        return logits

    def _read_alone(self, text: _Text) -> Array:
        """The same of one text, for a model that the single-token path does not know: with a cache of its own."""
        text.cache = text.cache or self.model.new_cache(1)
        ids, rows = np.array([text.ids[text.length :]]), None if text.choice is None else row_choice([text.choice])
        text.length = len(text.ids)
        return self.model(ids, text.cache, rows).data[:, -1]
