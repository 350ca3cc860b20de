"""Reading texts: next-token logits for several texts at once, computed from their new tokens only.

Prompts go through the model's forward pass, single tokens through `TokenStep`. A text that fills the context forgets
its older half: the other half is then read again, from position 0.
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

PADDED = 2  # prompts are read in one padded batch if the longest is at most twice as long as the shortest


class Text:
    """A text, and how far it has been read.

    Attributes
    ----------
    ids : its tokens; a writer appends to them
    choice : the strengths of its adapters; None where they are merged
    length : how many of the tokens have been read
    bucket : holds their keys and values; None until the prompt has been read
    cache : holds them instead, for models that `TokenStep` does not support
    """

    def __init__(self, ids: list[int], choice: dict[str, float] | None) -> None:
        self.ids, self.choice, self.length = ids, choice, 0
        self.bucket: Bucket | None = None
        self.cache: Cache | None = None

    def go_back(self, length: int) -> None:
        """After an error: treat only the first `length` tokens as read."""
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
    """Computes the logits of texts with one model, a snapshot that nothing else changes."""

    def __init__(self, model: Llama) -> None:
        self.model, self.context = model, model.config.max_position_embeddings
        self.step = TokenStep(model) if can_step(model) else None
        self.rows: list[Text] = []  # the texts of the last single-token step, in batch order
        self.buckets: dict[int, Bucket] = {}  # by their room
        self.past: list[Bucket] = []  # the buckets of the rows
        self.moved = False  # whether a text has joined or changed a bucket since

    @no_grad()
    def __call__(self, texts: list[Text]) -> Array:
        """Next-token logits (texts, V), on the host. Each text has at least one new token."""
        self._make_room(texts)
        # e**-gate may be infinite, and silu is then 0; other infinities are found below.
        with one_core, np.errstate(all="ignore"):
            if texts == self.rows and all(text.bucket for text in texts):
                logits = to_host(self._step(texts))
            else:
                logits = self._mixed(texts)
        if not np.isfinite(logits).all():
            raise ValueError("the model's logits are not finite; adapters should have smaller strengths")
        return logits

    def _mixed(self, texts: list[Text]) -> Array:
        """The logits where some texts take the single-token path, and others the forward pass."""
        stepping = [text for text in texts if text.bucket]
        reading = sorted((text for text in texts if not text.bucket), key=lambda text: -len(text.ids))
        read = self._read if self.step else self._read_alone
        groups: list[tuple[list[Text], Callable[[list[Text]], Array]]] = []
        if stepping:
            groups.append((self._arranged(stepping), self._step))
        groups += [(group, read) for group in self._together(reading)]
        logits = np.concatenate([to_host(way(group)) for group, way in groups])
        places = {id(text): place for place, text in enumerate(text for group, _ in groups for text in group)}
        return logits[[places[id(text)] for text in texts]]

    def _make_room(self, texts: list[Text]) -> None:
        """Find room for one more token of each text: in a larger bucket, or by forgetting where the context is full."""
        moving: dict[Bucket, list[Text]] = {}
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
        """The bucket for texts of this many tokens. Texts are about to move there, so rows have to be found anew."""
        self.moved = True
        room = SMALLEST
        while room < tokens:
            room *= 2
        if room not in self.buckets:
            self.buckets[room] = Bucket(self.model.config, room, self.model.model.embed_tokens.weight.data)
        return self.buckets[room]

    def _arranged(self, texts: list[Text]) -> list[Text]:
        """The texts in row order. Those of the last step keep their rows if possible, so few adapters are copied."""
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

    def _step(self, rows: list[Text]) -> Array:
        """The logits after the newest token of each text."""
        assert self.step is not None
        if rows != self.rows:
            self.step.choose([text.choice or {} for text in rows])
        if rows != self.rows or self.moved:
            self._find_rows(rows)
        logits = self.step([text.ids[-1] for text in rows], [text.length for text in rows], self.past)
        for text in rows:
            text.length += 1
        return logits

    def _find_rows(self, rows: list[Text]) -> None:
        """Set the batch rows of each bucket."""
        self.rows, self.moved = rows, False
        self.buckets = {room: bucket for room, bucket in self.buckets.items() if bucket.texts}
        self.past = list(self.buckets.values())
        row_of = {id(text): row for row, text in enumerate(rows)}
        for bucket in self.past:
            slots = np.array([row_of[id(text)] for text in bucket.texts])
            bucket.slots = None if bucket.texts == rows else like(slots, bucket.arrays[0])

    def _together(self, texts: list[Text]) -> Iterator[list[Text]]:
        """Texts, longest first, in groups to be read at once."""
        while texts:
            least = len(texts[0].ids) / PADDED if self.step else np.inf
            together = texts[:1] + [text for text in texts[1:] if len(text.ids) >= least]
            texts = texts[len(together) :]
            yield together

    def _read(self, texts: list[Text]) -> Array:
        """The logits after each text, read from its beginning: shorter ones are padded at their end."""
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

    def _read_alone(self, texts: list[Text]) -> Array:
        """The logits of a single text, for models that `TokenStep` does not support."""
        (text,) = texts
        text.cache = text.cache or self.model.new_cache(1)
        ids, rows = np.array([text.ids[text.length :]]), None if text.choice is None else row_choice([text.choice])
        text.length = len(text.ids)
        return self.model(ids, text.cache, rows).data[:, -1]
