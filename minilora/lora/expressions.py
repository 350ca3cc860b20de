"""How long a regular expression from a file could take, before it is used.

Python's matcher goes through all the ways of laying an expression along a text before it says no, and nothing can stop
it: `([a-z]+)*!` on one path of a model takes years. So the ways are counted first, from above.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

LONGEST_EXPRESSION = 1_000  # letters
LONGEST_PATH = 48  # letters that a module's path is taken to have
MOST_TRIES = 10_000_000  # on one path, by the targets and exclusions of a config: a tenth of a second
MOST_TRIES_OF_KEYS = 200_000  # by the keys of its patterns, which meet the names in files as well
DEEPEST_GROUP = 30  # parentheses within one another

TOKEN = re.compile(
    r"""\\. | \[\^?\]?(?:\\.|[^\]\\])*\]                    # an escaped letter, a class of letters
      | \(\?\#[^)]*\)                                         # a comment
      | \((?:\?(?:P?<[=!]?(?:\w+>)?|[a-zA-Z-]+:?|[:=!>]))?    # the beginning of a group
      | (?:[*+]|\{\d*,?\d*\})[?+]? | \?[?+]? | .              # a repetition, an option, any letter""",
    re.VERBOSE | re.DOTALL,
)
ONE_WAY = (0, 1.0)


def most_tries(expression: str) -> float:
    """An upper bound for the ways of laying a regular expression along a path of 48 letters.

    With k repetitions there are (48 + k over k) places where they can end. An option doubles the ways, and alternatives
    that begin alike add up. To repeat what can be laid in several ways counts as infinite: that is exponential in the
    path (Davis et al. 2018, "The impact of regular expression denial of service in practice").
    """
    if len(expression) > LONGEST_EXPRESSION:
        return math.inf
    repetitions, choices = _ways(iter(TOKEN.findall(expression)))
    return math.comb(LONGEST_PATH + repetitions, repetitions) * choices


@dataclass
class _Side:
    """One alternative of a group."""

    tokens: list[str] = field(default_factory=list)
    repetitions: int = 0
    choices: float = 1.0

    @property
    def letter(self) -> str:
        """What it begins with; nothing when that is open."""
        first, second = [*self.tokens, "", ""][:2]
        known = re.fullmatch(r"\w|\\\W", first, re.ASCII) and second[:1] not in ("?", "*", "{")
        return first.lower() if known else ""


def _ways(tokens: Iterator[str], depth: int = 0) -> tuple[int, float]:
    """How many repetitions follow one another in the group that begins here, and how many choices it has besides."""
    sides, inner = [_Side()], ONE_WAY
    for token in tokens:
        side = sides[-1]
        if token == ")":
            break
        if token == "|":
            sides.append(_Side())
            continue
        side.tokens.append(token)
        if token.startswith("(") and not token.startswith("(?#"):
            inner = (0, math.inf) if depth == DEEPEST_GROUP or _is_verbose(token) else _ways(tokens, depth + 1)
            side.repetitions += inner[0]
            side.choices *= inner[1]
        elif token[0] in "*+{":
            side.repetitions += 1
            side.choices *= 1 if inner == ONE_WAY else math.inf
        elif token[0] == "?":
            side.choices *= 2
        else:
            inner = ONE_WAY
    return max(side.repetitions for side in sides), _choices(sides)


def _choices(sides: list[_Side]) -> float:
    """Alternatives that begin with different letters exclude one another; those that begin alike do not."""
    alike: dict[str, float] = defaultdict(float)
    for side in sides:
        alike[side.letter] += side.choices
    return alike.pop("", 0.0) + max(alike.values(), default=0.0)


def _is_verbose(token: str) -> bool:
    """Whether a group sets the flag x, after which an expression is written by other rules."""
    return token.startswith("(?") and "x" in token and "<" not in token
