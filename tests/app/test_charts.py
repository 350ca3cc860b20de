"""The charts say their numbers as text, and the right ones."""

import re
from html import unescape

import numpy as np
import pytest

from minilora.app import charts
from minilora.voices import Letter, Text


def rows(html):
    """The cells' texts, row by row."""
    return [
        [unescape(re.sub("<[^>]*>", "", cell)).strip() for cell in re.findall("<t[hd].*?</t[hd]>", row)]
        for row in re.findall("<tr.*?</tr>", html)
    ]


def place(p, base, chosen="e"):
    """A text whose last character had these probabilities, by character; the rest share what is left."""

    def log(shares):
        array = np.full(256, (1 - sum(shares.values())) / (256 - len(shares)))
        for character, share in shares.items():
            array[ord(character)] = share
        return np.log(array)

    return Text(
        {"a": 1.0},
        [Letter(ord("W"), "W", 0.0, {}, log({}), log({})), Letter(ord(chosen), chosen, 0.0, {}, log(p), log(base))],
    )


def test_the_meter_is_the_mean_ratio(text):
    assert rows(charts.meter(text(("a", 1.0), ("b", 0.24)))) == [["style meter", "", "+0.62 nats per character"]]


def test_the_meter_knows_both_sides(text):
    assert 'class="bar more"' in charts.meter(text(("a", 1.5)))
    assert 'class="bar less" style="--share: 0.5000"' in charts.meter(text(("a", -1.5)))
    assert "−1.50" in charts.meter(text(("a", -1.5)))


@pytest.mark.parametrize("strengths", [{"a": 0.5, "b": 0.5}, {"a": 1.0, "b": 1.0}])
def test_of_a_mix_each_voice_has_its_own(letter, strengths):
    found = rows(charts.meter(Text(strengths, [letter("x", 0.5), letter("y", -0.1)])))
    own = {"a": "+0.20", "b": "+0.40"}
    assert found[0] == ["style meter", "", "+0.20 nats per character"]
    assert found[1:] == [[f"{name} alone", "", f"{own[name]} nats per character"] for name in strengths]


def test_without_voices_the_meter_is_zero(letter):
    assert rows(charts.meter(Text({}, [letter("x")]))) == [["style meter", "", "0.00 nats per character"]]


def test_before_the_first_character_there_is_nothing_to_show():
    assert charts.meter(Text({}, [])) == charts.next_characters(Text({}, [])) == ""


def test_the_likeliest_of_both_are_shown_with_both_probabilities():
    found = rows(charts.next_characters(place({"e": 0.6, " ": 0.2}, {"\n": 0.7, "<": 0.1}), count=4))
    assert found[0] == ["next", "base", "voices"]
    assert [row[0].split()[0] for row in found[1:3]] == ["e", "␣"]
    assert {row[0] for row in found[3:]} == {"⏎", "<"}
    assert found[1] == ["e chosen", "0.1 %", "60.0 %"]
    assert ["⏎", "70.0 %", "0.1 %"] in found


def test_bars_are_as_long_as_the_probabilities():
    html = charts.next_characters(place({"e": 0.6}, {"e": 0.25}), count=1)
    assert 'class="bar less" style="--share: 0.2500"' in html
    assert 'class="bar more" style="--share: 0.6000"' in html


def test_ten_characters_are_shown_and_what_stands_before():
    html = charts.next_characters(place({"e": 0.6}, {}))
    assert len(rows(html)) == 11
    assert "after “…W”" in html


@pytest.mark.parametrize(
    ("token", "shown"), [(97, "a"), (32, "␣"), (10, "⏎"), (60, "&lt;"), (38, "&amp;"), (0, "0x00"), (226, "0xE2")]
)
def test_every_byte_can_be_shown(token, shown):
    assert charts.character(token) == shown
