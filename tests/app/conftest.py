"""The app without a browser and without Gradio: the packaged model, a session of its own, and a text to learn from."""

import numpy as np
import pytest

from minilora.app.session import Session
from minilora.data import pastiche
from minilora.voices import Letter, Text, attach


@pytest.fixture(scope="session")
def model():
    """The packaged base with the packaged voices, as the app's browsers share it."""
    return attach()


@pytest.fixture
def session(tmp_path):
    session = Session(tmp_path)
    yield session
    session.close()


@pytest.fixture(scope="session")
def recipes():
    """A text that is long enough to learn from."""
    return pastiche.write("recipe", 4000)


@pytest.fixture
def letter():
    """letter(text, ratio): one of a text, of which the other fields do not matter."""
    flat = np.full(256, -np.log(256))
    return lambda text, ratio=0.0: Letter(
        ord(text[-1:] or "\0") % 256, text, ratio, {"a": ratio, "b": 2 * ratio}, flat, flat
    )


@pytest.fixture
def text(letter):
    """text(("a", 0.5), ("b", -1.0)): a Text of these characters and ratios, by one voice at strength 1."""
    return lambda *pairs: Text({"a": 1.0}, [letter(*pair) for pair in pairs])
