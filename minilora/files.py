"""Files that are there whole or not at all.

Every file that minilora writes goes through `write_atomically`: a crash, a full disk or a `kill -9` leaves
either the old file or the new one, never half of one. Tensors are kept in safetensors, settings in JSON;
nothing is ever pickled.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

TEMPORARY = re.compile(r"\..+\.\d+-[0-9a-f]{8}\.tmp")
READABLE_DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "I64": np.int64, "U8": np.uint8}
DEEPEST = 50  # brackets in a JSON file within one another
LONGEST_HEADER = 1_000_000  # bytes: a safetensors header of some 6,000 tensors


def write_atomically(path: str | Path, content: bytes | str) -> Path:
    """Write `content` to `path` by way of a temporary file in the same folder, fsync and rename.

    Parent folders are made; where `path` is a link, what it leads to is written. Raises OSError when the folder cannot
    be written, and ValueError when there is something that is no file, such as a device; what was at `path` stays.
    """
    path = Path(path).resolve()
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is not a regular file, and would be replaced by one; choose another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path


def remove_unfinished(folder: str | Path) -> None:
    """Remove the temporary files that writers left in `folder` when they were killed; none may be at work there."""
    for path in Path(folder).glob(".*.tmp"):
        if TEMPORARY.fullmatch(path.name):
            path.unlink()


def write_json(path: str | Path, value: Mapping[str, Any]) -> Path:
    """Write a JSON object atomically, its keys sorted. Inside its values the order stays: it can carry meaning."""
    return write_atomically(path, json.dumps(dict(sorted(value.items())), indent=2) + "\n")


def regular_file(folder: str | Path, name: str) -> Path:
    """The path of the file `name` in `folder`, for files from people that one does not know.

    Raises ValueError when there is none, it is no regular file (a pipe would never end), or it is a link that leads
    out of the folder.
    """
    path = Path(folder) / name
    if not path.exists():
        kind = "is a broken link" if path.is_symlink() else "does not exist"
        raise ValueError(f"{path} {kind}")
    if not path.resolve().is_relative_to(Path(folder).resolve()):
        raise ValueError(f"{path} is a link that leads out of its folder; copy the file into the folder")
    if not path.is_file():
        raise ValueError(f"{path} is not a regular file")
    return path


def read_json(path: str | Path, limit: int | None = None) -> dict[str, Any]:
    """Read a JSON object, of at most `limit` bytes; ValueError says which file is missing, too large or not one."""
    try:
        with open(path, "rb") as file:
            content = file.read(-1 if limit is None else limit + 1)
        if limit is not None and len(content) > limit:
            raise ValueError(f"it is larger than {limit:,} bytes")
        value = json.loads(content.decode("utf-8-sig"), object_pairs_hook=_without_duplicates)
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    except RecursionError:
        raise ValueError(f"{path} is not valid JSON (it nests its brackets too deeply)") from None
    except ValueError as error:  # broken UTF-8 or JSON, or a number of thousands of digits
        raise ValueError(f"{path} is not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} should hold a JSON object, found a {type(value).__name__}")
    if _is_deep(value):
        raise ValueError(f"{path} is not valid JSON (it nests its brackets too deeply)")
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object as a dict. Readers disagree about which of two equal keys counts, so there may be one."""
    value: dict[str, Any] = {}
    for key, item in pairs:
        if key in value:
            raise ValueError(f"it has the key {key[:80]!r} twice")
        value[key] = item
    return value


def _is_deep(value: Any) -> bool:
    """Whether lists and dicts lie more than DEEPEST within one another: Python gives up on those in many places."""
    level = [value]
    for _ in range(DEEPEST):
        containers = [item for item in level if isinstance(item, dict | list)]
        level = [part for item in containers for part in (item.values() if isinstance(item, dict) else item)]
    return bool(level)


def write_tensors(
    path: str | Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> Path:
    """Write named arrays as one safetensors file, atomically."""
    from safetensors.numpy import save

    contiguous = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    return write_atomically(path, save(contiguous, metadata=dict(metadata or {"format": "pt"})))


def read_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """Read every tensor of a safetensors file; bfloat16 comes back as the equal float32.

    Raises ValueError when the file is missing, cut short, or holds a type that NumPy does not have.
    """
    from safetensors import SafetensorError, deserialize

    try:
        entries = deserialize(Path(path).read_bytes())
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error})") from None
    return {name: _as_array(name, entry, path) for name, entry in entries}


def read_header(path: str | Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The type (such as "F32") and shape of every tensor in a safetensors file. No number of theirs is read.

    Raises ValueError when the file is missing or cut short, or its header is no header or larger than 1 MB.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
        if length > LONGEST_HEADER:
            raise ValueError(f"{path} is not a whole safetensors file (it declares a header of {length:,} bytes)")
        with safe_open(path, framework="np") as tensors:
            names = tensors.keys()
            parts = {name: tensors.get_slice(name) for name in names}
            return {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in parts.items()}
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error})") from None


def read_metadata(path: str | Path) -> dict[str, str]:
    """The text metadata in a safetensors file's header."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            return file.metadata() or {}
    except (FileNotFoundError, SafetensorError) as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error})") from None


def _as_array(name: str, entry: Mapping[str, Any], path: str | Path) -> np.ndarray:
    kind, shape, data = entry["dtype"], entry["shape"], entry["data"]
    if kind == "BF16":  # the upper half of a float32's bits
        upper = np.frombuffer(data, dtype="<u2").astype(np.uint32)
        return (upper << 16).view(np.float32).reshape(shape)
    if kind not in READABLE_DTYPES:
        readable = ", ".join([*READABLE_DTYPES, "BF16"])
        raise ValueError(f"{path}: tensor {name} has type {kind}; minilora reads {readable}")
    return np.frombuffer(data, dtype=READABLE_DTYPES[kind]).reshape(shape).copy()
