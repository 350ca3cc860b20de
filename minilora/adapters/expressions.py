"""Regular expressions from configs, matched within a time limit because config files are untrusted input.

A match with Python's `re` cannot be interrupted, and some expressions take exponential time on a single path
(`(.|\\w)*!`). The package `regex` supports the same syntax and has a timeout.
"""

from __future__ import annotations

import re
import time
import warnings

from minilora.messages import one_line, shown
from minilora.nn.module import AdapterError

MOST_SECONDS = 2.0  # CPU time for all matches of one config; real configs take milliseconds
LONGEST_EXPRESSION = 1_000  # characters
ENDING = r"(.*\.)?({})$"
"""PEFT's rule for pattern keys: a key must match the entire path, or a suffix of it that follows a dot."""


def refuse_invalid(expression: str, shown_as: str | None = None) -> None:
    """Raise AdapterError if `expression` is too long or invalid; the message shows it, or `shown_as` if given."""
    name = shown(expression if shown_as is None else shown_as)
    if len(expression if shown_as is None else shown_as) > LONGEST_EXPRESSION:
        raise AdapterError(f"expected a regular expression of at most {LONGEST_EXPRESSION:,} characters, got {name}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # such as FutureWarning for [[a]
            re.compile(expression)
    except (re.error, OverflowError, RecursionError, Warning) as error:  # OverflowError: a{99999999999}
        raise AdapterError(f"{name} is not a valid regular expression ({one_line(str(error))})") from None


class Matcher:
    """Matches the regular expressions of one config and caches the results. All its matches share one time limit."""

    def __init__(self) -> None:
        self.left = MOST_SECONDS
        self._found: dict[tuple[str, str], bool] = {}

    def matches(self, expression: str, path: str) -> bool:
        """Return whether a regular expression matches the entire `path`.

        Raises AdapterError if the time limit is exceeded.
        """
        if (expression, path) not in self._found:
            self._found[expression, path] = self._match(expression, path)
        return self._found[expression, path]

    def _match(self, expression: str, path: str) -> bool:
        import regex

        began = time.process_time()
        try:
            return regex.fullmatch(expression, path, timeout=max(self.left, 1e-3)) is not None
        except (TimeoutError, MemoryError):
            raise AdapterError(
                f"the regular expression {shown(expression)} takes too long to match; use fewer repetitions such as "
                ".*, and do not nest them"
            ) from None
        except regex.error as error:
            raise AdapterError(f"{shown(expression)} is not a valid regular expression ({error})") from None
        finally:
            self.left -= time.process_time() - began
