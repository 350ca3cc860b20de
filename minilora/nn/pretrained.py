"""Model folders in Hugging Face's layout: config.json and model.safetensors, read and written.

What minilora writes opens with transformers' AutoModelForCausalLM, and a Llama from there opens here.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from minilora.autograd.tensor import Array
from minilora.backend import to_host
from minilora.files import read_json, read_tensors, write_json, write_tensors
from minilora.nn.config import LlamaConfig
from minilora.nn.llama import Llama

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def load(folder: str | Path) -> Llama:
    """Open a model folder. Weights of any floating-point type become float32.

    Raises ValueError when a file is missing or cut short, the config needs a feature that minilora does not have,
    or tensors are missing, unknown or of another shape.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} is no model folder: expected config.json and {WEIGHTS} in it")
    config = LlamaConfig.from_dict(read_json(folder / "config.json"))
    tensors = _read_weights(folder)
    if config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)  # some writers store the shared table twice
    tensors = {name: a for name, a in tensors.items() if not name.endswith("rotary_emb.inv_freq")}
    model = Llama(config, rng=None)
    try:
        model.load_state_dict(tensors)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None
    return model


def save(model: Llama, folder: str | Path, dtype: str = "float32") -> None:
    """Write the model as a folder, its weights as float32 or float16.

    Raises ValueError when the model holds parameters that the layout has no place for, such as adapters.
    """
    if dtype not in ("float32", "float16"):
        raise ValueError(f"expected dtype 'float32' or 'float16', got {dtype!r}")
    config = dataclasses.replace(model.config, tie_word_embeddings=model.tied)
    tensors = model.state_dict()
    plain = Llama(config, rng=None).state_dict().keys()
    extra = sorted(tensors.keys() - plain)
    if extra:
        raise ValueError(
            f"a model folder has no place for {extra[0]}{' and others' if extra[1:] else ''}; save the adapter on its "
            "own (lora.save_adapter), or merge it into the weights first (lora.merge_and_unload)"
        )
    folder = Path(folder)
    write_tensors(folder / WEIGHTS, {name: to_host(array).astype(dtype) for name, array in tensors.items()})
    write_json(folder / "config.json", {**config.to_dict(), "dtype": dtype, "torch_dtype": dtype})


def _read_weights(folder: Path) -> dict[str, Array]:
    """All tensors of a folder, from one file or from the shards that an index lists."""
    if (folder / WEIGHTS).is_file() or not (folder / INDEX).is_file():
        return read_tensors(folder / WEIGHTS)
    index = read_json(folder / INDEX).get("weight_map", {})
    tensors: dict[str, Array] = {}
    for shard in sorted(set(index.values())):
        if Path(shard).name != shard:
            raise ValueError(f"{folder / INDEX} points outside its folder: {shard!r}")
        tensors.update(read_tensors(folder / shard))
    return tensors
