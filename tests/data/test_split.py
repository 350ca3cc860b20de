"""A split neither overlaps nor loses text, and `to_ascii` returns only ASCII."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilora.data.corpora import Corpus, split, to_ascii
from tests.data.surroundings import message

# -------------------------------------------------------------------------------- split


@given(st.integers(1, 4), st.integers(11, 50))
def test_a_few_documents_are_cut_as_one_text_at_nine_tenths(count, length):
    corpus = Corpus("few", tuple(chr(65 + index) * length for index in range(count)))
    train, validation = split(corpus)
    assert train + validation == corpus.text
    assert len(train) == int(0.9 * len(corpus.text))


@given(st.integers(5, 45))
def test_whole_documents_are_held_out_and_nothing_is_lost(count):
    documents = tuple(f"<document {index}>\n\nof {count}" for index in range(count))
    train, validation = split(Corpus("many", documents))
    parts = [part.split("\n\n<") for part in (train, validation)]
    found = [{"<" + text.lstrip("<") for text in part} for part in parts]
    assert found[0] | found[1] == set(documents)
    assert not found[0] & found[1]
    assert found[1] == {documents[index] for index in range(4, count, 10)}
    assert [len(part) for part in parts] == [len(part) for part in found]


@pytest.mark.parametrize("documents", [(), ("a" * 10,), ("a", "b", "c", "d", "e")])
def test_too_short_to_split(documents):
    assert "tiny is too short to split" in message(split, Corpus("tiny", documents))


# -------------------------------------------------------------------------------- to_ascii


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("“Don’t,” said ‘he’ „so‟ ‹a› «b»", '"Don\'t," said \'he\' "so" \'a\' "b"'),
        ("1789–1797 — or ‑ − ― so…", "1789-1797 -- or - - -- so..."),
        ("naïve Ångström façade ŷ", "naive Angstrom facade y"),
        ("straße Æsir œuvre Øre złoty", "strasse AEsir oeuvre Ore zloty"),
        ("isn´t 5′ 6″ ½ ﬁne\u00a0and\u3000wide™", "isn't 5' 6\" 1/2 fine and wideTM"),
        ("a🦙b\u200b\u00adc→漢\ufffd", "abc"),
        ("1\r\n2\r3\n4\u20285\u20296\x857\n\r8", "1\n2\n3\n4\n5\n6\n7\n\n8"),
    ],
)
def test_to_ascii(text, plain):
    assert to_ascii(text) == plain


@given(st.text())
def test_to_ascii_is_ascii_and_settles(text):
    plain = to_ascii(text)
    assert plain.isascii()
    assert "\r" not in plain
    assert to_ascii(plain) == plain


@given(st.text(st.characters(max_codepoint=127, exclude_characters="\r")))
def test_ascii_stays_as_it_is(text):
    assert to_ascii(text) == text
