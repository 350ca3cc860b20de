"""The app without a browser and without Gradio: the packaged model, a session of its own, and a text to learn from."""

import re
import shutil
from html import unescape

import numpy as np
import pytest

from minilora.app.session import Session
from minilora.data import pastiche
from minilora.voices import ComparedText, ComparedToken, attach, voice_folder


@pytest.fixture(scope="session")
def model():
    """The packaged base with the packaged voices, as the app's browsers share it."""
    return attach()


@pytest.fixture
def session(tmp_path):
    session = Session(tmp_path)
    yield session
    session.close()


@pytest.fixture
def teach():
    """teach(session, name, like): give the session a voice without waiting for one to learn."""

    def give(session, name, like="python"):
        shutil.copytree(voice_folder(like), session.folder(name))
        session.add(name)

    return give


@pytest.fixture(scope="session")
def cells():
    """cells(html): a table's texts, row by row."""
    return lambda html: [
        [unescape(re.sub("<[^>]*>", "", cell)).strip() for cell in re.findall("<t[hd].*?</t[hd]>", row)]
        for row in re.findall("<tr.*?</tr>", html)
    ]


@pytest.fixture(scope="session")
def recipes():
    """A text that is long enough to learn from."""
    return pastiche.write("recipe", 4000)


@pytest.fixture
def letter():
    """letter(text, ratio): one of a text, of which the other fields do not matter."""
    flat = np.full(256, -np.log(256))
    return lambda text, ratio=0.0: ComparedToken(
        ord(text[-1:] or "\0") % 256, text, ratio, {"a": ratio, "b": 2 * ratio}, flat, flat
    )


@pytest.fixture
def text(letter):
    """text(("a", 0.5), ("b", -1.0)): a ComparedText of these characters and ratios, by one voice at strength 1."""
    return lambda *pairs: ComparedText({"a": 1.0}, [letter(*pair) for pair in pairs])
