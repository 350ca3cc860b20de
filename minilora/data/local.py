"""Texts from the user's files. They are kept as they are, except that every line ending becomes a newline character."""

from __future__ import annotations

import codecs
import json
from itertools import islice
from pathlib import Path
from typing import Any

from minilora.data.sources import CorpusError
from minilora.messages import expect, shown, some

LOOKED_AT = 3  # lines, to recognize a file with one JSON record per line


def read_documents(path: Path, encoding: str | None = None) -> tuple[str, ...]:
    """Return the text of a file, or of each .txt file in a folder, as documents.

    `encoding` is the name of the encoding; None for UTF-8, or UTF-16 with a byte-order mark. Raises CorpusError if a
    file cannot be read, is empty, is not text in this encoding, or has JSON records.
    """
    expect(encoding, str | None, "the name of an encoding")
    if not path.is_dir():
        return (_read(path, encoding),)
    files = sorted(file for file in path.glob("[!.]*") if file.suffix.lower() == ".txt" and file.is_file())
    if not files:
        raise CorpusError(f"expected .txt files in {path}, found none; add one file per document")
    return tuple(_read(file, encoding) for file in files)


def with_newlines(text: str) -> str:
    """Return the text with the line endings of Windows and of old Macs converted to newline characters."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _read(path: Path, encoding: str | None) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CorpusError(f"{path} cannot be read ({error})") from None
    text = with_newlines(_decode(path, data, encoding))
    if "\0" in text:
        raise CorpusError(_not_text(path))
    if not text.strip():
        raise CorpusError(f"{path} is empty; expected a text to train on")
    _refuse_records(path, text)
    return text


def _decode(path: Path, data: bytes, encoding: str | None) -> str:
    """Decode a file. Raises CorpusError for bytes that are not text in this encoding: a guess could be garbage."""
    if encoding is None:
        encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        return data.decode(encoding).removeprefix("\ufeff")  # a byte-order mark
    except LookupError:
        raise CorpusError(f"unknown encoding {encoding!r}; expected a name such as utf-8, cp1252 or utf-16") from None
    except UnicodeError as error:
        if b"\0" in data:
            raise CorpusError(_not_text(path)) from None
        at = getattr(error, "start", 0)
        guess = shown(data[max(0, at - 20) : at + 20].decode("cp1252", errors="replace"))
        example = f". With --encoding cp1252, for example, this part reads {guess}" if encoding != "cp1252" else ""
        raise CorpusError(
            f"{path} is not {encoding.removesuffix('-sig').upper()}: byte {at:,} cannot be decoded. Save the file as "
            f"UTF-8, or specify its encoding{example}"
        ) from None


def _not_text(path: Path) -> str:
    return (
        f"{path} is not a text file: it contains NUL bytes; save it as plain text in UTF-8, or specify the encoding if "
        "it is UTF-16 (--encoding utf-16-le)"
    )


def _refuse_records(path: Path, text: str) -> None:
    """Raise CorpusError for JSON records, one per line (JSONL) or in one list: training would learn the braces."""
    lines = list(islice(filter(str.strip, text.split("\n")), LOOKED_AT))
    records = list(map(_parsed, lines)) if text.lstrip().startswith("{") else _parsed(text)
    if isinstance(records, list) and records and all(isinstance(record, dict) for record in records):
        keys = f" (with the keys {some(list(map(shown, records[0])), most=3)})" if records[0] else ""
        raise CorpusError(
            f"{path} has JSON records{keys} instead of plain text; write the texts of all records to "
            "one .txt file, separated by blank lines, and train on that file"
        )


def _parsed(text: str) -> Any:
    """Return the value of a text that is one JSON list or object, else None."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
