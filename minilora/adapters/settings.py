"""Declaration and validation of the settings of a method.

        r: int = setting(8, check_rank)

The checks run whenever a config is created, because configs can come from untrusted files. They raise AdapterError with
the expected and the actual value.
"""

from __future__ import annotations

import copy
import dataclasses
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypeVar

import numpy as np

from minilora.adapters.expressions import ENDING, refuse_invalid
from minilora.messages import shown
from minilora.nn.module import AdapterError

T = TypeVar("T")
Check: TypeAlias = Callable[[str, Any], None]
"""Called with the name and the value of a setting; raises AdapterError if the value is invalid."""

MOST_ENTRIES = 2_000  # in a list or pattern; the largest Llama (405 billion parameters) has 883 linear modules
LARGEST_RANK = 65_536  # larger than the hidden and MLP sizes of Llama models


def setting(default: Any, check: Check) -> Any:
    """Declare a config field with its default and its check."""
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=lambda: copy.copy(default), metadata={"check": check})
    return dataclasses.field(default=default, metadata={"check": check})


def replace_settings(config: T, settings: Mapping[str, Any]) -> T:
    """Return a copy of a config with some settings replaced. Raises TypeError for an unknown name."""
    valid = [field.name for field in dataclasses.fields(config)]  # type: ignore[arg-type]
    if unknown := ", ".join(name for name in settings if name not in valid):
        raise TypeError(f"{type(config).__name__} has no setting {unknown}; valid settings: {', '.join(valid)}")
    return dataclasses.replace(config, **settings)  # type: ignore[type-var]


def check_settings(config: Any) -> None:
    """Convert all settings to plain Python values, then run their checks."""
    for field in dataclasses.fields(config):
        value = _own(getattr(config, field.name))
        object.__setattr__(config, field.name, value)
        if "check" in field.metadata:
            field.metadata["check"](field.name, value)


def check_rank(name: str, value: Any) -> None:
    """Require an integer from 1 to 65,536; reject bool."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise AdapterError(f"expected the rank r to be a positive integer, got {shown(value)}")
    if value > LARGEST_RANK:
        raise AdapterError(f"expected the rank r to be at most {LARGEST_RANK:,}, got {shown(value)}")


def check_finite(name: str, value: Any) -> None:
    """Require a finite int or float, within the range of a float."""
    if not _is_finite(value):
        raise AdapterError(f"expected {name} to be a finite number, got {shown(value)}")


def check_probability(name: str, value: Any) -> None:
    """Require a number of at least 0 and below 1."""
    if not _is_finite(value) or not 0 <= value < 1:
        raise AdapterError(f"expected {name} to be at least 0 and below 1, got {shown(value)}")


def one_of(*values: Any) -> Check:
    """Return a check that requires one of these values, of the same type."""

    def check(name: str, value: Any) -> None:
        if not any(type(value) is type(v) and value == v for v in values):
            *others, last = map(repr, values)
            raise AdapterError(f"expected {name} to be {', '.join(others)} or {last}, got {shown(value)}")

    return check


check_flag = one_of(True, False)


def not_implemented(default: Any, hint: str) -> Check:
    """Return a check for a PEFT setting that minilora does not implement: only the default or a falsy value passes."""

    def check(name: str, value: Any) -> None:
        if value and value != default:
            raise AdapterError(f"{name} = {shown(value)} is not implemented{hint}; use {default!r}")

    return check


def check_names(name: str, value: Any) -> None:
    """Require a list of module names or a regular expression."""
    if not isinstance(value, list | str):
        raise AdapterError(f"expected {name} to be a list of names or a string, got {shown(value)}")
    if isinstance(value, str):
        refuse_invalid(value)
    else:
        _check_entries(name, value, str, "module names")


def check_targets(name: str, value: Any) -> None:
    """Like `check_names`, but also reject an empty value."""
    check_names(name, value)
    if not value:
        raise AdapterError(f"{name} is empty; use a list of names, or 'all-linear'")


def check_names_or_none(name: str, value: Any) -> None:
    """Like `check_names`, but also accept None."""
    if value is not None:
        check_names(name, value)


def check_expressions(name: str, value: Any) -> None:
    """Require a regular expression, a list of them, or None."""
    check_names_or_none(name, value)
    for expression in value if isinstance(value, list) else []:
        refuse_invalid(expression)


def check_layers(name: str, value: Any) -> None:
    """Require a list of layer indices, a single index, or None."""
    if isinstance(value, bool) or not isinstance(value, list | int | None):
        raise AdapterError(f"expected {name} to be a list of layer indices, a single index or None, got {shown(value)}")
    if isinstance(value, list):
        _check_entries(name, value, int, "layer indices")


def pattern_of(check: Check, of: str) -> Check:
    """Return a check for a dict {regular expression: value}; each value is checked as if it were the setting `of`."""

    def check_dict(name: str, value: Any) -> None:
        if not isinstance(value, dict):
            raise AdapterError(f"expected {name} to be a dict, got {shown(value)}")
        _check_entries(name, value, str, "regular expressions as keys")
        for key, item in value.items():
            refuse_invalid(key)
            refuse_invalid(ENDING.format(key), key)
            check(of, item)

    return check_dict


def _check_entries(name: str, entries: Any, kind: type, words: str) -> None:
    """Reject entries of the wrong type, and more than MOST_ENTRIES entries."""
    if len(entries) > MOST_ENTRIES:
        raise AdapterError(f"expected {name} to have at most {MOST_ENTRIES:,} entries, got {len(entries):,}")
    for entry in entries:
        if not isinstance(entry, kind) or isinstance(entry, bool):
            raise AdapterError(f"expected {name} to contain {words}, got {shown(entry)}")


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _own(value: Any) -> Any:
    """Return a deep copy in JSON types: tuples, sets and ranges become lists, NumPy scalars become Python scalars."""
    if isinstance(value, dict):
        return {key: _own(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | range):
        return [_own(item) for item in (sorted(value, key=repr) if isinstance(value, set) else value)]
    return value.item() if isinstance(value, np.generic) else value
