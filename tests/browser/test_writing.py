"""In the browser: what stands there is what the models write, by mouse, by keyboard and on a phone."""

import pytest

from minilora.assets import BASE
from minilora.generation import Sampler, write
from minilora.nn import Llama
from minilora.voices import attach

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def expected():
    """expected(adapters, ...): what the model writes that has every packaged voice."""
    model = attach()
    return lambda adapters, seed=0, tokens=200: write(model, "The king ", tokens, Sampler(0.8), seed, adapters)


def test_strength_zero_is_the_base(visit):
    visitor = visit()
    visitor.strength("shakespeare").fill("0")
    base, voices = visitor.write()
    assert base == voices == write(Llama.from_pretrained(BASE), "The king ", 200, Sampler(0.8), 0)
    assert visitor.page.locator(".written span").count() == 0  # no color anywhere


def test_a_slider_changes_the_text_and_the_same_seed_repeats_it(visit, expected):
    visitor = visit()
    _, first = visitor.write()
    visitor.begin(lambda: visitor.strength("python").fill("0.5"))
    visitor.strength("python").press("Tab")  # leaving the field writes anew, as letting go of the slider does
    base, mixed = visitor.finished(200)
    assert mixed == expected({"shakespeare": 1.0, "python": 0.5}) != first
    assert base == expected(None)
    visitor.strength("python").fill("0")
    assert visitor.write()[1] == first
    visitor.say("Seed", 5)
    assert visitor.write(seed=5) == [expected(None, 5), expected("shakespeare", 5)]


def test_a_slider_that_is_let_go_writes(visit, expected):
    visitor = visit()
    visitor.write()
    slider = visitor.page.get_by_label("range slider for recipe", exact=True)
    box = slider.bounding_box()
    visitor.begin(lambda: visitor.page.mouse.click(box["x"] + 0.9 * box["width"], box["y"] + box["height"] / 2))
    _, mixed = visitor.finished(200)
    strength = float(visitor.strength("recipe").input_value())
    assert strength > 1
    assert mixed == expected({"shakespeare": 1.0, "recipe": strength})


def test_the_meters_and_the_next_characters(visit):
    visitor = visit()
    visitor.write()
    assert visitor.page.locator("table.meter tr").count() == 1
    assert visitor.page.locator("table.next tbody tr").count() == 10
    visitor.strength("recipe").fill("0.5")
    visitor.write()
    rows = visitor.page.locator("table.meter tr").all_inner_texts()
    assert [row.split("\t")[0] for row in rows] == ["style meter", "shakespeare only", "recipe only"]
    assert all("nats per character" in row for row in rows)


def test_what_is_typed_is_shown_and_not_obeyed(visit):
    visitor, evil = visit(), "<img src=x onerror=alert(1)>${1+1}{{1+1}}</p><h1>"
    visitor.say("Prompt", evil)
    visitor.write()
    assert visitor.page.locator(".panel .prompt").all_text_contents() == [evil, evil]
    assert visitor.page.locator("#texts img").count() == 0


def rests(visitor):
    """How many characters there are when no more come: each field that was left has begun another text."""
    before, shown = "", None
    while shown != before:
        visitor.page.wait_for_timeout(1500)
        before, shown = shown, visitor.page.inner_text("#status")
    return int(shown.split()[0])


def test_stop(visit):
    visitor = visit()
    visitor.say("number input for Length", 400)
    for name in ("scripture", "fairytale", "python", "recipe"):
        visitor.strength(name).fill("0.1")  # each is one more text to read along, so it takes longer
    visitor.write(400)
    assert rests(visitor) == 400
    visitor.begin()
    visitor.page.wait_for_function("/^[1-9]?[0-9] of 400/.test(document.querySelector('#status').innerText)")
    visitor.page.click("#stop-writing")
    assert rests(visitor) < 400
    visitor.write(400)  # and it can be written again, to the end


@pytest.mark.parametrize("field", ["recipe", "Length"])
def test_an_emptied_field_is_said(visit, field):
    visitor = visit()
    visitor.page.get_by_label(f"number input for {field}", exact=True).fill("")
    visitor.page.get_by_label("Prompt", exact=True).press("Enter")
    visitor.page.wait_for_selector("#status .problem")
    assert "must be a number from" in visitor.problem()


@pytest.mark.parametrize(
    ("label", "value", "message"),
    [
        ("Prompt", "é" * 101, "has 202 bytes; the limit is 200"),
        ("Seed", "1.5", "whole number"),
    ],
)
def test_limits_are_said_in_the_page(visit, label, value, message):
    visitor = visit()
    visitor.say(label, value)
    visitor.page.click("#write")
    visitor.page.wait_for_selector("#status .problem")
    assert message in visitor.problem()
    visitor.say("Prompt", "The king ")
    visitor.say("Seed", 0)
    visitor.write()  # and afterwards all is well
    assert visitor.page.locator("#status .problem").count() == 0


def tab_to(page, there):
    """Press Tab until the element that `there` selects has the focus, and shows it."""
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("there => document.activeElement.matches(there)", there):
            style = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert style != "none", "the focus cannot be seen"
            return
    raise AssertionError(f"{there} cannot be reached by Tab")


def test_by_keyboard_alone(visit, expected):
    visitor = visit()
    page = visitor.page
    tab_to(page, "#prompt input, #prompt textarea")
    page.keyboard.press("Control+A")
    page.keyboard.type("The king ")
    visitor.begin(lambda: page.keyboard.press("Enter"))
    assert visitor.finished(200) == [expected(None), expected("shakespeare")]
    visitor.begin(lambda: tab_to(page, "#voice0 input[type=range]"))
    visitor.finished(200)  # leaving the number beside the slider wrote the same text again
    for _ in range(4):
        page.keyboard.press("ArrowLeft")
    assert visitor.strength("shakespeare").input_value() == "0.8"
    page.focus("#prompt input, #prompt textarea")
    tab_to(page, "#write")
    visitor.begin(lambda: page.keyboard.press("Enter"))
    assert visitor.finished(200)[1] == expected({"shakespeare": 0.8})


@pytest.mark.parametrize("tab", ["Generate", "Train a new voice", "Look inside"])
def test_on_a_phone(visit, tab):
    visitor = visit(width=375, height=700)
    visitor.write()
    visitor.open(tab)
    field = {"Generate": "#seed input", "Train a new voice": "#learn", "Look inside": "#merge"}[tab]
    visitor.page.locator(field).click()
    assert visitor.page.evaluate("document.scrollingElement.scrollWidth") <= 375
    assert visitor.overflow() == []
    box = visitor.page.locator(field).bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 375


def test_look_inside(visit):
    visitor = visit()
    visitor.open("Look inside")
    assert "175,104" in visitor.page.locator("table.parameters").inner_text()
    visitor.page.click("#merge")
    assert "bit-for-bit identical" in visitor.page.locator("table.merging").inner_text()
    visitor.page.get_by_label("Voice", exact=True).click()
    visitor.page.get_by_role("option", name="python").click()
    visitor.page.wait_for_selector("table.merging", state="detached")  # it was another voice's
    visitor.page.click("#merge")
    assert "bit-for-bit identical" in visitor.page.locator("table.merging").inner_text()
