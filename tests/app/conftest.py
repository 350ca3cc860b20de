"""Fixtures for the app without a browser or Gradio: the packaged model, a session, and texts."""

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
    """The packaged base with the packaged voices, which all browsers share."""
    return attach()


@pytest.fixture
def session(tmp_path):
    session = Session(tmp_path)
    yield session
    session.close()


@pytest.fixture
def teach():
    """teach(session, name, like): add a copy of a packaged voice to the session, instead of training one."""

    def give(session, name, like="python"):
        shutil.copytree(voice_folder(like), session.folder(name))
        session.add(name)

    return give


@pytest.fixture(scope="session")
def cells():
    """cells(html): the text of each cell of a table, row by row."""
    return lambda html: [
        [unescape(re.sub("<[^>]*>", "", cell)).strip() for cell in re.findall("<t[hd].*?</t[hd]>", row)]
        for row in re.findall("<tr.*?</tr>", html)
    ]


@pytest.fixture(scope="session")
def recipes():
    """A text that is long enough to train a voice on."""
    return pastiche.write("recipe", 4000)


@pytest.fixture
def letter():
    """letter(text, ratio): a ComparedToken with this text and log-ratio; its other fields do not matter."""
    flat = np.full(256, -np.log(256))
    return lambda text, ratio=0.0: ComparedToken(
        ord(text[-1:] or "\0") % 256, text, ratio, {"a": ratio, "b": 2 * ratio}, flat, flat
    )


@pytest.fixture
def text(letter):
    """text(("a", 0.5), ("b", -1.0)): a ComparedText of these characters and log-ratios, by one voice at strength 1."""
    return lambda *pairs: ComparedText({"a": 1.0}, [letter(*pair) for pair in pairs])
