"""What a LoraConfig can be, checked before anything is done with one: configs also come from strangers."""

from __future__ import annotations

import re
import sys
import warnings
from types import NoneType
from typing import TYPE_CHECKING, Any

from minilora.lora.expressions import MOST_TRIES, MOST_TRIES_OF_KEYS, most_tries
from minilora.nn.variants import AdapterError

if TYPE_CHECKING:
    from minilora.lora.config import LoraConfig

KINDS: dict[str, tuple[type, ...]] = {
    "target_modules": (list, str),
    "exclude_modules": (list, str, NoneType),
    "layers_to_transform": (list, int, NoneType),
    "rank_pattern": (dict,),
    "alpha_pattern": (dict,),
    "use_rslora": (bool,),
}
"""What an option can be."""

ENTRIES: list[tuple[str, type, str]] = [
    ("target_modules", str, "names of modules"),
    ("exclude_modules", str, "names of modules"),
    ("layers_to_transform", int, "numbers of layers"),
    ("rank_pattern", str, "regular expressions as its keys"),
    ("alpha_pattern", str, "regular expressions as its keys"),
]
"""What the lists and the keys of the patterns are made of."""

MOST_ENTRIES = 2_000  # of a list or pattern; the largest Llama, of 405 billion parameters, has 883 linear modules
LARGEST_RANK = 65_536  # wider than any layer
LONGEST_SHOWN = 80  # letters of a value in a message

ENDING = r"(.*\.)?({})$"
"""PEFT's way of matching the key of a pattern: to the end of a path, from a dot or its beginning on."""


def check(config: LoraConfig) -> None:
    """Raise AdapterError for the first entry that is of the wrong kind, out of range or not implemented."""
    for name, kinds in KINDS.items():
        value = getattr(config, name)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            kind = " or ".join(k.__name__ for k in kinds)
            raise AdapterError(f"{name} should be a {kind}, got {shown(value)}")
    _check_entries(config)
    _check_numbers(config)
    _check_expressions(config)
    if not isinstance(config.init_lora_weights, bool) and config.init_lora_weights != "gaussian":
        found = shown(config.init_lora_weights)
        raise AdapterError(f"init_lora_weights should be True, False or 'gaussian', got {found}")
    if config.bias != "none":
        raise AdapterError(f"bias = {shown(config.bias)} is not implemented: there are no biases here; use 'none'")
    if config.modules_to_save:
        raise AdapterError(f"modules_to_save = {shown(config.modules_to_save)} is not implemented; use None")
    if not config.target_modules:
        raise AdapterError("target_modules names nothing to adapt; give a list of names, or 'all-linear'")
    if config.layers_to_transform is not None and config.is_regex:
        raise AdapterError(
            "layers_to_transform goes with a list of names; with a regular expression, select the layers in it"
        )


def _check_entries(config: LoraConfig) -> None:
    """Refuse lists and patterns of the wrong things, or of more things than a model has modules."""
    for name, kind, word in ENTRIES:
        entries = getattr(config, name)
        if not isinstance(entries, list | dict):
            continue
        if len(entries) > MOST_ENTRIES:
            raise AdapterError(f"{name} should have at most {MOST_ENTRIES:,} entries, got {len(entries):,}")
        for entry in entries:
            if not isinstance(entry, kind) or isinstance(entry, bool):
                raise AdapterError(f"{name} should hold {word}, got {shown(entry)}")


def _check_numbers(config: LoraConfig) -> None:
    """Refuse ranks, scales and a dropout that are none. To Python True is a number, here it is not."""
    for rank in (config.r, *config.rank_pattern.values()):
        if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
            raise AdapterError(f"the rank r should be a whole number of at least 1, got {shown(rank)}")
        if rank > LARGEST_RANK:
            raise AdapterError(f"the rank r should be at most {LARGEST_RANK:,}, got {shown(rank)}")
    for alpha in (config.lora_alpha, *config.alpha_pattern.values()):
        if not _is_finite(alpha):
            raise AdapterError(f"lora_alpha should be a finite number, got {shown(alpha)}")
    if not _is_finite(config.lora_dropout) or not 0 <= config.lora_dropout < 1:
        raise AdapterError(f"lora_dropout should be at least 0 and below 1, got {shown(config.lora_dropout)}")


def _check_expressions(config: LoraConfig) -> None:
    """Refuse what should be a regular expression and is none, or one that could take hours to match."""
    wholes = [names for names in (config.target_modules, config.exclude_modules) if isinstance(names, str)]
    keys = [*config.rank_pattern, *config.alpha_pattern]
    for expressions, most in ((wholes, MOST_TRIES), (keys, MOST_TRIES_OF_KEYS)):
        tries = 0.0
        for expression in expressions:
            tries += most_tries(expression)
            if tries > most:
                raise AdapterError(
                    f"the regular expression {shown(expression)} could take hours to match; use fewer repetitions "
                    "such as .*, and none inside another"
                )
            _refuse_broken(expression)
    for key in keys:
        _refuse_broken(key, ENDING.format(key))


def _refuse_broken(expression: str, placed: str | None = None) -> None:
    """Raise AdapterError unless `expression`, or what it is `placed` in, is a regular expression beyond doubt."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # about what a future Python will read differently, such as [[a]
            re.compile(expression if placed is None else placed)
    except (re.error, OverflowError, Warning) as error:  # OverflowError: a{99999999999}
        raise AdapterError(f"{shown(expression)} is not a valid regular expression ({one_line(str(error))})") from None


def _is_finite(value: Any) -> bool:
    """Whether this is a number that a float can hold: no NaN, no infinity, no integer of 400 digits, no bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def shown(value: Any) -> str:
    """A value as it stands in a message: cut when it is long."""
    text = repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"


def one_line(text: str) -> str:
    """What a file or a folder's name says, as part of a message: in one line, and nothing that a terminal obeys."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
