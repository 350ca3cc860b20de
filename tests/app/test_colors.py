"""Colors: the correct sign and depth, escaped text, and enough contrast on every background."""

import re
from html import unescape
from importlib import resources

import pytest

from minilora.app import colors
from minilora.app.writing import PageRequest


def plain(html):
    return unescape(re.sub("<[^>]*>", "", html))


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [(0.49, None), (-0.49, None), (0.5, "more1"), (-0.5, "less1"), (1.6, "more2"), (3.0, "more3"), (-99.0, "less3")],
)
def test_the_color_says_who_expected_it_more(text, ratio, expected):
    html = colors.colored(text(("x", ratio)))
    assert html == (f'<span class="{expected}">x</span>' if expected else "x")


def test_neighbours_of_one_level_share_a_span_and_bytes_of_a_character_add_up(text):
    assert colors.colored(text(("", 1.0), ("é", -2.0), ("x", 0.1))) == '<span class="less1">é</span>x'
    html = colors.colored(text(("a", 0.6), ("b", 0.9), ("c", 0.0), ("d", -0.6)))
    assert html == '<span class="more1">ab</span>c<span class="less1">d</span>'


def test_nothing_written_is_obeyed_by_the_page(text):
    evil = "<script>alert('1')</script>&amp;\"{{x}}"
    request = PageRequest(evil, {"<b>": 1.0}, 0.8, 0, 10)
    html = colors.texts(request, text(*((c, 0.0) for c in evil)), text(*((c, 1.0) for c in evil)))
    assert "<script" not in html
    assert "<b>" not in html
    assert plain(html).count(evil) == 4


def test_control_characters_are_made_visible_and_lines_kept(text):
    assert colors.colored(text(("\x1b", 0.0), ("\n", 0.0), (" ", 0.0), ("\x00", 2.0))) == (
        '·\n <span class="more2">·</span>'
    )
    assert "a·b" in colors.texts(PageRequest("a\x07b", {}, 0.8, 0, 1), text(), text())


def test_the_title_names_the_voices_with_their_strengths(text):
    request = PageRequest("x", {"python": 1.0, "recipe": -0.35}, 0.8, 0, 1)
    assert "python × 1 + recipe × −0.35" in plain(colors.texts(request, text(), text()))


def test_the_legend_has_every_color_in_order_and_its_unit():
    order = re.findall("(?:more|less)[1-3]", colors.legend())
    assert order == ["less3", "less2", "less1", "more1", "more2", "more3"]
    assert "−3−1.5−0.50+0.5+1.5+3" in plain(colors.legend())
    assert "nats" in colors.legend()


@pytest.mark.parametrize(
    ("value", "style", "shown"),
    [(1.0, "g", "1"), (-0.5, "g", "−0.5"), (0.617, "+.2f", "+0.62"), (-0.001, "+.2f", "0.00"), (0.0, "+.2f", "0.00")],
)
def test_numbers(value, style, shown):
    assert colors.number(value, style) == shown


def luminance(rgb):
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (x / 255 for x in rgb)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(
    ("mode", "paper", "ink"), [(":root", (255, 255, 255), (41, 37, 36)), (".dark", (12, 10, 9), (245, 245, 244))]
)
@pytest.mark.parametrize("side", ["more", "less"])
def test_text_can_be_read_on_every_color(mode, paper, ink, side):
    """The contrast ratio is at least 4.5, which WCAG 2 requires for text of any size."""
    css = (resources.files("minilora.app") / "page.css").read_text()
    block = re.search(re.escape(mode) + r" \{(.*?)\}", css, re.S)[1]
    color = [int(n) for n in re.search(rf"--{side}: (\d+) (\d+) (\d+);", block).groups()]
    for level in (1, 2, 3):
        alpha = float(re.search(rf"\.{side}{level} \{{ background: rgb\(var\(--{side}\) / ([0-9.]+)\)", css)[1])
        ground = [alpha * c + (1 - alpha) * p for c, p in zip(color, paper, strict=True)]
        dark, light = sorted((luminance(ground), luminance(ink)))
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (side, level)
