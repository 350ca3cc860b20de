"""In the browser: a voice is trained, is available only in that browser, and can be downloaded."""

import zipfile

import pytest

from minilora import lora
from minilora.assets import BASE
from minilora.data import pastiche
from minilora.generation import Sampler, write
from minilora.nn import Llama
from minilora.voices import attach

pytestmark = pytest.mark.browser
RECIPES = pastiche.write("recipe", 5000)


def teach(visitor, name="cook", text=RECIPES):
    visitor.open("Train a new voice")
    visitor.say("Name of the voice", name)
    visitor.say("Training text", text)
    visitor.page.click("#learn")


def learned(visitor, name="cook"):
    """Wait until a voice has its slider."""
    visitor.page.wait_for_function(
        "name => document.querySelector('#learning').innerText.includes(name + ' now has a slider')", arg=name
    )
    visitor.open("Generate")
    visitor.strength(name).wait_for()


def take_home(visitor, folder):
    """Download the adapter and return its folder."""
    visitor.open("Train a new voice")
    with visitor.page.expect_download() as download:
        visitor.page.locator("a[download$='.zip']").first.click()
    download.value.save_as(folder / "voice.zip")
    with zipfile.ZipFile(folder / "voice.zip") as archive:
        archive.extractall(folder)
    return folder / download.value.suggested_filename.removesuffix(".zip")


def test_a_voice_is_trained_used_and_downloaded(visit, tmp_path):
    visitor = visit()
    teach(visitor)
    visitor.page.wait_for_selector("#curve canvas, #curve svg")
    learned(visitor)
    strengths = [visitor.strength(name).input_value() for name in ("shakespeare", "cook")]
    assert strengths == ["0", "1"]
    base, voices = visitor.write()
    model = Llama.from_pretrained(BASE)
    assert base == write(model, "The king ", 200, Sampler(0.8), 0)
    folder = take_home(visitor, tmp_path)
    lora.load_adapter(model, folder, "cook")
    assert voices == write(model, "The king ", 200, Sampler(0.8), 0) != base
    visitor.open("Look inside")
    visitor.page.get_by_label("Voice", exact=True).click()
    visitor.page.get_by_role("option", name="cook").click()
    visitor.page.click("#merge")
    assert "bit-for-bit identical" in visitor.page.locator("table.merging").inner_text()


def test_two_browsers_do_not_disturb_each_other(visit):
    owner, other = visit(), visit()
    teach(owner)
    model = attach()
    alone = write(model, "The king ", 400, Sampler(0.8), 0, adapters="shakespeare")
    other.say("number input for Length", 400)
    assert other.write(400)[1] == alone  # while the owner's voice is being trained
    learned(owner)
    assert owner.strength("cook").is_visible()
    assert other.strength("cook").count() == 0
    own = owner.write()[1]
    owner.say("number input for Length", 390)
    other.strength("shakespeare").fill("0.95")
    owner.begin()
    other.begin()
    assert owner.finished(390)[1][:200] == own
    assert other.finished(400)[1] == write(model, "The king ", 400, Sampler(0.8), 0, adapters={"shakespeare": 0.95})


def test_one_voice_is_trained_at_a_time(visit):
    first, second = visit(), visit()
    for visitor in (first, second):
        teach(visitor)
    for visitor in (first, second):
        learned(visitor)


def test_a_voice_is_forgotten_with_its_page(app, visit):
    def folders():
        return {file.parent for file in app.folder.glob("minilora-app-*/*/*/adapter_config.json")}

    before, visitor = folders(), visit()
    teach(visitor)
    learned(visitor)
    (own,) = folders() - before
    visitor.page.close()
    another = visit()
    another.page.wait_for_timeout(0)
    for _ in range(300):
        if not own.exists():
            break
        another.page.wait_for_timeout(200)
    assert not own.exists()


def test_stop_keeps_the_trained_voice(visit_patient):
    """Without the click on Stop, training would take longer than the timeout."""
    visitor = visit_patient()
    teach(visitor)
    visitor.page.wait_for_function("document.querySelector('#learning').innerText.startsWith('Step')")
    visitor.page.click("#stop-learning")
    learned(visitor)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("", RECIPES, "1 to 20 characters"),
        ("cook", "short", "at least 1,000 characters of training text; this text has 5"),
    ],
)
def test_limits_are_said_in_the_page(visit, name, text, message):
    visitor = visit()
    teach(visitor, name, text)
    visitor.page.wait_for_selector("#learning .problem")
    assert message in visitor.problem("learning")
    visitor.open("Generate")
    visitor.write()
    assert visitor.strength("shakespeare").input_value() == "1"  # no voice was added, so no slider moved


def choose(visitor, file):
    """Upload a file, replacing any previous one, and click Train."""
    clear = visitor.page.locator("#voice-file").get_by_label("Clear")
    if clear.count():
        clear.click()
    visitor.page.locator("#voice-file input[type=file]").set_input_files(file)
    visitor.page.locator("#voice-file").get_by_text(file.stem).first.wait_for()
    visitor.page.click("#learn")


def test_a_file_that_is_no_text_and_then_one_that_is(visit, tmp_path):
    visitor = visit()
    (tmp_path / "wrong.txt").write_bytes(b"\x89PNG\0" + bytes(4000))
    (tmp_path / "recipes.txt").write_text(RECIPES)
    visitor.open("Train a new voice")
    visitor.say("Name of the voice", "cook")
    choose(visitor, tmp_path / "wrong.txt")
    visitor.page.wait_for_selector("#learning .problem")
    assert "The file is empty, unreadable or not UTF-8 text" in visitor.problem("learning")
    choose(visitor, tmp_path / "recipes.txt")
    learned(visitor)
