"""Pastiche: a corpus that needs no network, because the package writes it.

Four voices, any amount of each: plain civic `prose`, `verse` drama in the Elizabethan manner, kitchen `recipe`s
and a ship's `log`. They differ so much that a fine-tuned model shows at once which one it has learned. Every
sentence is the package's own; nothing is quoted.

The words live in `pastiche.toml`, one table a voice; this file is the engine, and it has one idea. A *rule* is a
name with alternatives, and an alternative may hold *slots*, each naming another rule:

    passage = "The {adjective} {noun} sleeps."      {noun}        any noun
    noun = "wolf, moon, bell"                       {Noun}        the same, Capitalised; {NOUN}: in CAPITALS
                                                    {hero=noun}   a noun, which {hero} then repeats

Writing is expanding `{passage}` until no slot is left, again and again. Read `pastiche.toml` next.
"""

from __future__ import annotations

import random
import re
import string
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import resources

VOICES: tuple[str, ...] = ("prose", "verse", "recipe", "log")

SLOT = re.compile(r"\{(?:(?P<name>\w+)=)?(?P<rule>\w+)\}")
ARTICLE = re.compile(r"\b(a) (?=(?!one\b|once\b|eu|uni|use|usu)(?:[aeiou]|hour|honest|honou?r|heir))", re.I)
SENTENCE_START = re.compile(r"(?:^|[.?!] )'?[a-z]", re.M)


def write(voice: str, characters: int, seed: int = 0) -> str:
    """Write at least `characters` characters, up to the end of the paragraph that reaches them.

    The same arguments give the same text everywhere, and a longer text begins with the shorter one.

    Parameters
    ----------
    voice : one of `VOICES`.
    characters : the least length wanted, in characters; the text is ASCII, so also in bytes.
    seed : another seed, another text.

    Raises
    ------
    ValueError : for an unknown voice, or a length below 1.
    """
    if characters < 1:
        raise ValueError(f"characters should be at least 1, found {characters}; ask for 300_000, say")
    written: list[str] = []
    length = 0
    for paragraph in paragraphs(voice, seed):
        written.append(paragraph if not written else "\n" + paragraph)
        length += len(written[-1])
        if length >= characters:
            break
    return "".join(written)


def paragraphs(voice: str, seed: int = 0) -> Iterator[str]:
    """Yield paragraphs without end, each closed by a newline: `write`, for those who read as they go.

    A paragraph is what stands between two blank lines: a speech, a recipe, a day at sea.
    """
    pen = Pen(grammar(voice), f"{voice} {seed}")
    while True:
        passage = polish(pen.expand("{passage}", memory={}))
        for paragraph in passage.split("\n\n"):
            yield paragraph + "\n"


@cache
def grammar(voice: str) -> dict[str, list[str]]:
    """Return the rules of one voice: each rule's name and its alternatives."""
    if voice not in VOICES:
        raise ValueError(f"voice should be one of {', '.join(VOICES)}, found {voice!r}; choose one of these")
    table = tomllib.loads(resources.files(__package__).joinpath("pastiche.toml").read_text("utf-8"))[voice]
    return {rule: words(entry) if isinstance(entry, str) else entry for rule, entry in table.items()}


def words(entry: str) -> list[str]:
    """Split "wolf, moon, bell" into its words."""
    return [" ".join(word.split()) for word in entry.split(",")]


class Pen:
    """One writer at work: the rules, a stream of chance, and the order in which alternatives wait their turn."""

    def __init__(self, rules: dict[str, list[str]], seed: str) -> None:
        # Of all generators, random.Random.random is the one whose sequence the documentation promises to keep
        # (NumPy reserves the right to change Generator's streams), so chance enters through it alone.
        self.chance = random.Random(seed).random
        self.queues = {rule: sorted(alternatives, key=lambda _: self.chance()) for rule, alternatives in rules.items()}

    def deal(self, rule: str) -> str:
        """Take an alternative from the front half of the queue to its end: none returns too soon."""
        queue = self.queues[rule]
        queue.append(queue.pop(int(self.chance() * ((len(queue) + 1) // 2))))
        return queue[-1]

    def expand(self, template: str, memory: dict[str, str]) -> str:
        """Fill the slots of `template`, and the slots of what fills them; `{hero=noun}` adds to `memory`."""

        def fill(slot: re.Match[str]) -> str:
            rule = slot["rule"].lower()
            text = memory[rule] if rule in memory else self.expand(self.deal(rule), memory)
            if slot["name"]:
                memory[slot["name"]] = text
            return in_case_of(slot["rule"], text)

        return SLOT.sub(fill, template) if "{" in template else template


def in_case_of(rule: str, text: str) -> str:
    """Write `text` with the capitals of the slot: `noun`, `Noun` or `NOUN`."""
    if rule.islower():
        return text
    return text.upper() if rule.isupper() else string.capwords(text)


def polish(text: str) -> str:
    """Mend what slots cannot know: "a" before a vowel, and a capital at the start of lines and sentences."""
    text = ARTICLE.sub(r"\1n ", text)
    return SENTENCE_START.sub(lambda start: start[0].upper(), text)
