"""Where the known corpora come from, and the check that each file is the one that is meant.

A corpus file is looked for in the folder that the environment variable MINILORA_DATA names, then in the user's
cache folder, then downloaded. It is used only if its size and SHA-256 are those of `SOURCES`, so the same name
means the same bytes on every machine. Read `corpora.py` next.
"""

from __future__ import annotations

import hashlib
import os
import queue
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minilora.files import write_atomically

SOCKET_SECONDS = 5.0  # for one connection, and for each piece of the answer
OPEN_SECONDS = 8.0  # until a server answers, name look-up and all of its addresses included
TRANSFER_SECONDS = 300.0  # for a whole file
_NLTK = "https://raw.githubusercontent.com/nltk/nltk_data/5db857e6f7df11eabb5e5665836db9ec8df07e28/packages/corpora"


class CorpusError(ValueError):
    """A corpus that is unknown, missing, damaged or too short; the message says what to do."""


@dataclass(frozen=True)
class Source:
    """A file on the web that never changes: the address is pinned, and size and SHA-256 are checked."""

    name: str
    file: str
    bytes: int
    sha256: str
    url: str
    terms: str
    description: str
    members: str = ""  # of a zip archive: which file names in it are documents


@dataclass(frozen=True)
class Check:
    """What `verify` found: the file that would be used, if any, and what is wrong with it, if anything."""

    source: Source
    path: Path | None
    problem: str

    @property
    def ok(self) -> bool:
        return self.path is not None and not self.problem


SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        Source(
            "tinyshakespeare",
            "tinyshakespeare.txt",
            1_115_394,
            "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
            "https://raw.githubusercontent.com/karpathy/char-rnn/6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e"
            "/data/tinyshakespeare/input.txt",
            "public domain text",
            "speeches from Shakespeare's plays",
        ),
        Source(
            "state_union",
            "state_union.zip",
            808_757,
            "366c1dc82b2abf896f42b2ec50ba802a0141a29f75d29ca48a7a243ce5bfbe8d",
            f"{_NLTK}/state_union.zip",
            "public domain",
            "65 addresses of US presidents to Congress, 1945 to 2006",
            "*.txt",
        ),
        Source(
            "inaugural",
            "inaugural.zip",
            346_476,
            "7c5fb5793e31fbeae12bf1aa0ffda5336468f07cedb50654c6d31ca384e2046b",
            f"{_NLTK}/inaugural.zip",
            "public domain",
            "59 inaugural addresses of US presidents, 1789 to 2021",
            "*.txt",
        ),
        Source(
            "genesis",
            "genesis.zip",
            473_239,
            "0cac241f88d7999f81a45e26b1764b2d1f3b4d21654aa954e0d5349eb4784cd0",
            f"{_NLTK}/genesis.zip",
            "public domain",
            "the Book of Genesis in the King James Version",
            "english-kjv.txt",
        ),
        Source(
            "grimm",
            "grimms_fairytales.txt",
            478_476,
            "a8239389bbe15d47400a4836d583d8c0ba8dac413c419e0642d3284439665fd3",
            "https://raw.githubusercontent.com/alexander-n-thomas/spark-nlp-book"
            "/3cd17461ccc16ca91e43c5905f8c4bc6c43b5aa7/grimms_fairytales.txt",
            "public domain",
            "fairy tales of the Brothers Grimm in English",
        ),
    )
}


def cache_folder() -> Path:
    """Where downloads are kept: the user's cache folder for minilora."""
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("minilora"))


def find(source: Source) -> Path | None:
    """The file of `source` on this machine, checked, or None. MINILORA_DATA goes before the cache folder.

    Raises CorpusError when there is a file of that name with other content; it is neither used nor deleted.
    """
    path = _locate(source)
    if path and (problem := _problem(path, source)):
        raise CorpusError(f"{source.name}: {path} is not the expected file: {problem}; delete or replace it")
    return path


def verify() -> list[Check]:
    """For each corpus that is a file: where it lies, and whether its size and checksum are right."""
    checks = []
    for source in SOURCES.values():
        path = _locate(source)
        checks.append(Check(source, path, _problem(path, source) if path else "not on this machine yet"))
    return checks


def fetch(source: Source, download: bool = True) -> Path:
    """The file of `source`, downloaded into the cache folder if it is not on this machine.

    Raises CorpusError when that fails or the bytes are not the expected ones, which leaves nothing behind.
    """
    if path := find(source):
        return path
    if not download:
        raise CorpusError(f"{source.name} is not on this machine. {_by_hand(source)}; or allow the download")
    path = cache_folder() / source.file
    try:
        data = _download(source)
    except OSError as error:
        raise CorpusError(f"{source.name} could not be downloaded: {error}. {_by_hand(source)}") from None
    if problem := _difference(data, source):
        raise CorpusError(f"{source.name} arrived damaged: {problem}. {_by_hand(source)}")
    try:
        return write_atomically(path, data)
    except OSError as error:
        raise CorpusError(f"{source.name} cannot be kept in {path}: {error}. {_by_hand(source)}") from None


def _locate(source: Source) -> Path | None:
    chosen = os.environ.get("MINILORA_DATA")
    folders = [Path(os.path.expanduser(chosen))] if chosen else []
    paths = [folder / source.file for folder in (*folders, cache_folder())]
    return next((path for path in paths if os.path.isfile(path)), None)


def _problem(path: Path, source: Source) -> str:
    try:
        return _difference(path.read_bytes(), source)
    except OSError as error:
        return f"it cannot be read ({error})"


def _difference(data: bytes, source: Source) -> str:
    """How `data` differs from what `source` promises; empty when it does not."""
    found = hashlib.sha256(data).hexdigest()
    if (len(data), found) == (source.bytes, source.sha256):
        return ""
    return (
        f"expected {source.bytes:,} bytes with SHA-256 {source.sha256}, found {len(data):,} bytes with SHA-256 {found}"
    )


def _by_hand(source: Source) -> str:
    """What to do where a download does not work."""
    chosen = os.environ.get("MINILORA_DATA")
    return (
        f"Get {source.url} (SHA-256 {source.sha256}) on another machine and put it as {source.file} into "
        f"{cache_folder()}, or into a folder that the environment variable MINILORA_DATA names "
        + (f"(now {chosen})" if chosen else "(now unset)")
    )


def _download(source: Source) -> bytes:
    """The bytes at the source's address, at most a little more than there should be. Raises OSError."""
    from http.client import HTTPException

    from tqdm import tqdm

    terminal = sys.stderr.isatty()
    if not terminal:
        print(f"downloading {source.name}: {source.bytes:,} bytes from {source.url}", file=sys.stderr)
    deadline = time.monotonic() + TRANSFER_SECONDS
    data = bytearray()
    bar = tqdm(total=source.bytes, desc=source.name, unit="B", unit_scale=True, disable=not terminal)
    try:
        with bar, _open(source.url) as response:
            while len(data) <= source.bytes and (piece := response.read1(65536)):
                data += piece
                bar.update(len(piece))
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{len(data):,} bytes after {TRANSFER_SECONDS:g} s")
    except HTTPException as error:
        raise OSError(f"broken answer ({error!r})") from None
    return bytes(data)


def _open(url: str) -> Any:
    """The server's answer, or TimeoutError after OPEN_SECONDS.

    A socket's timeout starts anew for each address of the host and leaves out the name look-up: where a class
    has no network, that can add up to a minute. So a thread waits for it, and we wait for the thread.
    """
    from urllib.request import Request, urlopen

    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def ask() -> None:
        try:
            request = Request(url, headers={"User-Agent": "minilora"})
            answers.put(urlopen(request, timeout=SOCKET_SECONDS))
        except Exception as error:
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=OPEN_SECONDS)
    except queue.Empty:
        raise TimeoutError(f"no answer within {OPEN_SECONDS:g} s") from None
    if isinstance(answer, Exception):
        raise answer
    return answer
