"""Next-token logits for a batch of texts, computed from their new tokens only.

Prompts go through the model's forward pass, single tokens through `TokenStep`. When a text fills the context, its older
half is dropped, and the newer half is processed again from position 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext

import numpy as np

from minilora.autograd.tensor import Tensor, no_grad
from minilora.backend import Array, like, to_host
from minilora.generation.bucket import SMALLEST, Bucket
from minilora.generation.token_step import TokenStep, can_step
from minilora.nn import Cache, Llama
from minilora.nn.choice import choosing, row_choice
from minilora.threads import one_core

PADDED = 2  # prompts share a padded batch if the longest is at most twice as long as the shortest


class ActiveText:
    """A text, and how much of it has been processed.

    Attributes
    ----------
    ids : its token ids; the caller appends to them
    choice : the strengths of its adapters; None if they are merged
    length : the number of tokens processed so far
    bucket : holds the keys and values of these tokens; None until the prompt has been processed
    cache : used in place of `bucket` for models that `TokenStep` does not support
    """

    def __init__(self, ids: list[int], choice: dict[str, float] | None) -> None:
        self.ids, self.choice, self.length = ids, choice, 0
        self.bucket: Bucket | None = None
        self.cache: Cache | None = None

    def go_back(self, length: int) -> None:
        """Roll back after an error, so that only the first `length` tokens count as processed."""
        if length == 0:
            self.close()
        self.length = length
        for layer in self.cache.layers if self.cache else ():
            layer.length = length

    def close(self) -> None:
        """Release the keys and values."""
        if self.bucket:
            self.bucket.remove(self)
        self.length, self.bucket, self.cache = 0, None, None


class Reader:
    """Computes the logits of texts. The model must be a snapshot that nothing else changes."""

    def __init__(self, model: Llama) -> None:
        self.model, self.context = model, model.config.max_position_embeddings
        self.step = TokenStep(model) if can_step(model) else None
        self.rows: list[ActiveText] = []  # the texts of the last single-token step, in batch order
        self.buckets: dict[int, Bucket] = {}  # keyed by capacity, in tokens per text
        self.past: list[Bucket] = []  # the buckets that hold the rows
        self.moved = False  # whether a text has entered a bucket since the last single-token step

    @no_grad()
    def __call__(self, texts: list[ActiveText]) -> Array:
        """Return the next-token logits (texts, V), on the host. Each text must have at least one new token."""
        self._make_room(texts)
        # e**-gate may overflow to infinity, where silu is 0; any other infinity is detected below.
        with one_core, np.errstate(all="ignore"):
            if texts == self.rows and all(text.bucket for text in texts):
                logits = to_host(self._step(texts))
            else:
                logits = self._mixed(texts)
        if not np.isfinite(logits).all():
            raise ValueError("the model's logits are not finite; reduce the strengths of the adapters")
        return logits

    def _mixed(self, texts: list[ActiveText]) -> Array:
        """Return the logits when some texts take the single-token path and others the forward pass."""
        stepping = [text for text in texts if text.bucket]
        reading = sorted((text for text in texts if not text.bucket), key=lambda text: -len(text.ids))
        read = self._read if self.step else self._read_alone
        groups: list[tuple[list[ActiveText], Callable[[list[ActiveText]], Array]]] = []
        if stepping:
            groups.append((self._arranged(stepping), self._step))
        groups += [(group, read) for group in self._together(reading)]
        logits = np.concatenate([to_host(way(group)) for group, way in groups])
        places = {id(text): place for place, text in enumerate(text for group, _ in groups for text in group)}
        return logits[[places[id(text)] for text in texts]]

    def _make_room(self, texts: list[ActiveText]) -> None:
        """Make room for a token in each text: move a text to a larger bucket, or shorten it if the context is full."""
        moving: dict[Bucket, list[ActiveText]] = {}
        for text in texts:
            if text.length + 1 > self.context:
                text.close()
                text.ids = text.ids[-(self.context // 2 or 1) :]
            elif text.bucket and text.length == text.bucket.room:
                moving.setdefault(text.bucket, []).append(text)
        for bucket, full in moving.items():
            larger = self._bucket(bucket.room + 1)
            bucket.move(full, larger)
            for text in full:
                text.bucket = larger

    def _bucket(self, tokens: int) -> Bucket:
        """Return the bucket for texts of this many tokens. The caller adds texts, which changes the bucket's rows."""
        self.moved = True
        room = SMALLEST
        while room < tokens:
            room *= 2
        if room not in self.buckets:
            self.buckets[room] = Bucket(self.model.config, room, self.model.model.embed_tokens.weight.data)
        return self.buckets[room]

    def _arranged(self, texts: list[ActiveText]) -> list[ActiveText]:
        """Return the texts in row order. To copy few adapters, those of the last step keep their rows if possible."""
        if texts == self.rows:
            return texts
        now, before = set(map(id, texts)), set(map(id, self.rows))
        fresh = [text for text in texts if id(text) not in before]
        rows = self.rows[: len(texts)]
        late = fresh + [text for text in self.rows[len(texts) :] if id(text) in now]
        for row, text in enumerate(rows):
            if id(text) not in now:
                rows[row] = late.pop()
        return rows + late

    def _step(self, rows: list[ActiveText]) -> Array:
        """Return the logits after the newest token of each text."""
        assert self.step is not None
        if rows != self.rows:
            self.step.choose([text.choice or {} for text in rows])
        if rows != self.rows or self.moved:
            self._find_rows(rows)
        logits = self.step([text.ids[-1] for text in rows], [text.length for text in rows], self.past)
        for text in rows:
            text.length += 1
        return logits

    def _find_rows(self, rows: list[ActiveText]) -> None:
        """Set the batch rows of the texts in each bucket."""
        self.rows, self.moved = rows, False
        self.buckets = {room: bucket for room, bucket in self.buckets.items() if bucket.texts}
        self.past = list(self.buckets.values())
        row_of = {id(text): row for row, text in enumerate(rows)}
        for bucket in self.past:
            slots = np.array([row_of[id(text)] for text in bucket.texts])
            bucket.slots = None if bucket.texts == rows else like(slots, bucket.arrays[0])

    def _together(self, texts: list[ActiveText]) -> Iterator[list[ActiveText]]:
        """Yield groups of texts to process in one batch; `texts` is sorted, longest first."""
        while texts:
            least = len(texts[0].ids) / PADDED if self.step else np.inf
            together = texts[:1] + [text for text in texts[1:] if len(text.ids) >= least]
            texts = texts[len(together) :]
            yield together

    def _read(self, texts: list[ActiveText]) -> Array:
        """Process texts from the start, padded at the end to a common length; return the logits after each text."""
        lengths = np.array([len(text.ids) for text in texts])
        ids = np.zeros((len(texts), lengths.max()), dtype=np.int64)
        for row, text in enumerate(texts):
            ids[row, : lengths[row]] = text.ids
        cache, body = self.model.new_cache(len(texts)), self.model.model
        with nullcontext() if texts[0].choice is None else choosing(row_choice([text.choice or {} for text in texts])):
            hidden = body(like(ids, body.embed_tokens.weight.data), cache).data  # (n, T, C)
            last = hidden[like(np.arange(len(texts)), hidden), like(lengths - 1, hidden)]  # (n, C)
            logits = self.model.lm_head(Tensor(last[:, None])).data[:, 0]
        bucket = self._bucket(int(lengths.max()) + 1)
        for text in texts:
            text.length, text.bucket = len(text.ids), bucket
        bucket.add(texts, [array for layer in cache.layers for array in (layer.keys, layer.values)])
        return logits

    def _read_alone(self, texts: list[ActiveText]) -> Array:
        """Return the logits of a single text, for models that `TokenStep` does not support."""
        (text,) = texts
        text.cache = text.cache or self.model.new_cache(1)
        ids, rows = np.array([text.ids[text.length :]]), None if text.choice is None else row_choice([text.choice])
        text.length = len(text.ids)
        return self.model(ids, text.cache, rows).data[:, -1]
