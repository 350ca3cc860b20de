"""The input and output types of `decode`: requests and tokens."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import NamedTuple, Protocol

import numpy as np

from minilora.backend import Array
from minilora.generation.sampling import Sampler
from minilora.messages import shown
from minilora.nn.choice import Choice


class Chooser(Protocol):
    """Protocol for choosing tokens: a `Sampler`, or any other hashable object with this method."""

    def choose(self, logits: Array, draws: Array) -> Array:
        """Return one token for each row of logits (n, V), given uniform random numbers (n,) in [0, 1).

        The rows are those of all requests whose choosers are equal, in the order of the requests.
        """


@dataclass(frozen=True, eq=False)
class Request:
    """A request to generate one text.

    Attributes
    ----------
    prompt : token ids (n,), at least one and at most the model's context
    tokens : maximum number of new tokens
    sampler : chooses each token
    seed : seed of the text's own random generator, which draws one number for each new token
    adapters : a name, or a dict of strengths by name; {} for the base, None for the model's active adapters
    stop : token ids that end the text; None for the model's end tokens (eos_token_id)
    """

    prompt: Array
    tokens: int
    sampler: Chooser = field(default_factory=Sampler)
    seed: int | Sequence[int] = 0
    adapters: Choice = None
    stop: Collection[int] | None = None

    def __repr__(self) -> str:
        options = {"sampler": self.sampler, "seed": self.seed, "adapters": self.adapters, "stop": self.stop}
        given = "".join(f", {name}={value!r}" for name, value in options.items() if value is not None)
        return f"Request({np.size(self.prompt)} prompt tokens, {self.tokens} new tokens{given})"


class Token(NamedTuple):
    """One new token of a text.

    Attributes
    ----------
    request : the request that the token belongs to
    id : the token id
    logits : the logits (V,) from which the token was chosen, on the host
    finish_reason : "stop" for a stop token, "length" at the maximum number of tokens, None if the text continues
    """

    request: Request
    id: int
    logits: Array
    finish_reason: str | None

    def __repr__(self) -> str:
        return f"Token(id={self.id}, finish_reason={self.finish_reason!r})"


def check_request(request: Request, context: int, vocabulary: int) -> None:
    """Raise ValueError if the request is invalid for a model with this context and vocabulary size."""
    check_prompt(request.prompt, context, vocabulary)
    if not isinstance(request.tokens, Integral):
        raise ValueError(f"expected `tokens` to be an integer, got {shown(request.tokens)}")
    if request.tokens < 1:
        raise ValueError(f"expected `tokens` to be at least 1, got {request.tokens}")
    parts = request.seed if isinstance(request.seed, Sequence) else [request.seed]
    if not all(isinstance(part, Integral) and part >= 0 for part in parts):
        raise ValueError(
            f"expected `seed` to be a non-negative integer, or a sequence of them, got {shown(request.seed)}"
        )


def check_prompt(prompt: Array, context: int, vocabulary: int) -> None:
    """Raise ValueError unless `prompt` is an array of valid token ids that fits in the context."""
    if getattr(prompt, "ndim", None) != 1 or prompt.dtype.kind not in "iu":
        raise ValueError("expected each prompt to be a one-dimensional integer array of ids; for a string, use `write`")
    if not 1 <= len(prompt) <= context:
        raise ValueError(
            f"expected a prompt of 1 to {context} tokens (the model's context), got {len(prompt)}; "
            "in a byte-level model, each byte is a token"
        )
    least, most = int(prompt.min()), int(prompt.max())
    if least < 0 or most >= vocabulary:
        raise ValueError(f"expected prompt ids from 0 to {vocabulary - 1}, got {least if least < 0 else most}")
