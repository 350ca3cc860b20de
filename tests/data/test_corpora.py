"""Corpora: by name, from archives, from a user's own files; no test needs a network."""

import contextlib
import dataclasses
import hashlib
import inspect
import io
import sys
import textwrap
import types
import zipfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import minilora.data
from minilora.data import corpora, sources
from minilora.data.corpora import Corpus, load_corpus, split
from minilora.data.sources import SOURCES, CorpusError
from tests.data.surroundings import TEXT, message, put

# -------------------------------------------------------------------------------- known corpora


def real(name, **options):
    if sources.find(SOURCES[name]) is None:
        pytest.skip(f"{name} is not on this machine: `minilora data fetch` or MINILORA_DATA provide it")
    return load_corpus(name, download=False, **options)


@pytest.mark.parametrize(
    ("name", "documents", "opening"),
    [
        ("tinyshakespeare", 1, "First Citizen:\n"),
        ("state_union", 65, "PRESIDENT HARRY S. TRUMAN'S ADDRESS"),
        ("inaugural", 59, "Fellow-Citizens of the Senate"),
        ("genesis", 1, "In the beginning God created the heaven and the earth.\n"),
        ("grimm", 1, "THE FROG-KING; OR, IRON HENRY.\n"),
    ],
)
def test_real_corpora(name, documents, opening):
    corpus = real(name)
    assert len(corpus.documents) == documents
    assert corpus.text.startswith(opening)
    assert corpus.text.isascii()
    assert "\r" not in corpus.text
    assert all(len(document) > 500 for document in corpus.documents)


def test_tinyshakespeare_is_split_as_in_nanogpt():
    train, validation = split(real("tinyshakespeare"))
    assert (len(train), len(validation)) == (1_003_854, 111_540)


@pytest.mark.parametrize(("name", "held_out"), [("state_union", 7), ("inaugural", 6)])
def test_whole_addresses_of_every_era_are_held_out(name, held_out):
    corpus = real(name)
    train, validation = split(corpus)
    among = [document in validation for document in corpus.documents]
    assert sum(among) == held_out
    assert [index for index, held in enumerate(among) if held] == list(range(4, len(among), 10))
    assert all((document in train) != held for document, held in zip(corpus.documents, among, strict=True))


def test_speeches_keep_the_apostrophes_and_dashes_of_their_chinese_typesetting():
    addresses = real("state_union", ascii=False).documents
    assert any("completing what man’s genius has begun" in address for address in addresses)
    assert any("the ½¢ decrease" in address for address in addresses)
    assert "sabbatical—and then" in real("inaugural", ascii=False).text
    assert "sabbatical--and then" in real("inaugural").text
    assert not any("\ufffd" in address for address in addresses)


def test_grimm_keeps_its_quotes():
    assert real("grimm").text.count('"') == real("grimm", ascii=False).text.count("“") + real(
        "grimm", ascii=False
    ).text.count("”")


def test_python_is_the_source_of_this_machines_standard_library():
    corpus = load_corpus("python", download=False)
    assert inspect.getsource(textwrap) in load_corpus("python", ascii=False).documents
    assert not any("build_time_vars = {" in document for document in corpus.documents)
    assert len(corpus.documents) > 100
    train, validation = split(corpus)
    assert corpus.documents[4] in validation
    assert corpus.documents[4] not in train


def test_without_its_source_there_is_no_python(monkeypatch, tmp_path):
    monkeypatch.setattr(corpora.sysconfig, "get_path", lambda name: str(tmp_path))
    assert message(load_corpus, "python").startswith(f"expected the standard library as .py files in {tmp_path}, found")


# -------------------------------------------------------------------------------- archives


def archive(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return buffer.getvalue()


MEMBERS = {
    "a/": b"",
    "a/README": b"not a document",
    "a/1999-B.txt": "naïve\n".encode(),
    "a/1789-A.txt": b"first\n",
    "a/1970-N.txt": b"man\xa1\xa6s fate\xa1Xand \xa1\xa7more\xa1\xa8",
    "a/1954-E.txt": b"the \xbd\xa2 decrease",
}


def zipped(source, cache, content, members="*.txt"):
    """Make `content` the archive of a known corpus `speeches`."""
    sha256 = hashlib.sha256(content).hexdigest()
    speeches = dataclasses.replace(
        source("good"), name="play", file="play.zip", bytes=len(content), sha256=sha256, members=members
    )
    SOURCES["play"] = speeches  # the fixture takes it away again
    return put(cache, content, "play.zip")


def test_an_archive_holds_a_document_a_file_in_order_of_name(source, cache):
    zipped(source, cache, archive(MEMBERS))
    documents = load_corpus("play", ascii=False).documents
    assert documents == ("first\n", "the ½¢ decrease", "man’s fate—and “more”", "naïve\n")


def test_one_member_can_be_the_corpus(source, cache):
    zipped(source, cache, archive(MEMBERS), "1999-B.txt")
    assert load_corpus("play").documents == ("naive\n",)


def test_an_archive_without_documents_is_an_error(source, cache):
    path = zipped(source, cache, archive(MEMBERS), "genesis.txt")
    assert message(load_corpus, "play") == f"{path} holds no genesis.txt; delete or replace it"


def test_a_truncated_archive_is_one_clear_error(source, cache):
    whole = archive(MEMBERS)
    for length in [0, 1, 50, len(whole) // 2, len(whole) - 1]:
        path = zipped(source, cache, whole[:length])
        assert f"{path} is not a whole zip archive" in message(load_corpus, "play")


def test_an_archive_with_a_damaged_member_is_one_clear_error(source, cache):
    whole = bytearray(archive({"a/1.txt": "To be, or not to be, that is the question. " * 50}))
    start = 30 + len("a/1.txt")
    whole[start : start + 20] = bytes(range(200, 220))
    path = zipped(source, cache, bytes(whole))
    assert f"{path} is not a whole zip archive" in message(load_corpus, "play")


# -------------------------------------------------------------------------------- local texts


def test_a_local_file_is_one_document(tmp_path):
    path = put(tmp_path, "Ça va…\r\n".encode(), "mine.txt")
    assert load_corpus(str(path)) == Corpus(str(path), ("Ca va...\n",))
    assert load_corpus(path, ascii=False).documents == ("Ça va…\r\n",)


def test_a_path_may_start_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    put(tmp_path, b"mine", "mine.txt")
    assert load_corpus("~/mine.txt").text == "mine"


def test_a_known_name_goes_before_a_file_of_that_name(source, cache, tmp_path, monkeypatch):
    source("good")
    put(cache)
    put(tmp_path, b"a file", "play")
    monkeypatch.chdir(tmp_path)
    assert load_corpus("play", ascii=False).text == TEXT
    assert load_corpus("./play").text == "a file"


def test_a_folder_holds_a_document_a_text_file(tmp_path):
    for name, content in {"b.txt": b"two", "a.txt": b"one", "c.TXT": b"three", "d.md": b"no"}.items():
        put(tmp_path, content, name)
    put(tmp_path, b"\0 left by a file manager", "._a.txt")
    (tmp_path / "folder.txt").mkdir()
    corpus = load_corpus(str(tmp_path))
    assert corpus.documents == ("one", "two", "three")
    assert corpus.text == "one\n\ntwo\n\nthree"


def test_a_folder_without_texts_is_an_error(tmp_path):
    assert message(load_corpus, str(tmp_path)).startswith(f"expected .txt files in {tmp_path}, found none")


@pytest.mark.parametrize("content", [b"", b" \n\t\r\n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_an_error(tmp_path, content):
    path = put(tmp_path, content)
    for name in (path, tmp_path):
        assert f"{path} is empty" in message(load_corpus, str(name))


def test_a_binary_file_is_an_error(tmp_path):
    path = put(tmp_path, b"GIF89a\x00\x01\xff")
    assert f"{path} is not a text file" in message(load_corpus, str(path))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_local_encodings(tmp_path, encoding):
    path = put(tmp_path, "“café” – 5 €".encode(encoding))
    assert load_corpus(path, ascii=False).text == "“café” – 5 €"


@given(st.binary(min_size=1))
@example(b"\xff\xfe")
@example(b"\xff\xfea")
@example(b"\xc2\xa0")
@example(b"\x81")
def test_any_file_is_a_text_or_a_corpus_error(tmp_path_factory, content):
    path = put(tmp_path_factory.getbasetemp() / "any", content)
    with contextlib.suppress(CorpusError):
        assert load_corpus(path, ascii=False).text.strip()


def test_a_file_that_may_not_be_read_is_an_error(tmp_path, monkeypatch):
    path = put(tmp_path)
    monkeypatch.setattr(Path, "read_bytes", lambda _: (_ for _ in ()).throw(PermissionError("no entry")))
    assert message(load_corpus, path) == f"{path} cannot be read (no entry)"


def test_a_text_without_ascii_is_not_quietly_lost(tmp_path):
    path = put(tmp_path, "Быть или не быть, вот в чём вопрос.".encode())
    assert "ascii=False" in message(load_corpus, path)
    assert load_corpus(path, ascii=False).text.startswith("Быть")


@given(st.text().map("no such ".__add__))
@example("")
@example("~nobody/x")
@example("a\0b")
@example("x" * 5000)
def test_any_other_name_is_an_error_that_lists_the_known_ones(name):
    text = message(load_corpus, name)
    assert repr(name) in text
    assert ", ".join(corpora.names()) in text
    assert "path of a text file" in text


# -------------------------------------------------------------------------------- pastiche


@pytest.fixture
def pastiche(monkeypatch):
    """A stand-in for the writer, which shows what it was asked for."""
    module = types.ModuleType("minilora.data.pastiche")
    module.VOICES = ("prose", "verse")
    module.write = lambda voice, characters, seed=0: f"{voice} {characters} {seed}"
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(minilora.data, "pastiche", module, raising=False)


@pytest.mark.usefixtures("pastiche")
@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("pastiche", "prose 300000 0"),
        ("pastiche:verse", "verse 300000 0"),
        ("pastiche:verse:99999999", "verse 99999999 0"),
        ("pastiche:prose:1", "prose 1 0"),
    ],
)
def test_pastiche_names(name, asked):
    assert load_corpus(name, download=False) == Corpus(name, (asked,))


@pytest.mark.usefixtures("pastiche")
@pytest.mark.parametrize(
    "name",
    [
        "pastiche:",
        "pastiche:rap",
        "pastiche:300",
        "pastiche::300",
        "pastiche:verse:",
        "pastiche:verse:0",
        "pastiche:verse:-5",
        "pastiche:verse:many",
        "pastiche:verse:100000000",
        "pastiche:verse:9:9",
    ],
)
def test_pastiche_names_that_mean_nothing(name):
    text = message(load_corpus, name)
    assert "prose, verse" in text
    assert "pastiche:VOICE:CHARACTERS" in text
    assert repr(name) in text


def test_the_real_pastiche_has_the_default_voice():
    real = pytest.importorskip("minilora.data.pastiche")
    assert corpora.PASTICHE_VOICE in real.VOICES
