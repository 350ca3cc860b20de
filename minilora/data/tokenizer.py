"""The tokenizer: each token is a UTF-8 byte, so there are 256 tokens and no unknown token.

Encoding is `text.encode("utf-8")`, which is lossless and needs no training. This file also checks inputs, decodes
text while it is generated, and saves the tokenizer in the format of Hugging Face's `tokenizers` and `transformers`.
Read `batches.py` next.
"""

from __future__ import annotations

import codecs
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from minilora.files import read_json, write_json
from minilora.messages import expect

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
# The parts of tokenizer.json that determine the ids of a text. Padding and truncation are up to the caller.
DECISIVE = ("model", "normalizer", "pre_tokenizer", "post_processor", "decoder", "added_tokens")


class ByteTokenizer:
    """Converts text to the ids of its UTF-8 bytes and back: `decode(encode(text)) == text` for every text."""

    vocab_size = 256

    def __repr__(self) -> str:
        return "ByteTokenizer()"

    def encode(self, text: str) -> np.ndarray:
        """The ids of `text`, shape (bytes,), in int64 like all indices in minilora.

        Raises ValueError for a lone surrogate (half of a UTF-16 pair), which is not a character.
        """
        expect(text, str, "the text to be a str")
        try:
            data = text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(
                f"expected text, found the lone surrogate U+{ord(text[error.start]):04X} at character "
                f"{error.start}, which UTF-8 cannot encode; replace it before encoding"
            ) from None
        return np.frombuffer(data, dtype=np.uint8).astype(np.int64)

    def decode(self, ids: ArrayLike, errors: str = "replace") -> str:
        """The text of one sequence of ids, shape (bytes,).

        Invalid or incomplete UTF-8 becomes U+FFFD; with `errors="strict"`, it raises UnicodeDecodeError. Raises
        ValueError unless `ids` is one sequence of integers from 0 to 255.
        """
        array = np.asarray(ids)
        if array.ndim != 1:
            raise ValueError(f"expected one sequence of ids, found shape {array.shape}; decode each row separately")
        if array.size == 0:
            return ""
        if not np.issubdtype(array.dtype, np.integer):
            raise ValueError(f"expected integer ids, found {array.dtype}; convert them before decoding")
        if array.min() < 0 or array.max() >= self.vocab_size:
            raise ValueError(
                f"expected ids from 0 to 255, found {array.min()} to {array.max()}; "
                "these come from a different tokenizer"
            )
        return array.astype(np.uint8).tobytes().decode("utf-8", errors)

    def stream(self, errors: str = "replace") -> codecs.IncrementalDecoder:
        """An incremental decoder, which returns each character when all of its bytes have been decoded.

        Call `piece = decoder.decode(bytes([id]))` for each id, and `decoder.decode(b"", final=True)` at the end.
        """
        return codecs.getincrementaldecoder("utf-8")(errors)

    def save(self, folder: str | Path) -> Path:
        """Save the two files from which `transformers.AutoTokenizer` loads this tokenizer."""
        write_json(Path(folder) / TOKENIZER_FILE, _description())
        # Otherwise, next to a Llama's config.json, transformers 4 would use Llama's tokenizer class and special tokens.
        write_json(Path(folder) / CONFIG_FILE, {"tokenizer_class": "PreTrainedTokenizerFast"})
        return Path(folder)

    @classmethod
    def load(cls, folder: str | Path) -> ByteTokenizer:
        """Load the tokenizer in a folder. Raises ValueError if it is not this byte-level tokenizer."""
        path = Path(folder) / TOKENIZER_FILE
        found = read_json(path)
        after = found.get("post_processor")
        if isinstance(after, dict) and after.get("special_tokens") == {}:
            found["post_processor"] = None  # transformers saves a template that adds no token
        expected = _description()
        for key in DECISIVE:
            if found.get(key) != expected[key]:
                raise ValueError(
                    f"{path} is a different tokenizer: expected minilora's own, with the 256 bytes as tokens, "
                    f"but {_differs(key, found)}; train or choose a byte-level model"
                )
        return cls()


def byte_characters() -> list[str]:
    """The printable character that stands for each byte in a tokenizer file, as in GPT-2.

    The file is JSON with strings of characters, and a single byte such as 0x00 or 0xFF is not a printable character.
    The 188 bytes that are visible Latin-1 characters stand for themselves. The others, in order, are mapped to the
    characters from U+0100 on: byte 32, the space, becomes the well-known Ġ.
    """
    visible = {*range(33, 127), *range(161, 173), *range(174, 256)}
    spare = count(256)
    return [chr(byte if byte in visible else next(spare)) for byte in range(256)]


def _description() -> dict[str, Any]:
    """The content of `tokenizer.json`: byte-pair encoding without merges, so every byte is a token."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    model: dict[str, Any] = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": {character: byte for byte, character in enumerate(byte_characters())},
        "merges": [],
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": model,
    }


def _differs(key: str, found: dict[str, Any]) -> str:
    """Describe briefly the value of `key` in the file; a vocabulary is too long to show."""
    value = found.get(key)
    if key == "model" and isinstance(value, dict):
        tokens, merges = len(value.get("vocab") or ()), len(value.get("merges") or ())
        return f"the model is {value.get('type')} with {tokens:,} tokens and {merges:,} merges"
    return f"{key} is {str(value)[:80]}"
