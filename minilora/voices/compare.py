"""The same prompt and the same seed in several voices; and how much each character tells a voice from the base.

        ratio(c)  =  log p_voice(c | what stands before)  -  log p_base(c | what stands before)        in nats

It is positive where the voice expected a character more than the base did: there the adapter took over. Both are
probabilities at temperature 1, whatever the text is written at. The ratio's mean over a text is the *style meter*: 0
for the base, and the larger, the further from it; it says nothing of quality. On a text that the voice itself wrote at
temperature 1 the mean estimates the Kullback-Leibler divergence D(voice ‖ base) per character.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from minilora.backend import Array
from minilora.data.tokenizer import ByteTokenizer
from minilora.generation import Request, Sampler, Token, decode
from minilora.nn import Llama
from minilora.nn.choice import Choice, strengths
from minilora.voices.packs import attach

BASE = "base"  # in a list of voices: no adapter at all
LEVELS = 0.5, 1.5, 3.0  # nats from which a letter is marked, and marked more


@dataclass(frozen=True)
class Letter:
    """One more character of a text, and what was thought of it.

    Attributes
    ----------
    token : the byte
    text : the character; of one that takes several bytes, each of which is a letter, all but the last have ""
    ratio : how much more the voices that wrote it expected it than the base, in nats
    by_voice : the same for each of these voices alone, at the strength that it has
    log_p, base_log_p : (V,) what the voices and the base expected here, as log-probabilities at temperature 1
    """

    token: int
    text: str
    ratio: float
    by_voice: dict[str, float]
    log_p: Array
    base_log_p: Array


def level(ratio: float) -> int:
    """How much to mark a letter of this ratio: 0 for about the same, up to 3 for more than the base, -3 for less."""
    size = sum(abs(ratio) >= least for least in LEVELS)
    return size if ratio > 0 else -size


@dataclass(frozen=True)
class Text:
    """What some voices wrote together: their strengths, and letter by letter the text, without the prompt."""

    strengths: dict[str, float]
    letters: list[Letter]

    @property
    def text(self) -> str:
        return "".join(letter.text for letter in self.letters)

    @property
    def characters(self) -> list[tuple[str, float]]:
        """Each character with its ratio in nats: where it takes several bytes, the sum of theirs."""
        found, ratio = [], 0.0
        for letter in self.letters:
            ratio += letter.ratio
            if letter.text:
                found.append((letter.text, ratio))
                ratio = 0.0
        return found

    @property
    def meter(self) -> float:
        """The style meter: the mean ratio of the voices as they wrote it, in nats per character."""
        return float(np.mean([letter.ratio for letter in self.letters]))

    @property
    def meters(self) -> dict[str, float]:
        """For each of its voices, alone and at its strength: the mean ratio on this same text. They need not add up."""
        return {name: float(np.mean([letter.by_voice[name] for letter in self.letters])) for name in self.strengths}


def compare(
    prompt: str,
    voices: Sequence[Choice],
    seed: int = 0,
    *,
    tokens: int = 200,
    sampler: Sampler | None = None,
    model: Llama | None = None,
) -> list[Text]:
    """`prompt` continued in each of `voices`, every text with the same random draws; one Text for each, in their order.

    Parameters
    ----------
    prompt : what all texts begin with, at most as long as the model's context
    voices : for each text a voice's name, names with strengths, or "base" (or None) for the base alone
    seed, tokens, sampler : the seed of the random draws; bytes to write; temperature, top-k and top-p
    model : with adapters to choose from; by default the packaged base with the packaged voices

    Raises AdapterError for an unknown voice, and ValueError for a prompt that is empty or longer than the context.
    """
    model = model or attach()
    texts = [Text(mix, []) for mix in _mixes(model, voices)]
    for letters in stream(model, prompt, voices, seed, tokens=tokens, sampler=sampler):
        for text, letter in zip(texts, letters, strict=True):
            text.letters.append(letter)
    return texts


def stream(
    model: Llama, prompt: str, voices: Sequence[Choice], seed: int = 0, *, tokens: int, sampler: Sampler | None = None
) -> Iterator[list[Letter]]:
    """As `compare`, but yields each step's letters as they come, one for each of `voices`."""
    mixes = _mixes(model, voices)
    distinct = [mix for i, mix in enumerate(mixes) if mix not in mixes[:i]]
    places = [distinct.index(mix) for mix in mixes]
    texts = [_Writing(mix, ByteTokenizer().encode(prompt), tokens, sampler or Sampler(), seed) for mix in distinct]
    steps = decode(model, [request for text in texts for request in text.requests])
    return ([letters[place] for place in places] for letters in _letters(texts, steps))


def _mixes(model: Llama, voices: Sequence[Choice]) -> list[dict[str, float]]:
    """The strengths for each text. A voice of strength 0 plays no part."""
    choices = (None if voice == BASE else voice for voice in voices)
    return [{name: s for name, s in strengths(choice, model.adapters).items() if s} for choice in choices]


def _letters(texts: list[_Writing], steps: Iterator[list[Token]]) -> Iterator[list[Letter]]:
    """Each step's tokens, of all rows of all texts, as one letter for each text."""
    ends = np.cumsum([len(text.rows) for text in texts])
    for step in steps:
        seen = np.split(_log_softmax(np.stack([token.logits for token in step])), ends[:-1])
        first = [step[end - len(text.rows)] for text, end in zip(texts, ends, strict=True)]
        yield [
            text.letter(token.id, log_p, bool(token.finish_reason))
            for text, token, log_p in zip(texts, first, seen, strict=True)
        ]


@dataclass(frozen=True, eq=False)
class _FirstWrites:
    """Chooses tokens for the rows of one text: samples from the first row and gives that token to all."""

    sampler: Sampler

    def choose(self, logits: Array, draws: Array) -> Array:
        return np.repeat(self.sampler.choose(logits[:1], draws[:1]), len(logits))


class _Writing:
    """A text being written, as several rows of the batch: the mix, and for comparison the base and each voice alone."""

    def __init__(self, mix: dict[str, float], prompt: Array, tokens: int, sampler: Sampler, seed: int) -> None:
        alone = [{name: strength} for name, strength in mix.items()]
        self.mix, self.rows = mix, [mix, *(choice for choice in ({}, *alone) if choice != mix)]
        first = _FirstWrites(sampler)
        self.requests = [Request(prompt, tokens, first, (seed, 0), row, stop=()) for row in self.rows]
        self.decoder = ByteTokenizer().stream()

    def letter(self, token: int, log_p: Array, final: bool) -> Letter:
        """What `token` adds, where the rows expected log_p (rows, V)."""
        base = log_p[self.rows.index({})]
        ratios = log_p[:, token] - base[token]  # (rows,)
        by_voice = {name: float(ratios[self.rows.index({name: s})]) for name, s in self.mix.items()}
        text = self.decoder.decode(bytes([token]), final)
        return Letter(token, text, float(ratios[0]), by_voice, log_p[0], base)


def _log_softmax(logits: Array) -> Array:
    """log p (rows, V), in float64."""
    z = logits.astype(np.float64)
    z -= z.max(axis=-1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))
