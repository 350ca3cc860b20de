"""The tokenizer: a token is a byte of UTF-8, so there are 256 of them and nothing is ever unknown.

Encoding is `text.encode("utf-8")`, which loses nothing and needs no training. What is left for this file is
to check its input, to decode a text while it is still being generated, and to save itself in the form that
Hugging Face's `tokenizers` and `transformers` open. Read `batches.py` next.
"""

from __future__ import annotations

import codecs
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from minilora.files import read_json, write_json

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
# The parts of tokenizer.json that decide which ids a text has; padding and truncation are the caller's.
DECISIVE = ("model", "normalizer", "pre_tokenizer", "post_processor", "decoder", "added_tokens")


class ByteTokenizer:
    """Text to the ids of its UTF-8 bytes and back: `decode(encode(text)) == text` for every text."""

    vocab_size = 256

    def encode(self, text: str) -> np.ndarray:
        """The ids of `text`, shape (bytes,), int64 as every index in minilora.

        Raises ValueError for a lone surrogate (half of a UTF-16 pair), which is no character.
        """
        try:
            data = text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(
                f"expected text, found the lone surrogate U+{ord(text[error.start]):04X} at character "
                f"{error.start}, which UTF-8 cannot hold; replace it before encoding"
            ) from None
        return np.frombuffer(data, dtype=np.uint8).astype(np.int64)

    def decode(self, ids: ArrayLike, errors: str = "replace") -> str:
        """The text of one sequence of ids, shape (bytes,).

        A cut character becomes U+FFFD; `errors="strict"` raises UnicodeDecodeError instead. Raises ValueError
        for anything but one sequence of integers from 0 to 255.
        """
        array = np.asarray(ids)
        if array.ndim != 1:
            raise ValueError(f"expected one sequence of ids, found shape {array.shape}; decode row by row")
        if array.size == 0:
            return ""
        if not np.issubdtype(array.dtype, np.integer):
            raise ValueError(f"expected integer ids, found {array.dtype}; convert them before decoding")
        if array.min() < 0 or array.max() >= self.vocab_size:
            raise ValueError(
                f"expected ids from 0 to 255, found {array.min()} to {array.max()}; these come from another tokenizer"
            )
        return array.astype(np.uint8).tobytes().decode("utf-8", errors)

    def stream(self, errors: str = "replace") -> codecs.IncrementalDecoder:
        """A decoder for a text that arrives byte by byte: it holds back a character until it is whole.

        `piece = decoder.decode(bytes([id]))` for each id, and `decoder.decode(b"", final=True)` at the end.
        """
        return codecs.getincrementaldecoder("utf-8")(errors)

    def save(self, folder: str | Path) -> Path:
        """Write the two files from which `transformers.AutoTokenizer` makes this tokenizer."""
        write_json(Path(folder) / TOKENIZER_FILE, _description())
        # Next to a Llama's config.json, transformers 4 would take Llama's own class and its special tokens.
        write_json(Path(folder) / CONFIG_FILE, {"tokenizer_class": "PreTrainedTokenizerFast"})
        return Path(folder)

    @classmethod
    def load(cls, folder: str | Path) -> ByteTokenizer:
        """The tokenizer of a saved folder; ValueError unless it is this byte-level one."""
        path = Path(folder) / TOKENIZER_FILE
        found = read_json(path)
        after = found.get("post_processor")
        if isinstance(after, dict) and after.get("special_tokens") == {}:
            found["post_processor"] = None  # transformers saves a template that adds no token
        expected = _description()
        for key in DECISIVE:
            if found.get(key) != expected[key]:
                raise ValueError(
                    f"{path} is another tokenizer: minilora reads its own, whose 256 tokens are the bytes, "
                    f"and here {_differs(key, found)}; train or choose a byte-level model"
                )
        return cls()


def byte_characters() -> list[str]:
    """The printable character that stands for each byte in a tokenizer file, as GPT-2 chose them.

    The file is JSON, whose strings hold characters, and a byte such as 0x00 or 0xFF alone is none. So the 188
    bytes that are visible Latin-1 characters stand for themselves, and the others, in order, take the
    characters from U+0100 on: byte 32, the space, is the well-known Ġ.
    """
    visible = {*range(33, 127), *range(161, 173), *range(174, 256)}
    spare = count(256)
    return [chr(byte if byte in visible else next(spare)) for byte in range(256)]


def _description() -> dict[str, Any]:
    """`tokenizer.json`: byte-pair encoding that merges no pair, so every byte remains a token of its own."""
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
    """What a foreign file has under `key`, in a few words: a vocabulary is too long to show."""
    value = found.get(key)
    if key == "model" and isinstance(value, dict):
        tokens, merges = len(value.get("vocab") or ()), len(value.get("merges") or ())
        return f"the model is {value.get('type')} with {tokens:,} tokens and {merges:,} merges"
    return f"{key} is {str(value)[:80]}"
