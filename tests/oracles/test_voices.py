"""The packaged voices give the same logits in PEFT, on the packaged base loaded by transformers."""

import numpy as np
import pytest

from minilora.assets import BASE
from minilora.data import ByteTokenizer
from minilora.voices import NAMES, attach, voice_folder

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.oracle


@pytest.fixture(scope="module")
def both():
    """The base with all voices, here and in PEFT."""
    base = transformers.AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    first, *others = NAMES
    theirs = peft.PeftModel.from_pretrained(base, voice_folder(first), adapter_name=first)
    for name in others:
        theirs.load_adapter(voice_folder(name), name)
    return attach(), theirs.eval()


def text_ids():
    return ByteTokenizer().encode("The king spake, and the people of this Nation heard def run(self):\n\n- 2 eggs\n")[
        None
    ]


@pytest.mark.parametrize("name", NAMES)
def test_a_voice_gives_the_same_logits_in_peft(name, both, their_logits, off_by):
    ours, theirs = both
    theirs.set_adapter(name)
    found = their_logits(theirs, text_ids())
    assert off_by(ours(text_ids(), adapters=name).data, found) < 2e-6
    with theirs.disable_adapter():
        base = their_logits(theirs, text_ids())
    assert off_by(ours(text_ids()).data, base) < 2e-6
    assert off_by(found, base) > 0.05


def test_the_tokens_are_the_same():
    tokenizer = transformers.AutoTokenizer.from_pretrained(BASE)
    text = "The king — and I"
    np.testing.assert_array_equal(tokenizer(text)["input_ids"], ByteTokenizer().encode(text))
