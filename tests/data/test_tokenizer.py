"""The byte-level tokenizer: lossless for any text, and compatible with Hugging Face's tokenizers."""

import json

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from minilora.data.tokenizer import ByteTokenizer, byte_characters

TOKENIZER = ByteTokenizer()
AWKWARD = "naïve 🦙👩‍👩‍👧 \x00\x01\x1b\x7f \r\n\t ́ ﬁ Ġ ﷽ \u202e\ufffd\ufeff<|endoftext|> </s>  'll"
# All code points except surrogates, which are halves of characters and cannot be encoded.
texts = st.text(st.characters(exclude_categories=["Cs"])) | st.text(st.sampled_from(AWKWARD))


def test_ids_are_int64_and_the_callers_to_change():
    ids = TOKENIZER.encode("abc")
    assert ids.dtype == TOKENIZER.encode("").dtype == np.int64
    ids[0] = 65
    assert TOKENIZER.decode(ids) == "Abc"
    assert TOKENIZER.decode([]) == ""


def test_a_lone_surrogate_is_named():
    with pytest.raises(ValueError, match=r"U\+DFFF at character 2\b"):
        TOKENIZER.encode("ab\udfff")


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
        ([[65, 66]], r"shape \(1, 2\)"),
    ],
)
def test_invalid_ids_are_refused(ids, message):
    with pytest.raises(ValueError, match=message):
        TOKENIZER.decode(ids)


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
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"  # required only by transformers 4
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
        (set_entry([["a", "b"]], "model", "merges"), "BPE with 256 tokens and 1 merges"),
        (set_entry(66, "model", "vocab", "A"), "the model is BPE"),
        (set_entry(True, "pre_tokenizer", "add_prefix_space"), "pre_tokenizer is"),
        (set_entry("nothing", "model"), "model is nothing"),
        (set_entry({"special_tokens": {"<s>": {}}}, "post_processor"), "post_processor is .*<s>"),
        (set_entry(["<s>"], "post_processor"), "post_processor is .*<s>"),
    ],
)
def test_another_tokenizer_is_refused(tmp_path, change, message):
    with pytest.raises(ValueError, match=r"tokenizer\.json does not exist"):
        ByteTokenizer.load(tmp_path)
    path = TOKENIZER.save(tmp_path) / "tokenizer.json"
    description = json.loads(path.read_text(encoding="utf-8"))
    change(description)
    path.write_text(json.dumps(description), encoding="utf-8")
    with pytest.raises(ValueError, match=message) as error:
        ByteTokenizer.load(tmp_path)
    assert str(path) in str(error.value)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with the saved tokenizer and the config of a Llama, like a model folder."""
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


def test_tokenizers_writes_a_file_that_loads(rust, tmp_path):
    assert rust.get_vocab_size(with_added_tokens=True) == ByteTokenizer.vocab_size
    rust.save(str(tmp_path / "tokenizer.json"))
    ByteTokenizer.load(tmp_path)


@pytest.mark.oracle
def test_transformers_gives_the_same_ids_and_text_and_saves_a_folder_that_loads(saved, tmp_path):
    auto = pytest.importorskip("transformers").AutoTokenizer.from_pretrained(str(saved))
    for text in (AWKWARD, " , . ? ! do n't  's"):
        ids = auto(text)["input_ids"]
        assert ids == TOKENIZER.encode(text).tolist()
        assert auto.decode(ids) == text
    auto.save_pretrained(tmp_path)
    assert len(auto) == ByteTokenizer.vocab_size
    ByteTokenizer.load(tmp_path)
