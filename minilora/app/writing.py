"""The first tab: validate a request, then generate its text with the base and with the voices, from the same seed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from minilora.data import ByteTokenizer
from minilora.generation import Sampler
from minilora.nn import Llama
from minilora.voices import ComparedText, stream

PROMPT_BYTES, MOST_TOKENS, LARGEST_SEED = 200, 400, 2**32 - 1
WEAKEST, STRONGEST, HOTTEST = -1.0, 2.0, 1.5
PAUSE = 0.1  # seconds between updates of a growing text; more frequent ones would slow down the browser


@dataclass(frozen=True)
class PageRequest:
    """A validated request; `strengths` has only the voices with a nonzero strength."""

    prompt: str
    strengths: dict[str, float]
    temperature: float
    seed: int
    tokens: int


def page_request(
    prompt: str | None, strengths: Mapping[str, float], temperature: float, seed: float | None, tokens: float
) -> PageRequest:
    """Validate the fields of the page and return the PageRequest. Raises ValueError with a message for the user."""
    length = len(ByteTokenizer().encode(prompt or ""))
    if not length:
        raise ValueError("The prompt is empty. Enter the first few words of the texts.")
    if length > PROMPT_BYTES:
        raise ValueError(f"The prompt has {length} bytes; the limit is {PROMPT_BYTES}. Shorten it.")
    if seed is None or not 0 <= seed <= LARGEST_SEED or seed != int(seed):
        raise ValueError(f"The seed must be a whole number from 0 to {LARGEST_SEED:,}.")
    for name, strength in strengths.items():
        _refuse_beyond(f"The strength of {name}", strength, WEAKEST, STRONGEST)
    _refuse_beyond("The temperature", temperature, 0, HOTTEST)
    _refuse_beyond("The length", tokens, 1, MOST_TOKENS)
    acting = {name: float(strength) for name, strength in strengths.items() if strength}
    return PageRequest(prompt or "", acting, float(temperature), int(seed), int(tokens))


def _refuse_beyond(what: str, value: float | None, least: float, most: float) -> None:
    if value is None or not math.isfinite(value) or not least <= value <= most:
        raise ValueError(f"{what} must be a number from {least:g} to {most:g}.")


def write(
    model: Llama, request: PageRequest, stopped: Callable[[], bool] = lambda: False
) -> Iterator[tuple[ComparedText, ComparedText]]:
    """Yield the texts of the base and of the voices repeatedly as they grow, until complete or `stopped`."""
    base, voices = ComparedText({}, []), ComparedText(request.strengths, [])
    shown = time.monotonic()
    choices = [None, request.strengths]
    steps = stream(
        model, request.prompt, choices, request.seed, tokens=request.tokens, sampler=Sampler(request.temperature)
    )
    for column in steps:
        base.tokens.append(column[0])
        voices.tokens.append(column[1])
        if stopped():
            break
        if time.monotonic() - shown > PAUSE:
            yield base, voices
            shown = time.monotonic()
    yield base, voices
