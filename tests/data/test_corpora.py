"""Corpora by name, from archives and from local files. No test requires a network."""

import contextlib
import dataclasses
import hashlib
import inspect
import io
import re
import textwrap
import warnings
import zipfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from minilora.data import corpora, pastiche, sources
from minilora.data.corpora import Corpus, load_corpus, load_ids
from minilora.data.sources import SOURCES, CorpusError
from tests.data.surroundings import TEXT, message, put

# -------------------------------------------------------------------------------- known corpora


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
    if sources.find(SOURCES[name]) is None:
        pytest.skip(f"requires the corpus {name}: run `minilora data fetch` or set MINILORA_DATA")
    corpus = load_corpus(name, download=False)
    assert len(corpus.documents) == documents
    assert corpus.text.startswith(opening)
    assert corpus.text.isascii()
    assert "\r" not in corpus.text
    assert all(len(document) > 500 for document in corpus.documents)
    assert not any("\ufffd" in document for document in load_corpus(name, ascii=False, download=False).documents)


def test_python_is_the_source_of_this_machines_standard_library():
    documents = load_corpus("python", ascii=False, download=False).documents
    assert inspect.getsource(textwrap) in documents
    assert not any("build_time_vars = {" in document for document in documents)
    assert len(documents) > 100


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
    """Make `content` the archive of the known corpus `play`, and return its path."""
    sha256 = hashlib.sha256(content).hexdigest()
    speeches = dataclasses.replace(
        source("good"), name="play", file="play.zip", bytes=len(content), sha256=sha256, members=members
    )
    SOURCES["play"] = speeches  # the fixture removes it afterwards
    return put(cache, content, "play.zip")


def test_an_archive_holds_a_document_a_file_in_order_of_name(source, cache):
    path = zipped(source, cache, archive(MEMBERS))
    documents = load_corpus("play", ascii=False).documents
    assert documents == ("first\n", "the ½¢ decrease", "man’s fate—and “more”", "naïve\n")
    zipped(source, cache, archive(MEMBERS), "1999-B.txt")  # a corpus can be a single member
    assert load_corpus("play").documents == ("naive\n",)
    zipped(source, cache, archive(MEMBERS), "genesis.txt")
    assert message(load_corpus, "play") == f"{path} contains no genesis.txt; delete or replace it"


def test_a_truncated_or_damaged_archive_is_one_clear_error(source, cache):
    whole = archive({"a/1.txt": "To be, or not to be, that is the question. " * 50})
    start = 30 + len("a/1.txt")
    damaged = whole[:start] + bytes(range(200, 220)) + whole[start + 20 :]
    for content in (b"", whole[: len(whole) // 2], whole[:-1], damaged):
        path = zipped(source, cache, content)
        assert f"{path} is not a valid zip archive" in message(load_corpus, "play")


# -------------------------------------------------------------------------------- local texts


def test_a_local_file_is_one_document(tmp_path, monkeypatch):
    path = put(tmp_path, "Ça va…\r\n".encode(), "mine.txt")
    assert load_corpus(str(path)) == Corpus(str(path), ("Ça va…\n",))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert load_corpus("~/mine.txt").text == "Ça va…\n"


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


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b" \n\t\r\n", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (b"GIF89a\x00\xff", "is not a text file"),
    ],
)
def test_what_is_no_text_is_an_error(tmp_path, content, words):
    assert message(load_corpus, str(tmp_path)).startswith(f"expected .txt files in {tmp_path}, found none")
    path = put(tmp_path, content)
    for name in (path, tmp_path):
        assert f"{path} {words}" in message(load_corpus, str(name))


KEPT = "“Быть или не быть” – crème brûlée, 5 € × 2 🙂\r\nДва\rтри\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_local_texts_are_kept_as_they_are(tmp_path, encoding):
    """Only line endings change."""
    path = put(tmp_path, KEPT.encode(encoding))
    for ascii in (None, False):
        assert load_corpus(path, ascii=ascii).text == KEPT.replace("\r\n", "\n").replace("\r", "\n")
    train, validation = load_ids(path)
    assert bytes([*train, *validation]).decode() == load_corpus(path).text


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "cp1251", "big5", "utf-16-le", "mac-roman"])
def test_an_encoding_is_never_guessed(tmp_path, encoding):
    text = {"cp1251": "Быть или не быть", "big5": "你好，世界"}.get(encoding, "café à la crème")
    path = put(tmp_path, text.encode(encoding))
    said = message(load_corpus, path)
    if encoding == "utf-16-le":
        assert "contains NUL bytes; save it as plain text in UTF-8, or specify the encoding" in said
    else:
        assert re.search(
            r"is not UTF-8: byte \d+ cannot be decoded\. Save the file as UTF-8, or .*--encoding cp1252", said
        )
    assert load_corpus(path, encoding=encoding).text == text
    for wrong in ("no-such", "hex", "rot13"):
        assert f"unknown encoding {wrong!r}; expected" in message(
            lambda name, w=wrong: load_corpus(name, encoding=w), path
        )


@pytest.mark.parametrize(("written", "given"), [("utf-8-sig", "utf-8"), ("utf-16", "utf-16"), ("utf-8", "utf-8-sig")])
def test_a_byte_order_mark_is_not_text(written, given, tmp_path):
    assert load_corpus(put(tmp_path, "café".encode(written)), encoding=given).text == "café"


def test_what_a_conversion_to_ascii_changes_is_said(tmp_path):
    path = put(tmp_path, ("crème × " * 3 + "Быть " + "plain text " * 9).encode())
    with pytest.warns(
        UserWarning,
        match=r"3 characters were replaced by ASCII characters and 7 \(5\.5% of the text\) were dropped, such as × ",
    ):
        assert load_corpus(path, ascii=True).text.startswith("creme  creme  creme   plain")


def test_the_known_corpora_are_ascii_without_a_word(source, cache):
    source("good")
    put(cache, "ça".encode())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_corpus("pastiche:verse:200").text.isascii()


@pytest.mark.parametrize(
    "text",
    [
        '{"messages": [{"role": "user", "content": "Hi"}]}\n\n{"messages": []}\n',
        '\n{"prompt": "a", "completion": "b"}',
        '[{"a": 1},\n {"a": 2}]',
        '{"a": 1}\n{"b": 2}\n{"c": 3}\nnot JSON',
        '{"text": "one\\u2028two"}\n{"text": "three"}'.replace("\\\\u2028", "\u2028"),
    ],
)
def test_json_records_are_not_text(tmp_path, text):
    path = put(tmp_path, text.encode())
    assert re.search(
        r"has JSON records \(with the keys '\w+'.*\) .*write the texts of all records", message(load_corpus, path)
    )


@pytest.mark.parametrize("text", ["{", "[1, 2]", "{a}\n{b}", "[[[" * 9999, '{\n  "one": 1\n}', "[Exit Ghost]", "[]"])
def test_texts_with_brackets_are_text(tmp_path, text):
    assert load_corpus(put(tmp_path, text.encode())).text == text


@given(st.binary(min_size=1))
@example(b"\xff\xfe")
@example(b"\xff\xfea")
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
    assert "leave out --ascii (in Python, ascii=True) to keep the text as it is" in message(
        lambda name: load_corpus(name, ascii=True), path
    )


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


@pytest.mark.parametrize(
    ("name", "voice", "characters"),
    [("pastiche", "prose", 300_000), ("pastiche:log", "log", 300_000), ("pastiche:verse:50", "verse", 50)],
)
def test_pastiche_names(name, voice, characters):
    assert load_corpus(name, download=False) == Corpus(name, (pastiche.write(voice, characters),))


@pytest.mark.parametrize("end", ["", "rap", "300", ":300", "verse:", "verse:0", "verse:many", "verse:100000000"])
def test_pastiche_names_that_mean_nothing(end):
    text = message(load_corpus, f"pastiche:{end}")
    assert f"VOICE one of {', '.join(pastiche.VOICES)} and CHARACTERS from 1 to 99,999,999" in text
    assert text.endswith(f"; found {f'pastiche:{end}'!r}")
    assert "pastiche:VOICE:CHARACTERS" in text
