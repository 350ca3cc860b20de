"""The embedded corpus: reproducible, clean, rich, and in voices that nobody can mistake for one another."""

from __future__ import annotations

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

# A smaller seed is no simpler text, so a failure is reported as it was found.
anywhere = settings(max_examples=60, deadline=None, phases=[Phase.generate])
every_voice = pytest.mark.parametrize("voice", VOICES)
SLOT = re.compile(r"\{(?:(\w+)=)?(\w+)\}")  # the notation, stated a second time


@cache
def sample(voice: str, seed: int = 1, characters: int = 200_000) -> str:
    return write(voice, characters, seed)


def speeches(seed: int = 1) -> list[list[str]]:
    """The verse as a list of speeches, each a list of lines whose first names the speaker."""
    return [speech.split("\n") for speech in sample("verse", seed).strip().split("\n\n")]


def verse_lines() -> list[str]:
    return [line for speech in speeches() for line in speech[1:]]


# Reproducible --------------------------------------------------------------------------------------------

PINNED = {
    "prose": "60e03486f838da4b347927c18a063b16d1c10459f09892e9235071f2c76bbfd2",
    "verse": "cee0ff4b2914c04dc88d22a17e20e9889b73b4e5c7bfc11324660901eb7bcc9b",
    "recipe": "88705da550feaa73fc6b231115799a0b6f6da2caba289d0cbd4ee6962bcc366c",
    "log": "eece4e87a778dac4d752d9b3949f863221b798ca95db4153442ad9bda2d3a2ff",
}


@every_voice
def test_the_bytes_never_change(voice):
    assert hashlib.sha256(write(voice, 2_000).encode()).hexdigest() == PINNED[voice]


@given(voice=st.sampled_from(VOICES), seed=st.integers(), characters=st.integers(1, 3_000))
@anywhere
def test_same_arguments_same_text(voice, seed, characters):
    assert write(voice, characters, seed) == write(voice, characters, seed)


@given(voice=st.sampled_from(VOICES), seeds=st.lists(st.integers(), min_size=2, max_size=2, unique=True))
@anywhere
def test_different_seeds_different_text(voice, seeds):
    one, other = (write(voice, 500, seed) for seed in seeds)
    assert one != other


@given(voice=st.sampled_from(VOICES), seed=st.integers(0, 99), lengths=st.tuples(*[st.integers(1, 6_000)] * 2))
@anywhere
def test_a_longer_text_begins_with_the_shorter(voice, seed, lengths):
    assert write(voice, max(lengths), seed).startswith(write(voice, min(lengths), seed))


@given(voice=st.sampled_from(VOICES), seed=st.integers(0, 99), characters=st.integers(1, 6_000))
@anywhere
def test_ends_with_the_paragraph_that_reaches_the_length(voice, seed, characters):
    text = write(voice, characters, seed)
    all_but_the_last = text[: text.rstrip().rfind("\n\n") + 1]
    assert len(text) >= characters > len(all_but_the_last)
    assert write(voice, len(text), seed) == text
    assert len(write(voice, len(text) + 1, seed)) > len(text) + 1


@every_voice
def test_streaming_gives_the_same_text(voice):
    text = write(voice, 5_000, seed=3)
    count = text.count("\n\n") + 1
    assert "\n".join(itertools.islice(paragraphs(voice, seed=3), count)) == text


# Clean ---------------------------------------------------------------------------------------------------


@every_voice
def test_printable_ascii_neatly_spaced(voice):
    text = sample(voice)
    assert re.fullmatch(r"[ -~\n]*", text)
    assert not re.search(r"[{}\[\]<>_=|\\]", text), "a slot was left unfilled"
    assert not re.search(r"  | \n|\n |\n{3}", text), "spaces or newlines too many"
    assert not re.search(r" [,.;:?!]|[,;:.?!][,;:.?!]", text), "stray punctuation"
    assert text[0] not in " \n"
    assert text[-2:].strip("\n") + "\n" == text[-2:]


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
        ("- a apple, cored", "- an apple, cored"),
        ("vanilla ice", "Vanilla ice"),
    ],
)
def test_polish(rough, mended):
    assert polish(rough) == mended


@every_voice
def test_sentences_begin_with_a_capital_and_end(voice):
    text = sample(voice)
    assert not re.search(r"[.?!] +[a-z]", text)
    assert not re.search(r"^[a-z]", text, re.M)
    assert not re.search(r"\b([a-z]+) \1\b", text, re.I), "the same word twice"
    assert all(re.search(r"\w$|[.?!:]$", paragraph) for paragraph in text.strip().split("\n\n"))


def test_prose_is_whole_sentences_one_line_a_paragraph():
    for paragraph in sample("prose").strip().split("\n\n"):
        assert re.fullmatch(r"([A-Z][^.?!]+[.?!])( [A-Z][^.?!]+[.?!])+", paragraph)


def test_recipes_list_what_they_use():
    for recipe in sample("recipe").strip().split("\n\n"):
        lines = recipe.split("\n")
        ingredients = [line for line in lines if line.startswith("- ")]
        steps = [line for line in lines if re.match(r"\d\. [A-Z0-9]", line)]
        assert len(ingredients) >= 5
        assert [step[0] for step in steps] == [str(n + 1) for n in range(len(steps))]
        assert len(steps) >= 3
        assert len(ingredients) + len(steps) + 3 == len(lines)  # the title, whom it serves, the note
        staples = set(re.findall(r"\bthe (flour|sugar|egg)s?\b", " ".join(steps)))
        assert all(staple in " ".join(ingredients) for staple in staples)


def test_log_days_follow_one_another():
    days = [(m[1], int(m[2])) for m in re.finditer(r"^(\w{3}) (\d+) \w+\. ", sample("log"), re.M)]
    names = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]
    starts = sample("log").count("LOG of the ")
    follows = [
        names.index(weekday) == (names.index(before) + 1) % 7 and day == yesterday + 1
        for (before, yesterday), (weekday, day) in itertools.pairwise(days)
    ]
    assert len(days) > 4 * starts
    assert follows.count(False) <= starts


# Verse ---------------------------------------------------------------------------------------------------


def test_every_speech_begins_with_its_speaker():
    assert all(re.fullmatch(r"[A-Z]+( [A-Z]+)?:", speech[0]) and len(speech) > 1 for speech in speeches())
    assert not [line for line in verse_lines() if line.endswith(":")]


def test_nobody_answers_himself():
    names = [speech[0] for speech in speeches()]
    assert not [name for name, following in itertools.pairwise(names) if name == following]


def test_verse_lines_begin_with_a_capital():
    assert all(re.match(r"'?[A-Z]", line) for line in verse_lines())


def test_verse_lines_have_about_ten_syllables():
    def syllables(word: str) -> int:  # vowel groups, less the endings that are silent: seldom wrong by more than one
        spoken = re.sub(r"'s$|(?<=[^l])e$|(?<=[^td])ed$|(?<=[^sxc])es$", "", word)
        return max(1, len(re.findall(r"[aeiouy]+", spoken)))

    lines = [re.findall(r"[a-z']+", line.lower()) for line in verse_lines() if len(line) > 25]
    counts = [sum(map(syllables, line)) for line in lines]
    assert sum(9 <= n <= 11 for n in counts) > 0.98 * len(counts)
    assert abs(sum(counts) / len(counts) - 10) < 0.3
    assert max(counts) <= 13


def test_thou_speaks_its_own_grammar():
    text = " ".join(sample("verse").lower().split())
    assert not re.search(r"\bthou (is|am|are|has|have|does|do|doth|hath|will|shall|can|may|was|thou|thee)\b", text)
    assert not re.search(r"\b(i|he|she|we|they) (art|hast|dost|wilt|shalt|canst)\b", text)
    assert not re.search(r"\bthee (art|hast|dost|wilt|shalt|canst|mayst)\b", text)
    assert not re.search(r"\b(to|with|from|against|upon|beneath|bless|love|curse) thou\b", text)
    assert not re.search(r"\byour\b", text)


def test_verse_mixes_short_and_long_speeches():
    lengths = Counter(len(speech) - 1 for speech in speeches())
    assert lengths[1] > 0.15 * lengths.total()
    assert sum(count for lines, count in lengths.items() if lines >= 6) > 0.05 * lengths.total()


# Different, and rich ---------------------------------------------------------------------------------------


@cache
def bigrams(voice: str) -> Counter[str]:
    text = sample(voice, seed=0, characters=50_000)
    return Counter(map("".join, itertools.pairwise(text)))


def guess(text: str) -> str:
    """The voice whose character bigrams, learned from seed 0, make `text` most likely."""

    def likelihood(voice: str) -> float:
        counts = bigrams(voice)
        total = counts.total()
        return sum(math.log((counts[a + b] + 0.1) / total) for a, b in itertools.pairwise(text))

    return max(VOICES, key=likelihood)


@every_voice
def test_a_few_lines_betray_the_voice(voice):
    text = sample(voice, seed=1)[:30_000]
    pieces = [text[start : start + 150] for start in range(0, 30_000, 150)]
    assert sum(guess(piece) == voice for piece in pieces) >= 0.99 * len(pieces)


@every_voice
def test_only_verse_says_thou(voice):
    words = re.findall(r"[a-z]+", sample(voice).lower())
    share = sum(word in {"thou", "thee", "thy", "doth", "hath"} for word in words) / len(words)
    assert share > 0.05 if voice == "verse" else share == 0


@every_voice
def test_lines_hardly_ever_repeat(voice):
    text = sample(voice)
    if voice == "prose":  # whose lines are whole paragraphs: its sentences are held to the same standard
        text = text.replace(". ", ".\n")
    lines = [line for line in text.split("\n") if len(line) > 20]
    assert len(lines) - len(set(lines)) < 0.02 * len(lines)


@every_voice
def test_does_not_compress_like_a_repetition(voice):
    text = sample(voice).encode()
    assert len(zlib.compress(text, 9)) >= 0.22 * len(text)


# The grammar and its engine -------------------------------------------------------------------------------


def test_every_voice_has_a_table():
    tables = tomllib.loads(resources.files("minilora.data").joinpath("pastiche.toml").read_text("utf-8"))
    assert tuple(tables) == VOICES
    assert {"prose", "verse"} <= set(VOICES)


@every_voice
def test_every_slot_names_a_rule_and_every_rule_is_used(voice):
    rules = grammar(voice)
    slots = [slot for entry in rules.values() for template in entry for slot in SLOT.findall(template)]
    remembered = {name for name, _ in slots if name}
    used = {rule.lower() for _, rule in slots}
    assert used - remembered - set(rules) == set()
    assert set(rules) - used == {"passage"}
    assert remembered <= used, "remembered and never used"
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


def test_an_unknown_voice_is_named():
    with pytest.raises(ValueError, match=r"prose, verse.*found 'opera'.*choose"):
        write("opera", 100)


@pytest.mark.parametrize("characters", [0, -1, -300_000])
def test_a_length_below_one_is_refused(characters):
    with pytest.raises(ValueError, match=rf"at least 1, found {characters};"):
        write("prose", characters)
