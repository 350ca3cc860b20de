"""Corpora: texts by name or path, as documents, and which part of them is kept for validation.

`load_corpus("tinyshakespeare")` finds or downloads the file (see `sources.py`); `python` is the source text of this
machine's own standard library, `pastiche` is written by minilora itself, and anything else is the path of a text.
Read `tokenizer.py` next.
"""

from __future__ import annotations

import codecs
import fnmatch
import os
import re
import sysconfig
import unicodedata
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minilora.data.sources import SOURCES, CorpusError, fetch
from minilora.data.tokenizer import ByteTokenizer

PASTICHE_VOICE, PASTICHE_CHARACTERS = "prose", 300_000


@dataclass(frozen=True)
class Corpus:
    """A name and its documents, each a text."""

    name: str
    documents: tuple[str, ...]

    @property
    def text(self) -> str:
        """All documents, a blank line between two."""
        return "\n\n".join(self.documents)


# What typists and printers put where ASCII has one character; accents go by Unicode decomposition instead.
_PLAIN = str.maketrans(
    dict.fromkeys("‘’‚‛‹›′´", "'")
    | dict.fromkeys("“”„‟«»″", '"')
    | dict.fromkeys("‐‑‒–−", "-")
    | dict.fromkeys("—―", "--")
    | {"…": "...", "⁄": "/", "•": "*", "ß": "ss", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE"}
    | {"ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "đ": "d", "Đ": "D", "ð": "d", "þ": "th", "Þ": "Th"}
)


def names() -> list[str]:
    """The corpora that `load_corpus` knows by name."""
    return [*SOURCES, "python", "pastiche"]


def load_corpus(name: str | Path, *, ascii: bool = True, download: bool = True) -> Corpus:
    """A known corpus, `pastiche[:VOICE[:CHARACTERS]]`, or the text file or folder of .txt files at a path.

    A known name goes before a path of that name (`./grimm` is the path). `ascii` folds typography and accents
    to ASCII, see `to_ascii`; `download=False` stays off the network. Raises CorpusError.
    """
    name = os.fspath(name)
    documents = _documents(name, download)
    if ascii:
        folded = tuple(map(to_ascii, documents))
        if 2 * sum(map(len, folded)) < sum(map(len, documents)):
            raise CorpusError(f"most of {name} has no ASCII form and would be lost: load it with ascii=False")
        documents = folded
    return Corpus(name, documents)


def split(corpus: Corpus) -> tuple[str, str]:
    """The training and the validation text, which share no part of the corpus.

    Of five documents or more, the 5th, 15th, 25th … are held out whole, so that both parts have speeches of
    every era. Fewer are split as one text, whose first int(0.9 n) characters train, as in nanoGPT. Raises
    CorpusError when either part would have fewer than two characters: one to read and one to predict.
    """
    held_out = corpus.documents[4::10]
    if held_out:
        train = "\n\n".join(text for index, text in enumerate(corpus.documents) if index % 10 != 4)
        validation = "\n\n".join(held_out)
    else:
        cut = int(0.9 * len(corpus.text))
        train, validation = corpus.text[:cut], corpus.text[cut:]
    if min(len(train), len(validation)) < 2:
        raise CorpusError(
            f"{corpus.name} is too short to split: expected at least 2 characters in each part, "
            f"found {len(train)} for training and {len(validation)} for validation; use a longer text"
        )
    return train, validation


def load_ids(names: str | list[str], *, download: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Training and validation token ids of corpora, by name or path: each split on its own, then joined."""
    names = [names] if isinstance(names, str) else names
    if not names:
        raise CorpusError("expected a corpus to learn from, got none; name one, or the path of a text file")
    parts = [split(load_corpus(name, download=download)) for name in names]
    train, validation = ("\n\n".join(texts) for texts in zip(*parts, strict=True))
    return ByteTokenizer().encode(train), ByteTokenizer().encode(validation)


def to_ascii(text: str) -> str:
    """`text` in ASCII: quotes, dashes and the ellipsis as on a keyboard, accents stripped, the rest dropped.

    Every line end becomes a newline character. A text that is ASCII with such line ends stays as it is.
    """
    text = re.sub("\r\n|[\r\x85\u2028\u2029]", "\n", text)
    # Twice: decomposing turns ´ into a space and ½ into 1⁄2, so one is replaced before and one after.
    text = unicodedata.normalize("NFKD", text.translate(_PLAIN)).translate(_PLAIN)
    return text.encode("ascii", errors="ignore").decode("ascii")


def _documents(name: str, download: bool) -> tuple[str, ...]:
    """The documents behind a name that `load_corpus` was given."""
    if name in SOURCES:
        source = SOURCES[name]
        path = fetch(source, download)
        return _archive(path, source.members) if source.members else (path.read_bytes().decode(),)
    if name == "python":
        return _standard_library()
    if name.split(":")[0] == "pastiche":
        return (_pastiche(name),)
    path = Path(os.path.expanduser(name))
    if name and os.path.isdir(path):
        return _folder(path)
    if os.path.isfile(path):
        return (_local(path),)
    raise CorpusError(
        f"there is no corpus {name!r}: expected one of {', '.join(names())}, "
        "or the path of a text file or of a folder of .txt files"
    )


def _archive(path: Path, members: str) -> tuple[str, ...]:
    """The documents of a zip archive whose file names match `members`, sorted by name: speeches by year."""
    try:
        with zipfile.ZipFile(path) as archive:
            chosen = sorted(fnmatch.filter(archive.namelist(), f"*/{members}"))
            documents = tuple(_speech(archive.read(member)) for member in chosen)
    except (zipfile.BadZipFile, zlib.error, OSError) as error:
        raise CorpusError(f"{path} is not a whole zip archive ({error}); delete or replace it") from None
    if not documents:
        raise CorpusError(f"{path} holds no {members}; delete or replace it")
    return documents


def _speech(data: bytes) -> str:
    """An archived text: mostly UTF-8, but Nixon's and one of Bush's have their quotes and dashes in Big5,
    the Chinese encoding, where 0xA1 leads punctuation, and Eisenhower's of 1954 has a Western ½¢.
    """
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("big5" if b"\xa1" in data else "cp1252", errors="replace")


def _standard_library() -> tuple[str, ...]:
    """The modules of this Python's standard library that are single files, by name, but for what its build wrote."""
    folder = Path(sysconfig.get_path("stdlib"))
    files = sorted(file for file in folder.glob("*.py") if not file.name.startswith("_sysconfigdata"))
    if not files:
        raise CorpusError(f"expected the standard library as .py files in {folder}, found none; choose another corpus")
    return tuple(_decode(file.read_bytes()) for file in files)


def _pastiche(name: str) -> str:
    """The made-up text that `pastiche`, `pastiche:VOICE` or `pastiche:VOICE:CHARACTERS` names."""
    from minilora.data import pastiche

    match = re.fullmatch("pastiche(?::([^:]+))?(?::([1-9][0-9]{0,7}))?", name)
    voice = (match and match[1]) or PASTICHE_VOICE
    if match is None or voice not in pastiche.VOICES:
        raise CorpusError(
            f"expected pastiche, pastiche:VOICE or pastiche:VOICE:CHARACTERS with fewer than 100 million "
            f"characters and a voice of {', '.join(pastiche.VOICES)}; found {name!r}"
        )
    return pastiche.write(voice, int(match[2] or PASTICHE_CHARACTERS))


def _folder(path: Path) -> tuple[str, ...]:
    files = sorted(file for file in path.glob("[!.]*") if file.suffix.lower() == ".txt" and file.is_file())
    if not files:
        raise CorpusError(f"expected .txt files in {path}, found none; put one text into each")
    return tuple(map(_local, files))


def _local(path: Path) -> str:
    """A user's text, line ends as they are; CorpusError for an empty, a binary or an unreadable file."""
    try:
        text = _decode(path.read_bytes())
    except OSError as error:
        raise CorpusError(f"{path} cannot be read ({error})") from None
    if "\0" in text:
        raise CorpusError(f"{path} is not a text file: it holds NUL bytes; save it as plain text in UTF-8")
    if not text.strip():
        raise CorpusError(f"{path} is empty; expected a text to learn from")
    return text


def _decode(data: bytes) -> str:
    """UTF-8, or UTF-16 behind its byte-order mark; bytes that are neither are Windows' cp1252."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")
