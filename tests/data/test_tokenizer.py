"""The byte-level tokenizer: lossless on any text, and the same in Hugging Face's hands."""

import json

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from minilora.data.tokenizer import ByteTokenizer, byte_characters

TOKENIZER = ByteTokenizer()
AWKWARD = "naïve 🦙👩‍👩‍👧 \x00\x01\x1b\x7f \r\n\t ́ ﬁ Ġ ﷽ \u202e\ufffd\ufeff<|endoftext|> </s>  'll"
# Every code point but the surrogates, which are halves of characters and not text.
texts = st.text(st.characters(exclude_categories=["Cs"])) | st.text(st.sampled_from(AWKWARD))


@given(texts)
@example(AWKWARD)
@example("")
def test_ids_are_the_utf8_bytes_and_decode_back(text):
    ids = TOKENIZER.encode(text)
    assert ids.dtype == np.int64
    assert bytes(ids.tolist()) == text.encode()
    assert TOKENIZER.decode(ids) == text
    assert TOKENIZER.decode(ids.tolist(), errors="strict") == text


def test_the_ids_are_the_callers_to_change():
    ids = TOKENIZER.encode("abc")
    ids[0] = 65
    assert TOKENIZER.decode(ids) == "Abc"


@pytest.mark.parametrize("text", ["\ud800", "ab\udfff"])
def test_a_lone_surrogate_is_named(text):
    with pytest.raises(ValueError, match=rf"U\+{ord(text[-1]):04X} at character {len(text) - 1}\b"):
        TOKENIZER.encode(text)


@given(st.binary())
def test_any_bytes_decode_and_strict_refuses_what_is_not_text(data):
    ids = list(data)
    assert TOKENIZER.decode(ids) == data.decode(errors="replace")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        with pytest.raises(UnicodeDecodeError):
            TOKENIZER.decode(ids, errors="strict")
    else:
        assert TOKENIZER.decode(ids, errors="strict") == text


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([256], "0 to 255, found 256"),
        ([65, -1], "0 to 255, found -1"),
        ([0.0], "integer ids, found float64"),
        ([True], "integer ids, found bool"),
        ([[65, 66]], r"shape \(1, 2\)"),
        (65, r"shape \(\)"),
    ],
)
def test_ids_that_are_none_are_refused(ids, message):
    with pytest.raises(ValueError, match=message):
        TOKENIZER.decode(ids)


@given(st.binary() | texts.map(str.encode))
def test_streaming_gives_the_same_text_as_decoding_at_once(data):
    decoder = TOKENIZER.stream()
    pieces = [decoder.decode(bytes([byte])) for byte in data]
    assert "".join(pieces) + decoder.decode(b"", final=True) == TOKENIZER.decode(list(data))


def test_streaming_holds_back_a_character_until_it_is_whole():
    decoder = TOKENIZER.stream()
    assert [decoder.decode(bytes([byte])) for byte in "🦙".encode()] == ["", "", "", "🦙"]


def test_byte_characters_are_256_printable_ones():
    characters = byte_characters()
    assert len(set(characters)) == 256
    assert all(character.isprintable() and not character.isspace() for character in characters)
    assert characters[ord("A")] == "A"
    assert characters[ord(" ")] == "Ġ"
    assert characters[ord("\n")] == "Ċ"


def test_save_and_load(tmp_path):
    folder = TOKENIZER.save(tmp_path / "new" / "model")
    assert sorted(path.name for path in folder.iterdir()) == ["tokenizer.json", "tokenizer_config.json"]
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"  # which only transformers 4 insists on
    assert ByteTokenizer.load(folder).decode(TOKENIZER.encode(AWKWARD)) == AWKWARD


def set_entry(value, *keys):
    def change(description):
        for key in keys[:-1]:
            description = description[key]
        description[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_entry({"type": "NFKC"}, "normalizer"), "normalizer is .*NFKC"),
        (set_entry([{"id": 256, "content": "<s>"}], "added_tokens"), "added_tokens is .*<s>"),
        (set_entry([["a", "b"]], "model", "merges"), "256 tokens and 1 merges"),
        (set_entry({"a": 0}, "model", "vocab"), "BPE with 1 tokens"),
        (set_entry(66, "model", "vocab", "A"), "the model is BPE"),
        (set_entry("WordPiece", "model", "type"), "the model is WordPiece"),
        (set_entry(True, "pre_tokenizer", "add_prefix_space"), "pre_tokenizer is"),
        (set_entry("nothing", "model"), "model is nothing"),
        (set_entry({"special_tokens": {"<s>": {}}}, "post_processor"), "post_processor is .*<s>"),
        (set_entry(["<s>"], "post_processor"), "post_processor is .*<s>"),
    ],
)
def test_another_tokenizer_is_refused(tmp_path, change, message):
    path = TOKENIZER.save(tmp_path) / "tokenizer.json"
    description = json.loads(path.read_text(encoding="utf-8"))
    change(description)
    path.write_text(json.dumps(description), encoding="utf-8")
    with pytest.raises(ValueError, match=message) as error:
        ByteTokenizer.load(tmp_path)
    assert str(path) in str(error.value)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"tokenizer\.json does not exist"):
        ByteTokenizer.load(tmp_path)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A saved folder, with a Llama's config next to it as in a model folder."""
    folder = TOKENIZER.save(tmp_path_factory.mktemp("tokenizer"))
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 256}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def rust(saved):
    return pytest.importorskip("tokenizers").Tokenizer.from_file(str(saved / "tokenizer.json"))


@settings(deadline=None)
@given(text=texts)
@example(text=AWKWARD)
def test_tokenizers_gives_the_same_ids_and_text(rust, text):
    ids = rust.encode(text).ids
    assert ids == TOKENIZER.encode(text).tolist()
    assert rust.decode(ids) == text
    assert rust.decode(ids, skip_special_tokens=False) == text


def test_tokenizers_knows_256_tokens_and_writes_a_file_that_loads(rust, tmp_path):
    assert rust.get_vocab_size(with_added_tokens=True) == ByteTokenizer.vocab_size
    assert rust.encode("x" * 10_000 + "\n").ids == [120] * 10_000 + [10]
    rust.save(str(tmp_path / "tokenizer.json"))
    ByteTokenizer.load(tmp_path)


@pytest.fixture(scope="module")
def auto(saved):
    return pytest.importorskip("transformers").AutoTokenizer.from_pretrained(str(saved))


@pytest.mark.oracle
@settings(deadline=None)
@given(text=texts)
@example(text=AWKWARD)
@example(text=" , . ? ! do n't  's")
def test_transformers_gives_the_same_ids_and_text(auto, text):
    ids = auto(text)["input_ids"]
    assert ids == TOKENIZER.encode(text).tolist()
    assert auto.decode(ids) == text


@pytest.mark.oracle
def test_transformers_saves_a_folder_that_loads(auto, tmp_path):
    auto.save_pretrained(tmp_path)
    assert len(auto) == ByteTokenizer.vocab_size
    ByteTokenizer.load(tmp_path)
