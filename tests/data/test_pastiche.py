"""The generated corpus: reproducible, clean, varied, and in clearly distinguishable voices."""

import hashlib
import itertools
import math
import re
import tomllib
import zlib
from collections import Counter
from functools import cache
from importlib import resources

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from minilora.data.pastiche import VOICES, Pen, grammar, paragraphs, polish, write

# No shrinking, because a smaller seed does not give a simpler text.
anywhere = settings(max_examples=60, deadline=None, phases=[Phase.generate])
every_voice = pytest.mark.parametrize("voice", VOICES)
SLOT = re.compile(r"\{(?:(\w+)=)?(\w+)\}")  # an independent definition of the notation


@cache
def sample(voice, seed=1, characters=200_000):
    return write(voice, characters, seed)


def speeches():
    """Return the verse as a list of speeches, each a list of lines, the first of which names the speaker."""
    return [speech.split("\n") for speech in sample("verse").strip().split("\n\n")]


# Reproducible --------------------------------------------------------------------------------------------

PINNED = {
    "prose": "0e47af060a9772cc8d3ab9fc26a047abe7e3c1bb77aba5d568d8f477197bce59",
    "verse": "e0b2b418542e2d11c73405facf80e917e3cdd4d50a8628a77e9915cc039ae785",
    "recipe": "9549f5011b082ce964689ec036d04729343749646602532a58aa83460a2ccd40",
    "log": "bf1ae762651eee494ea58c7767b28e585f3a39d670c5c2f38a5a4346b683d131",
}


@every_voice
def test_the_bytes_never_change(voice):
    assert hashlib.sha256(write(voice, 50_000).encode()).hexdigest() == PINNED[voice]


@given(
    voice=st.sampled_from(VOICES),
    seeds=st.lists(st.integers(), min_size=2, max_size=2, unique=True),
    lengths=st.tuples(*[st.integers(1, 6_000)] * 2).map(sorted),
)
@anywhere
def test_a_longer_text_begins_with_the_shorter_and_another_seed_gives_another(voice, seeds, lengths):
    text = write(voice, lengths[1], seeds[0])
    assert text.startswith(write(voice, lengths[0], seeds[0]))
    assert write(voice, 500, seeds[0]) != write(voice, 500, seeds[1])


@given(voice=st.sampled_from(VOICES), seed=st.integers(0, 99), characters=st.integers(1, 6_000))
@anywhere
def test_ends_with_the_paragraph_that_reaches_the_length(voice, seed, characters):
    text = write(voice, characters, seed)
    all_but_the_last = text[: text.rstrip().rfind("\n\n") + 1]
    assert len(text) >= characters > len(all_but_the_last)
    assert write(voice, len(text), seed) == text
    assert len(write(voice, len(text) + 1, seed)) > len(text) + 1
    assert "\n".join(itertools.islice(paragraphs(voice, seed), text.count("\n\n") + 1)) == text


# Clean ---------------------------------------------------------------------------------------------------


@every_voice
def test_neatly_spaced_sentences_in_printable_ascii(voice):
    text = sample(voice)
    assert re.fullmatch(r"[ -~\n]*", text)
    assert not re.search(r"[{}\[\]<>_=|\\]", text), "a slot was left unfilled"
    assert not re.search(r"  | \n|\n |\n{3}", text), "extra spaces or newlines"
    assert not re.search(r" [,.;:?!]|[,;:.?!][,;:.?!]", text), "stray punctuation"
    assert text[0] not in " \n"
    assert text[-2:].strip("\n") + "\n" == text[-2:]
    assert not re.search(r"[.?!] +[a-z]|(?m:^[a-z])", text), "a sentence without a capital letter"
    assert not re.search(r"\b([a-z]+) \1\b", text, re.I), "a repeated word"
    assert all(re.search(r"\w$|[.?!:]$", paragraph) for paragraph in text.strip().split("\n\n"))


@every_voice
def test_articles_agree(voice):
    sounds_like_a_vowel = re.compile(r"(?!one\b|once\b|use|uni|eu)[aeiou]|hour|hono|honest|heir", re.I)
    articles = re.findall(r"\b(an?) (\w+)", sample(voice), re.I)
    wrong = [f"{a} {word}" for a, word in articles if (a.lower() == "an") != bool(sounds_like_a_vowel.match(word))]
    assert not wrong
    assert len(articles) > 20


@pytest.mark.parametrize(
    ("rough", "mended"),
    [
        ("a owl ate a useful hour in a honest union.", "An owl ate a useful hour in an honest union."),
        ("a uncle had a unicorn. a eel? a one!", "An uncle had a unicorn. An eel? A one!"),
        ("'tis so,\nand so", "'Tis so,\nAnd so"),
        ("- vanilla, a apple", "- vanilla, an apple"),
    ],
)
def test_polish(rough, mended):
    assert polish(rough) == mended


# Verse ---------------------------------------------------------------------------------------------------


def test_speakers_take_turns_with_short_and_long_speeches():
    assert all(re.fullmatch(r"[A-Z]+( [A-Z]+)?:", speech[0]) and len(speech) > 1 for speech in speeches())
    assert all(re.fullmatch(r"'?[A-Z].*[^:]", line) for speech in speeches() for line in speech[1:])
    assert all(one[0] != following[0] for one, following in itertools.pairwise(speeches())), "the same speaker twice"
    lengths = Counter(len(speech) - 1 for speech in speeches())
    assert lengths[1] > 0.15 * lengths.total()
    assert sum(count for lines, count in lengths.items() if lines >= 6) > 0.05 * lengths.total()


def test_thou_speaks_its_own_grammar():
    text = " ".join(sample("verse").lower().split())
    assert not re.search(r"\bthou (is|am|are|has|have|does|do|doth|hath|will|shall|can|may|was|thou|thee)\b", text)
    assert not re.search(r"\b(i|he|she|we|they) (art|hast|dost|wilt|shalt|canst)\b", text)
    assert not re.search(r"\bthee (art|hast|dost|wilt|shalt|canst|mayst)\b", text)
    assert not re.search(r"\b(to|with|from|against|upon|beneath|bless|love|curse) thou\b", text)
    assert not re.search(r"\byour\b", text)


# Distinct and varied -------------------------------------------------------------------------------------


@cache
def bigrams(voice):
    text = sample(voice, seed=0, characters=50_000)
    return Counter(map("".join, itertools.pairwise(text)))


def guess(text):
    """Return the voice with the highest likelihood of `text` under character bigrams, estimated from seed 0."""

    def likelihood(voice):
        counts = bigrams(voice)
        total = counts.total()
        return sum(math.log((counts[a + b] + 0.1) / total) for a, b in itertools.pairwise(text))

    return max(VOICES, key=likelihood)


@every_voice
def test_a_few_lines_betray_the_voice(voice):
    text = sample(voice)[:30_000]
    pieces = [text[start : start + 150] for start in range(0, 30_000, 150)]
    assert sum(guess(piece) == voice for piece in pieces) >= 0.99 * len(pieces)


@every_voice
def test_lines_hardly_ever_repeat(voice):
    text = sample(voice)
    assert len(zlib.compress(text.encode(), 9)) >= 0.22 * len(text)
    if voice == "prose":  # its lines are entire paragraphs, so its sentences are checked instead
        text = text.replace(". ", ".\n")
    lines = [line for line in text.split("\n") if len(line) > 20]
    assert len(lines) - len(set(lines)) < 0.02 * len(lines)


# The grammar and its engine -------------------------------------------------------------------------------


def test_every_voice_has_a_table():
    tables = tomllib.loads(resources.files("minilora.data").joinpath("pastiche.toml").read_text("utf-8"))
    assert tuple(tables) == VOICES


@every_voice
def test_every_slot_names_a_rule_and_every_rule_is_used(voice):
    rules = grammar(voice)
    slots = [slot for entry in rules.values() for template in entry for slot in SLOT.findall(template)]
    remembered = {name for name, _ in slots if name}
    used = {rule.lower() for _, rule in slots}
    assert used - remembered - set(rules) == set()
    assert set(rules) - used == {"passage"}
    assert remembered <= used, "a named slot that is never used"
    assert all(entry and all(template.strip(" ") == template != "" for template in entry) for entry in rules.values())


@given(size=st.integers(1, 12), seed=st.text(max_size=5))
@settings(deadline=None)
def test_no_alternative_returns_too_soon(size, seed):
    pen = Pen({"word": [str(n) for n in range(size)]}, seed)
    dealt = [pen.deal("word") for _ in range(10 * size)]
    window = size // 2 + 1
    assert all(len(set(dealt[i : i + window])) == window for i in range(len(dealt) - window))
    assert set(dealt) == {str(n) for n in range(size)} or size > 6


def test_a_named_slot_is_remembered_in_any_case():
    pen = Pen({"creature": ["old {beast}"], "beast": ["wolf", "bear", "hare"]}, seed="")
    first, second, third, fourth = pen.expand("{it=CREATURE}/{it}/{It}/{IT}", memory={}).split("/")
    assert first == fourth == second.upper()
    assert third == second.title()


# Errors ---------------------------------------------------------------------------------------------------


def test_an_unknown_voice_and_a_length_below_one_are_refused():
    with pytest.raises(ValueError, match=r"unknown voice 'opera'; valid voices: prose, verse, "):
        write("opera", 100)
    with pytest.raises(ValueError, match=r"at least 1, found 0;"):
        write("prose", 0)
