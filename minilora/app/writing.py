"""The first tab: a wish is checked, and then written, by the base and by the voices, with the same dice."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from minilora.data import ByteTokenizer
from minilora.generation import Sampler
from minilora.nn import Llama
from minilora.voices import Text, stream

PROMPT_BYTES, MOST_TOKENS, LARGEST_SEED = 200, 400, 2**32 - 1
WEAKEST, STRONGEST, HOTTEST = -1.0, 2.0, 1.5
PAUSE = 0.1  # seconds between two pictures of a growing text: more would only keep the browser busy


@dataclass(frozen=True)
class Wish:
    """What to write: the voices that play a part have a strength other than 0."""

    prompt: str
    strengths: dict[str, float]
    temperature: float
    seed: int
    tokens: int


def wish(
    prompt: str | None, strengths: Mapping[str, float], temperature: float, seed: float | None, tokens: float
) -> Wish:
    """What the page's fields ask for. Raises ValueError, in a sentence for the page, for what cannot be written."""
    length = len(ByteTokenizer().encode(prompt or ""))
    if not length:
        raise ValueError("The prompt is empty. Type a few words for the texts to begin with.")
    if length > PROMPT_BYTES:
        raise ValueError(f"The prompt may have at most {PROMPT_BYTES} bytes, and this one has {length}. Shorten it.")
    if seed is None or not 0 <= seed <= LARGEST_SEED or seed != int(seed):
        raise ValueError(f"The seed should be a whole number from 0 to {LARGEST_SEED:,}.")
    for name, strength in strengths.items():
        _refuse_beyond(f"The strength of {name}", strength, WEAKEST, STRONGEST)
    _refuse_beyond("The temperature", temperature, 0, HOTTEST)
    _refuse_beyond("The length", tokens, 1, MOST_TOKENS)
    acting = {name: float(strength) for name, strength in strengths.items() if strength}
    return Wish(prompt or "", acting, float(temperature), int(seed), int(tokens))


def _refuse_beyond(what: str, value: float | None, least: float, most: float) -> None:
    if value is None or not math.isfinite(value) or not least <= value <= most:
        raise ValueError(f"{what} should be a number from {least:g} to {most:g}.")


def write(model: Llama, wish: Wish, stopped: Callable[[], bool] = lambda: False) -> Iterator[tuple[Text, Text]]:
    """The base's text and the voices', again and again as they grow, and whole or `stopped` at the end."""
    base, voices = Text({}, []), Text(wish.strengths, [])
    shown = time.monotonic()
    choices = [None, wish.strengths]
    steps = stream(model, wish.prompt, choices, wish.seed, tokens=wish.tokens, sampler=Sampler(wish.temperature))
    for letters in steps:
        base.letters.append(letters[0])
        voices.letters.append(letters[1])
        if stopped():
            break
        if time.monotonic() - shown > PAUSE:
            yield base, voices
            shown = time.monotonic()
    yield base, voices
