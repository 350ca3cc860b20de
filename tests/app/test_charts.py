"""The charts show the correct values, and also show them as text."""

import numpy as np
import pytest

from minilora.app import charts
from minilora.voices import ComparedText, ComparedToken


def place(p, base, chosen="e"):
    """Return a text whose last character had these probabilities; all other characters share the remainder equally."""

    def log(shares):
        array = np.full(256, (1 - sum(shares.values())) / (256 - len(shares)))
        for character, share in shares.items():
            array[ord(character)] = share
        return np.log(array)

    return ComparedText(
        {"a": 1.0},
        [
            ComparedToken(ord("W"), "W", 0.0, {}, log({}), log({})),
            ComparedToken(ord(chosen), chosen, 0.0, {}, log(p), log(base)),
        ],
    )


def test_the_meter_is_the_mean_ratio_and_knows_both_sides(text, cells):
    assert cells(charts.meter(text(("a", 1.0), ("b", 0.24)))) == [["style meter", "", "+0.62 nats per character"]]
    assert 'class="bar more"' in charts.meter(text(("a", 1.5)))
    assert 'class="bar less" style="--share: 0.5000"' in charts.meter(text(("a", -1.5)))
    assert "−1.50" in charts.meter(text(("a", -1.5)))


def test_of_a_mix_each_voice_has_its_own(letter, cells):
    found = cells(charts.meter(ComparedText({"a": 0.5, "b": 1.0}, [letter("x", 0.5), letter("y", -0.1)])))
    assert found[0] == ["style meter", "", "+0.20 nats per character"]
    assert found[1:] == [["a only", "", "+0.20 nats per character"], ["b only", "", "+0.40 nats per character"]]


def test_without_voices_the_meter_is_zero_and_without_characters_there_is_none(letter, cells):
    assert cells(charts.meter(ComparedText({}, [letter("x")]))) == [["style meter", "", "0.00 nats per character"]]
    assert charts.meter(ComparedText({}, [])) == charts.next_characters(ComparedText({}, [])) == ""


def test_the_likeliest_of_both_are_shown_with_both_probabilities(cells):
    found = cells(charts.next_characters(place({"e": 0.6, " ": 0.2}, {"\n": 0.7, "<": 0.1}), count=4))
    assert found[0] == ["next", "base", "voices"]
    assert [row[0].split()[0] for row in found[1:3]] == ["e", "␣"]
    assert {row[0] for row in found[3:]} == {"⏎", "<"}
    assert found[1] == ["e chosen", "0.1%", "60.0%"]
    assert ["⏎", "70.0%", "0.1%"] in found


def test_ten_characters_are_shown_and_what_stands_before(cells):
    html = charts.next_characters(place({"e": 0.6}, {"e": 0.25}))
    assert 'class="bar less" style="--share: 0.2500"' in html
    assert 'class="bar more" style="--share: 0.6000"' in html
    assert len(cells(html)) == 11
    assert "after “…W”" in html


@pytest.mark.parametrize(
    ("token", "shown"), [(97, "a"), (32, "␣"), (10, "⏎"), (60, "&lt;"), (38, "&amp;"), (0, "0x00"), (226, "0xE2")]
)
def test_every_byte_can_be_shown(token, shown):
    assert charts.character(token) == shown
