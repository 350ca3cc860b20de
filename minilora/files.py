"""Atomic file writes, and readers and writers for JSON and safetensors files.

minilora writes every file through `write_atomically`: after a crash, a full disk or a `kill -9`, either the complete
old file or the complete new file is there. Tensors are stored as safetensors and settings as JSON. Pickle is never
used.
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
ELEMENT_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}  # bytes per element of each floating-point dtype
READABLE_DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "I64": np.int64, "U8": np.uint8}
DEEPEST = 50  # the maximum depth of a value in a JSON file; the outermost object has depth 1
LONGEST_HEADER = 1_000_000  # bytes; the safetensors header of about 6,000 tensors


def write_atomically(path: str | Path, content: bytes | str) -> Path:
    """Write `content` to `path` through a temporary file in the same folder, fsync and rename.

    Parent folders are created. If `path` is a symbolic link, its target is written. Raises OSError if the folder is
    not writable, and ValueError if `path` exists but is not a regular file (a device, for example). After an error,
    the previous content of `path` is unchanged.
    """
    path = Path(path).resolve()
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is not a regular file, and writing would replace it; choose another name")
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
    """Remove temporary files that killed processes left in `folder`. Call it only while nothing is writing there."""
    for path in Path(folder).glob(".*.tmp"):
        if TEMPORARY.fullmatch(path.name):
            path.unlink()


def write_json(path: str | Path, value: Mapping[str, Any]) -> Path:
    """Write a JSON object atomically. Sorts the top-level keys only: the order inside values can carry meaning."""
    return write_atomically(path, json.dumps(dict(sorted(value.items())), indent=2) + "\n")


def regular_file(folder: str | Path, name: str) -> Path:
    """Return the path of the file `name` in an untrusted `folder`.

    Raises ValueError if the file does not exist, is not a regular file (reading a pipe might never end), or is a
    symbolic link to a target outside the folder. Links in a snapshot of the Hugging Face cache may also lead to the
    `blobs` of the same repository.
    """
    path = Path(folder) / name
    if not path.exists():
        kind = "is a broken link" if path.is_symlink() else "does not exist"
        raise ValueError(f"{path} {kind}")
    if not any(path.resolve().is_relative_to(allowed) for allowed in _linked_folders(Path(folder).resolve())):
        raise ValueError(f"{path} is a link to a target outside its folder; copy the file into the folder")
    if not path.is_file():
        raise ValueError(f"{path} is not a regular file")
    return path


def _linked_folders(folder: Path) -> list[Path]:
    """Return where links in `folder` may lead: the folder and, in the Hugging Face cache, the blobs of its repository.

    The cache has the layout `models--owner--name/snapshots/REVISION/file`, a link to `models--owner--name/blobs/HASH`.
    """
    repositories = [parent.parent for parent in folder.parents if parent.name == "snapshots"]
    return [folder, *(repository / "blobs" for repository in repositories if "--" in repository.name)]


def read_json(path: str | Path, limit: int | None = None) -> dict[str, Any]:
    """Read a JSON object from a file of at most `limit` bytes.

    Raises ValueError if the file is missing or larger, is not valid JSON or does not contain a JSON object.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(-1 if limit is None else limit + 1)
        if limit is not None and len(content) > limit:
            raise ValueError(f"it is larger than {limit:,} bytes")
        value = json.loads(content.decode("utf-8-sig"), object_pairs_hook=_without_duplicates)
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    except RecursionError:
        raise ValueError(f"{path} is not valid JSON (nested too deeply)") from None
    except ValueError as error:  # invalid UTF-8 or JSON, or an integer with thousands of digits
        raise ValueError(f"{path} is not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} should contain a JSON object, found a {type(value).__name__}")
    if _is_deep(value):
        raise ValueError(f"{path} is not valid JSON (nested too deeply)")
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Convert the pairs of a JSON object to a dict. Rejects duplicate keys: parsers disagree on which one counts."""
    value: dict[str, Any] = {}
    for key, item in pairs:
        if key in value:
            raise ValueError(f"duplicate key {key[:80]!r}")
        value[key] = item
    return value


def _is_deep(value: Any) -> bool:
    """Return whether any value is inside DEEPEST or more nested lists and dicts.

    Deep nesting makes Python raise RecursionError in many places.
    """
    level = [value]
    for _ in range(DEEPEST):
        containers = [item for item in level if isinstance(item, dict | list)]
        level = [part for item in containers for part in (item.values() if isinstance(item, dict) else item)]
    return bool(level)


def write_tensors(
    path: str | Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> Path:
    """Write named arrays to a safetensors file, atomically."""
    from safetensors.numpy import save

    contiguous = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    return write_atomically(path, _sort_metadata(save(contiguous, metadata=dict(metadata or {"format": "pt"}))))


def _sort_metadata(content: bytes) -> bytes:
    """Return the content of a safetensors file with its metadata sorted; `save` writes it in random order."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    if len(header.get("__metadata__", {})) < 2:
        return content
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    return content[:8] + text.ljust(end - 8) + content[end:]


def read_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """Read all tensors of a safetensors file. Converts bfloat16 to float32, which is exact.

    Raises ValueError if the file is missing, truncated or otherwise invalid, or contains an unsupported dtype.
    """
    from safetensors import SafetensorError, deserialize

    try:
        entries = deserialize(Path(path).read_bytes())
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    except SafetensorError as error:
        raise ValueError(f"{path} is not a valid safetensors file ({error})") from None
    return {name: _as_array(name, entry, path) for name, entry in entries}


def read_header(path: str | Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return the dtype (such as "F32") and shape of every tensor in a safetensors file, without reading tensor data.

    Raises ValueError if the file is missing or truncated, or its header is invalid or larger than 1 MB.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
        if length > LONGEST_HEADER:
            raise ValueError(f"{path} is not a valid safetensors file (it declares a header of {length:,} bytes)")
        with safe_open(path, framework="np") as tensors:
            names = tensors.keys()
            parts = {name: tensors.get_slice(name) for name in names}
            return {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in parts.items()}
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    except SafetensorError as error:
        raise ValueError(f"{path} is not a valid safetensors file ({error})") from None


def read_metadata(path: str | Path) -> dict[str, str]:
    """Return the text metadata in the header of a safetensors file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            return file.metadata() or {}
    except (FileNotFoundError, SafetensorError) as error:
        raise ValueError(f"{path} is not a valid safetensors file ({error})") from None


def rounded(array: np.ndarray, kind: str) -> np.ndarray:
    """Return an array rounded to a floating-point dtype, named as in a safetensors file; bfloat16 comes as float32."""
    if kind != "BF16":
        with np.errstate(over="ignore"):
            return array.astype(READABLE_DTYPES[kind])
    bits = array.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)).view(np.float32)


def _as_array(name: str, entry: Mapping[str, Any], path: str | Path) -> np.ndarray:
    kind, shape, data = entry["dtype"], entry["shape"], entry["data"]
    if kind == "BF16":  # the upper 16 bits of a float32
        upper = np.frombuffer(data, dtype="<u2").astype(np.uint32)
        return (upper << 16).view(np.float32).reshape(shape)
    if kind not in READABLE_DTYPES:
        readable = ", ".join([*READABLE_DTYPES, "BF16"])
        raise ValueError(f"{path}: tensor {name} has dtype {kind}; supported dtypes: {readable}")
    return np.frombuffer(data, dtype=READABLE_DTYPES[kind]).reshape(shape).copy()
