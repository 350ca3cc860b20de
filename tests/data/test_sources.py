"""Sources: search order, damaged files, and downloads with timeouts."""

import dataclasses
import hashlib
import io
import re
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from minilora.data import corpora, sources
from minilora.data.corpora import load_corpus
from minilora.data.sources import SOURCES
from tests.data.surroundings import GOOD, TEXT, WRONG, assert_says_how_to_go_on, message, put

# -------------------------------------------------------------------------------- find, in order


def test_the_chosen_folder_goes_before_the_cache_and_that_before_the_network(source, server, data, cache):
    play = source("good")
    assert sources.find(play) is None
    path = put(cache)
    assert sources.find(play) == sources.fetch(play) == path
    assert load_corpus("play", ascii=False).text == TEXT
    assert server.agents == []
    path = put(data)
    assert sources.find(play) == path


@pytest.mark.parametrize("value", ["", "/there/is/no/such/folder"])
def test_a_chosen_folder_that_does_not_exist_is_ignored(source, cache, monkeypatch, value):
    monkeypatch.setenv("MINILORA_DATA", value)
    monkeypatch.chdir(put(cache.parent / "here", WRONG).parent)
    put(cache)
    assert sources.find(source("good")) == cache / "play.txt"


def test_the_chosen_folder_may_be_in_the_home_folder(source, data, monkeypatch):
    monkeypatch.setenv("HOME", str(data.parent))
    monkeypatch.setenv("USERPROFILE", str(data.parent))
    monkeypatch.setenv("MINILORA_DATA", "~/data")
    path = put(data)
    assert sources.find(source("good")) == path


@pytest.mark.parametrize("content", [WRONG, b""])
@pytest.mark.parametrize("place", ["data", "cache"])
def test_a_damaged_file_is_neither_used_nor_deleted(source, server, data, cache, content, place):
    play, path = source("good"), put({"data": data, "cache": cache}[place], content)
    if place == "data":
        put(cache)  # a valid copy in the cache does not hide the damaged file
    for call in (sources.find, sources.fetch, lambda play: load_corpus("play")):
        text = message(call, play)
        found = f"found {len(content):,} bytes with SHA-256 {hashlib.sha256(content).hexdigest()}"
        for part in (str(path), f"{play.bytes:,} bytes", play.sha256, found, "delete or replace"):
            assert part in text
    assert path.read_bytes() == content
    assert server.agents == []


def test_a_file_that_cannot_be_read_is_an_error(source, cache, monkeypatch):
    play, path = source("good"), put(cache)
    monkeypatch.setattr(Path, "read_bytes", lambda _: (_ for _ in ()).throw(PermissionError("no entry")))
    text = message(sources.find, play)
    assert str(path) in text
    assert "no entry" in text


def test_the_cache_is_the_users_own(monkeypatch):
    platformdirs = pytest.importorskip("platformdirs")
    assert sources.cache_folder() == Path(platformdirs.user_cache_dir("minilora"))


def test_a_user_without_a_home_has_a_temporary_cache(source, data, monkeypatch):
    """And does not need it for a file in the chosen folder."""

    def no_home(name):
        raise RuntimeError("could not determine the home directory")

    monkeypatch.undo()
    monkeypatch.setattr("platformdirs.user_cache_dir", no_home)
    assert sources.cache_folder() == Path(tempfile.gettempdir()) / "minilora"


def test_verify_reports_each_corpus(source, data, monkeypatch):
    play = source("good")
    for name in ("missing", "damaged"):
        monkeypatch.setitem(SOURCES, name, dataclasses.replace(play, name=name, file=f"{name}.txt"))
    whole, damaged = put(data), put(data, WRONG, "damaged.txt")
    checks = {check.source.name: check for check in sources.verify()}
    assert checks.keys() == SOURCES.keys()
    found = [(checks[name].ok, checks[name].path) for name in ("play", "missing", "damaged")]
    assert found == [(True, whole), (False, None), (False, damaged)]
    assert "not on this machine" in checks["missing"].problem
    assert play.sha256 in checks["damaged"].problem


# -------------------------------------------------------------------------------- downloads


def test_a_download_is_checked_and_kept(source, server, cache, capsys):
    play = source("good")
    assert sources.fetch(play) == cache / "play.txt"
    assert [path.name for path in cache.iterdir()] == ["play.txt"]
    assert (cache / "play.txt").read_bytes() == GOOD
    assert sources.fetch(play) == cache / "play.txt"
    assert server.agents == ["minilora"]
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == f"downloading play: 4,800 bytes from {play.url}\n"


def test_a_terminal_sees_a_progress_bar(source, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    sources.fetch(source("good"))
    assert "play: 100%" in terminal.getvalue()
    assert "4.80k/4.80k" in terminal.getvalue()


def test_load_downloads_unless_told_not_to(source, server, cache):
    play = source("good")
    text = message(load_corpus, "play", download=False)
    assert_says_how_to_go_on(text, play, cache)
    assert server.agents == []
    assert load_corpus("play", ascii=False).documents == (TEXT,)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("wrong", hashlib.sha256(WRONG).hexdigest()),
        ("truncated", "found 1,000 bytes"),
        ("too_long", "the download of play is corrupted"),
        ("missing", "404"),
        ("silent", "timed out"),
        ("trickling", "after 1 s"),
        ("garbage", "BadStatusLine"),
        ("bad_chunk", "invalid HTTP response"),
    ],
)
def test_a_failed_download_says_why_and_leaves_nothing(source, cache, path, reason):
    play = source(path)
    began = time.monotonic()
    text = message(sources.fetch, play)
    assert time.monotonic() - began < 15  # the silent server would wait for 20 s
    assert reason in text
    assert_says_how_to_go_on(text, play, cache)
    assert not list(cache.parent.glob("**/*.*"))


def test_too_long_an_answer_is_not_read_to_its_end(source, data):
    text = message(sources.fetch, source("too_long"))
    assert f"found {len(GOOD) * 1000:,} bytes" not in text
    assert f"(now {data})" in text  # the folder in MINILORA_DATA


@pytest.mark.usefixtures("impatient")
def test_a_name_look_up_that_hangs_is_not_waited_for(source, cache, monkeypatch):
    gate = threading.Event()
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: gate.wait(20) and [])
    play = dataclasses.replace(source("good"), url="http://play.invalid/play.txt")
    began = time.monotonic()
    text = message(sources.fetch, play)
    gate.set()
    assert time.monotonic() - began < 15  # the lookup would wait for 20 s
    assert "no response within 2 s" in text
    assert_says_how_to_go_on(text, play, cache)


def test_a_cache_folder_that_cannot_be_written(source, cache):
    play = source("good")
    cache.write_text("a file where the folder should be")
    text = message(sources.fetch, play)
    assert "cannot be saved to" in text
    assert_says_how_to_go_on(text, play, cache)


# -------------------------------------------------------------------------------- known corpora


def test_sources_are_pinned():
    for name, source in SOURCES.items():
        assert name == source.name
        assert len(source.sha256) == 64
        assert re.match(r"https://raw\.githubusercontent\.com/[^/]+/[^/]+/[0-9a-f]{40}/", source.url)
        assert source.terms
        assert source.description
    assert corpora.names() == ["tinyshakespeare", "state_union", "inaugural", "genesis", "grimm", "python", "pastiche"]
