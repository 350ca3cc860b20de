"""The input of `decode`, requests, and its output, tokens."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import NamedTuple, Protocol

import numpy as np

from minilora.backend import Array
from minilora.generation.sampling import Sampler
from minilora.nn.choice import Choice


class Chooser(Protocol):
    """Chooses tokens: a `Sampler`, or any hashable object with this method."""

    def choose(self, logits: Array, draws: Array) -> Array:
        """One token for each row of logits (n, V), by uniform random numbers (n,) in [0, 1).

        The rows are those of all requests with an equal chooser, in the order of the requests.
        """


@dataclass(frozen=True, eq=False)
class Request:
    """One text to write.

    Attributes
    ----------
    prompt : token ids (n,), at least one and at most the model's context
    tokens : the most tokens to write
    sampler : how each is chosen
    seed : of the text's own random generator, which draws one number for each new token
    adapters : a name, or names with strengths; {} is the base. None: the model's active adapters
    stop : token ids that end the text. None: the model's end tokens (eos_token_id)
    """

    prompt: Array
    tokens: int
    sampler: Chooser = field(default_factory=Sampler)
    seed: int | Sequence[int] = 0
    adapters: Choice = None
    stop: Collection[int] | None = None


class Token(NamedTuple):
    """One new token of a text.

    Attributes
    ----------
    request : the request that the token belongs to
    id : the token
    logits : (V,) the logits that the token was chosen from, on the host
    finish_reason : "stop" if this is an end token, "length" if it is the last one allowed, None if the text goes on
    """

    request: Request
    id: int
    logits: Array
    finish_reason: str | None


def check_request(request: Request, context: int, vocabulary: int) -> None:
    """Raise ValueError for a request that a model of this context and vocabulary cannot meet."""
    check_prompt(request.prompt, context, vocabulary)
    if not isinstance(request.tokens, Integral):
        raise ValueError(f"expected a whole number of tokens to write, got {request.tokens!r}")
    if request.tokens < 1:
        raise ValueError(f"expected at least one token to write, got {request.tokens}")
    try:
        np.random.default_rng(request.seed)
    except (TypeError, ValueError):
        raise ValueError(f"a seed should be a whole number of 0 or more, or several, got {request.seed!r}") from None


def check_prompt(prompt: Array, context: int, vocabulary: int) -> None:
    """Raise ValueError unless it is an array of token ids that fits into the context."""
    if getattr(prompt, "ndim", None) != 1 or prompt.dtype.kind not in "iu":
        raise ValueError("expected prompts that are arrays of ids (n,), of an integer type; for text there is `write`")
    if not 1 <= len(prompt) <= context:
        raise ValueError(
            f"a prompt should have 1 to {context} tokens, the model's context; this one has {len(prompt)}. "
            "In a byte-level model a token is a byte"
        )
    least, most = int(prompt.min()), int(prompt.max())
    if least < 0 or most >= vocabulary:
        raise ValueError(f"a prompt's ids should be from 0 to {vocabulary - 1}, got {least if least < 0 else most}")
