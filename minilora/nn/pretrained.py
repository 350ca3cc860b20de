"""Read and write model folders in Hugging Face's layout: config.json and model.safetensors.

AutoModelForCausalLM in transformers can load the folders that minilora writes, and `Llama.from_pretrained` can load
Llama models saved with transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from minilora.backend import Array, to_host
from minilora.files import read_json, read_tensors, write_json, write_tensors
from minilora.nn.config import LlamaConfig

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
GENERATION = "generation_config.json"


def read(folder: str | Path) -> tuple[LlamaConfig, dict[str, Array]]:
    """Return the config of a model folder and its parameters by name.

    Raises ValueError if a file is missing or invalid, or the config requires a feature that minilora does not have.
    """
    folder = Path(folder)
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise ValueError(f"{folder} contains an adapter; load its base model, then the adapter with lora.load_adapter")
    if not folder.exists():
        raise ValueError(f"there is no folder {folder}; models from the Hugging Face Hub must be downloaded first")
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} is not a model folder: expected it to contain config.json and {WEIGHTS}")
    values = read_json(folder / "config.json")
    if (folder / GENERATION).is_file():  # if present, its token ids take precedence
        values |= {k: v for k, v in read_json(folder / GENERATION).items() if k in ("bos_token_id", "eos_token_id")}
    config = LlamaConfig.from_dict(values)
    tensors = _read_weights(folder)
    if config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)  # some files store the shared weight twice
    return config, {name: a for name, a in tensors.items() if not name.endswith("rotary_emb.inv_freq")}


def write(folder: str | Path, config: LlamaConfig, tensors: Mapping[str, Array], dtype: str = "float32") -> None:
    """Write a model folder, with the weights as float32 or float16."""
    if dtype not in ("float32", "float16"):
        raise ValueError(f"expected dtype 'float32' or 'float16', got {dtype!r}")
    folder = Path(folder)
    write_tensors(folder / WEIGHTS, {name: to_host(array).astype(dtype) for name, array in tensors.items()})
    write_json(folder / "config.json", {**config.to_dict(), "dtype": dtype, "torch_dtype": dtype})


def _read_weights(folder: Path) -> dict[str, Array]:
    """Read all tensors of a folder, from one file or from the shards listed in an index."""
    if (folder / WEIGHTS).is_file() or not (folder / INDEX).is_file():
        return read_tensors(folder / WEIGHTS)
    index = read_json(folder / INDEX).get("weight_map", {})
    tensors: dict[str, Array] = {}
    for shard in sorted(set(index.values())):
        if Path(shard).name != shard:
            raise ValueError(f"{folder / INDEX} refers to a file outside its folder: {shard!r}")
        tensors.update(read_tensors(folder / shard))
    return tensors
