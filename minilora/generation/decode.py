"""The decode loop: requests in, tokens out. All text generation goes through it.

Each request generates one text, with its own prompt, adapters, sampler, seed and stop tokens. Texts can start and end
at any step and are computed as one batch, but a text does not depend on the others, apart from rounding in matrix
products.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from minilora.adapters.attach import active
from minilora.backend import Array
from minilora.generation.reader import ActiveText, Reader
from minilora.generation.request import Chooser, Request, Token, check_request
from minilora.generation.snapshot import copy_adapters, snapshot
from minilora.messages import expect
from minilora.nn import Llama
from minilora.nn.choice import strengths
from minilora.nn.module import check_module


def decode(model: Llama, requests: Iterable[Request], rows: int | None = None) -> Iterator[list[Token]]:
    """Generate the texts of all requests; yields the new tokens of each step, in the order of the requests.

    Parameters
    ----------
    requests : a list, or an iterator from which the next request is taken when a row becomes free
    rows : the maximum number of texts to generate at a time; None for no limit

    Merging, deleting or replacing adapters later does not affect the texts (`snapshot.py`). Raises ValueError for an
    invalid request, and AdapterError if its adapters are invalid. If `requests` is a list, these errors are raised
    before the first step.
    """
    if rows is not None and rows < 1:
        raise ValueError(f"expected `rows` to be at least 1, got {rows}")
    expect(requests, Iterable, "requests")
    decoding = Decoding(model)
    if isinstance(requests, Sequence):
        for request in requests:
            decoding.check(request)
    return _steps(decoding, iter(requests), np.inf if rows is None else rows)


def _steps(decoding: Decoding, waiting: Iterator[Request], rows: float) -> Iterator[list[Token]]:
    while True:
        while len(decoding) < rows and (request := next(waiting, None)):
            decoding.add(request)
        if not len(decoding):
            return
        yield decoding.step()


class Decoding:
    """The set of requests in progress, driven by `decode`. A server can add and remove requests between steps.

    Parameters
    ----------
    model : used in its current state (`snapshot.py`); adapters attached later are not available

    Attributes
    ----------
    in_progress : the requests in progress, in the order in which they were added
    """

    def __init__(self, model: Llama) -> None:
        check_module(model)
        self.model = snapshot(model)
        self._read = Reader(self.model)
        self._known, self._copied = self.model.adapters, set[str]()
        self._active: dict[str, float] | None = {}
        if self._known:
            self._active = None if self.model.merged else active(self.model)
        self.in_progress: list[ActiveRequest] = []

    def __repr__(self) -> str:
        return f"Decoding(texts={len(self)})"

    def __len__(self) -> int:
        """The number of requests in progress."""
        return len(self.in_progress)

    def check(self, request: Request) -> dict[str, float] | None:
        """Return the strengths of the request's adapters, or None if adapters are merged.

        Raises ValueError for an invalid request.
        """
        expect(request, Request, "a Request")
        check_request(request, self.model.config.max_position_embeddings, self.model.config.vocab_size)
        if request.adapters is None:
            return self._active
        self.model.refuse_if_merged("choose adapters for a text")
        return strengths(request.adapters, self._known)

    def add(self, request: Request) -> None:
        """Add a request; its text starts at the next step."""
        choice = self.check(request)
        if new := (choice or {}).keys() - self._copied:
            copy_adapters(self.model, new)
            self._copied |= new
        stop = self.model.config.end_tokens if request.stop is None else frozenset(request.stop)
        self.in_progress.append(ActiveRequest(request, choice, stop))

    def remove(self, request: Request) -> None:
        """End a request immediately, finished or not."""
        one = next(one for one in self.in_progress if one.request is request)
        self.in_progress.remove(one)
        one.text.close()

    def step(self) -> list[Token]:
        """Return one new token per request, in the order in which they were added, and remove the requests that end.

        After an error, all texts are as they were before the step. The caller can remove the request that caused the
        error and continue.
        """
        texts = [one.text for one in self.in_progress]
        lengths = [text.length for text in texts]
        try:
            logits = self._read(texts)
            chosen = self._choose(logits).tolist()
        except BaseException:
            for text, length in zip(texts, lengths, strict=True):
                text.go_back(length)
            raise
        tokens = [one.write(token, row) for one, token, row in zip(self.in_progress, chosen, logits, strict=True)]
        for token in tokens:
            if token.finish_reason:
                self.remove(token.request)
        return tokens

    def _choose(self, logits: Array) -> Array:
        """Choose a token for each row of logits, with the sampler of its request."""
        draws = np.array([one.draw() for one in self.in_progress])
        samplers: dict[Chooser, list[int]] = {}
        for row, one in enumerate(self.in_progress):
            samplers.setdefault(one.request.sampler, []).append(row)
        if len(samplers) == 1:
            return next(iter(samplers)).choose(logits, draws)
        chosen = np.empty(len(logits), dtype=np.int64)
        for sampler, rows in samplers.items():
            chosen[rows] = sampler.choose(logits[rows], draws[rows])
        return chosen


class ActiveRequest:
    """A request in progress: its text so far, its random numbers, and the number of tokens left to generate."""

    def __init__(self, request: Request, choice: dict[str, float] | None, stop: frozenset[int]) -> None:
        self.request, self.stop, self.left = request, stop, request.tokens
        self.text = ActiveText(request.prompt.tolist(), choice)
        self.rng, self.drawn = np.random.default_rng(request.seed), list[float]()

    def draw(self) -> float:
        """Return the random number for the next token, the same one on every call until `write`."""
        if not self.drawn:
            self.drawn.append(self.rng.random())
        return self.drawn[0]

    def write(self, token: int, logits: Array) -> Token:
        """Append a token to the text."""
        self.text.ids.append(token)
        self.drawn.clear()
        self.left -= 1
        reason = "stop" if token in self.stop else None if self.left else "length"
        return Token(self.request, token, logits, reason)
