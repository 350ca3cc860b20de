"""The cached keys and values of texts of different lengths, in arrays that a decoding step processes at once.

Texts of similar length share a bucket. A text that outgrows its bucket moves to the bucket with twice the room per
text, so that little space is unused. Removing a text moves at most one other text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from minilora.backend import Array, array_module, like
from minilora.nn import LlamaConfig

SMALLEST = 64  # tokens per text in the smallest bucket


class CachedText(Protocol):
    """A text in a bucket; `length` is the number of its tokens processed so far."""

    length: int


class Bucket:
    """The keys and values of some texts, with a capacity of `room` tokens each.

    Attributes
    ----------
    texts : the texts, in the order of their rows in the arrays
    slots : the batch row of each text; None if the texts are exactly the rows of the batch, in order
    arrays : the keys and values of each layer in turn, each (n, G, room, D) with n at least the number of texts
    """

    def __init__(self, config: LlamaConfig, room: int, like: Array) -> None:
        self.room, self.texts = room, list[CachedText]()
        self.slots: Array | None = None
        shape = (0, config.kv_heads, room, config.head_size)
        self.arrays = [np.empty_like(like, shape=shape) for _ in range(2 * config.num_hidden_layers)]

    def add(self, texts: Sequence[CachedText], arrays: Sequence[Array]) -> None:
        """Add texts and copy their keys and values, each array (texts, G, at least the longest length, D)."""
        start, longest = len(self.texts), max(text.length for text in texts)
        stop, had = start + len(texts), len(self.arrays[0])
        for i, given in enumerate(arrays):
            if stop > had:  # zeros, because masked entries must be finite
                shape = max(stop - had, had // 2), *self.arrays[i].shape[1:]
                more = array_module(given).zeros(shape, given.dtype)  # memory is allocated on first write
                self.arrays[i] = np.concatenate([self.arrays[i], more]) if had else more
            self.arrays[i][start:stop, :, :longest] = given[:, :, :longest]
        for place, text in enumerate(texts, start):
            if text.length < longest:  # clear the keys and values of padding tokens
                self._clear(place, text.length, longest)
        self.texts += texts

    def remove(self, text: CachedText) -> None:
        """Remove a text; the last text moves to its row."""
        place, last = self.texts.index(text), self.texts.pop()
        end = len(self.texts)
        if last is not text:
            for array in self.arrays:
                array[place, :, : last.length] = array[end, :, : last.length]
            self._clear(place, last.length, text.length + 1)
            self.texts[place] = last
        self._clear(end, 0, last.length + 1)

    def move(self, texts: Sequence[CachedText], other: Bucket) -> None:
        """Move some texts to another bucket."""
        if texts == self.texts:
            other.add(texts, [array[: len(texts)] for array in self.arrays])
            self.texts = []
            return
        places = like(np.array([self.texts.index(text) for text in texts]), self.arrays[0])
        other.add(texts, [array[places] for array in self.arrays])
        for text in texts:
            self.remove(text)

    def _clear(self, place: int, start: int, stop: int) -> None:
        """Zero unused entries: the mask cannot suppress values that are not finite, because 0 · NaN is NaN."""
        for array in self.arrays:
            array[place, :, start:stop] = 0

    def begin(self) -> None:
        """Prepare a step, which appends one token to each text."""
        lengths = [text.length for text in self.texts]
        self.stop = max(lengths) + 1
        self.same_length = min(lengths) == max(lengths)
        if not self.same_length:
            places, self.ends = (like(np.array(x), self.arrays[0]) for x in (range(len(lengths)), lengths))
            self.places, unused = places, np.arange(self.stop) > np.array(lengths)[:, None]  # (texts, S)
            mask = np.where(unused, -np.inf, 0.0)[:, None, None]
            self.mask = like(mask.astype(self.arrays[0].dtype), self.arrays[0])  # (texts, 1, 1, S)

    def extend(self, layer: int, k: Array, v: Array) -> tuple[Array, Array]:
        """Append the keys and values (texts, G, D) of the new tokens; return those of all tokens, (texts, G, S, D)."""
        n, stop = len(self.texts), self.stop
        keys, values = self.arrays[2 * layer], self.arrays[2 * layer + 1]
        if self.same_length:
            keys[:n, :, stop - 1] = k
            values[:n, :, stop - 1] = v
        else:
            keys[self.places, :, self.ends] = k
            values[self.places, :, self.ends] = v
        return keys[:n, :, :stop], values[:n, :, :stop]
