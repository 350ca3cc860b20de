"""The sources of the known corpora, and the check that each file is the expected one.

A corpus file is first looked for in the folder given by the environment variable MINILORA_DATA, then in the user's
cache folder. If it is in neither, it is downloaded. A file is used only if its size and SHA-256 match those in
`SOURCES`, so a name refers to the same bytes on every machine. Read `corpora.py` next.
"""

from __future__ import annotations

import hashlib
import os
import queue
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minilora.files import write_atomically

SOCKET_SECONDS = 5.0  # for a connection attempt, and for each read
OPEN_SECONDS = 8.0  # until the server responds, including name resolution and connection attempts to every address
TRANSFER_SECONDS = 300.0  # for a complete file
_NLTK = "https://raw.githubusercontent.com/nltk/nltk_data/5db857e6f7df11eabb5e5665836db9ec8df07e28/packages/corpora"


class CorpusError(ValueError):
    """Raised when a corpus is unknown, missing, corrupted or too short; the message says what to do."""


@dataclass(frozen=True)
class Source:
    """A file on the web with fixed content: the URL is pinned, and the size and SHA-256 are checked."""

    name: str
    file: str
    bytes: int
    sha256: str
    url: str
    terms: str
    description: str
    members: str = ""  # for a zip archive: glob pattern for the names of the document files


@dataclass(frozen=True)
class Check:
    """The result of `verify` for one source.

    `path` is None if there is no file; `problem` is empty for a correct file.
    """

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
    """The folder for downloads: the user's cache folder, or a temporary folder for a user without a home."""
    from platformdirs import user_cache_dir

    try:
        return Path(user_cache_dir("minilora"))
    except RuntimeError:  # neither HOME nor an entry for the user, as in some containers
        return Path(tempfile.gettempdir()) / "minilora"


def find(source: Source) -> Path | None:
    """The local, verified file of `source`, or None. MINILORA_DATA takes precedence over the cache folder.

    Raises CorpusError if a file with that name has different content; the file is neither used nor deleted.
    """
    path = _locate(source)
    if path and (problem := _problem(path, source)):
        raise CorpusError(f"{source.name}: {path} is not the expected file: {problem}; delete or replace it")
    return path


def verify() -> list[Check]:
    """For each corpus stored as a file, check whether it is on this machine with the correct size and checksum."""
    checks = []
    for source in SOURCES.values():
        path = _locate(source)
        checks.append(Check(source, path, _problem(path, source) if path else "not on this machine yet"))
    return checks


def fetch(source: Source, download: bool = True) -> Path:
    """The file of `source`, downloaded to the cache folder if it is not on this machine.

    Raises CorpusError if the download fails or its content is not as expected; no file is left behind.
    """
    if path := find(source):
        return path
    if not download:
        raise CorpusError(f"{source.name} is not on this machine, and downloads are disabled. {_by_hand(source)}")
    path = cache_folder() / source.file
    try:
        data = _download(source)
    except OSError as error:
        raise CorpusError(f"{source.name} could not be downloaded: {error}. {_by_hand(source)}") from None
    if problem := _difference(data, source):
        raise CorpusError(f"the download of {source.name} is corrupted: {problem}. {_by_hand(source)}")
    try:
        return write_atomically(path, data)
    except OSError as error:
        raise CorpusError(f"{source.name} cannot be saved to {path}: {error}. {_by_hand(source)}") from None


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
    """How the size and checksum of `data` differ from those of `source`, or "" if they match."""
    found = hashlib.sha256(data).hexdigest()
    if (len(data), found) == (source.bytes, source.sha256):
        return ""
    return (
        f"expected {source.bytes:,} bytes with SHA-256 {source.sha256}, found {len(data):,} bytes with SHA-256 {found}"
    )


def _by_hand(source: Source) -> str:
    """Instructions for a manual download."""
    chosen = os.environ.get("MINILORA_DATA")
    return (
        f"Download {source.url} (SHA-256 {source.sha256}) on another machine and save it as {source.file} in "
        f"{cache_folder()}, or in the folder given by the environment variable MINILORA_DATA "
        + (f"(now {chosen})" if chosen else "(now unset)")
    )


def _download(source: Source) -> bytes:
    """Download a source; stop reading just past the expected size. Raises OSError."""
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
                    raise TimeoutError(f"received only {len(data):,} bytes after {TRANSFER_SECONDS:g} s")
    except HTTPException as error:
        raise OSError(f"invalid HTTP response ({error!r})") from None
    return bytes(data)


def _open(url: str) -> Any:
    """The server's response. Raises TimeoutError after OPEN_SECONDS.

    A socket's timeout restarts for each address of the host and does not cover name resolution. If there is no network,
    this can add up to a minute. The request is therefore made in a thread, and the wait for the thread is limited.
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
        raise TimeoutError(f"no response within {OPEN_SECONDS:g} s") from None
    if isinstance(answer, Exception):
        raise answer
    return answer
