"""Adapter files written by other programs either open, or are rejected with a message that says what to do."""

import json
import os
import re

import numpy as np
import pytest

from minilora import lora
from minilora.files import read_tensors, rounded, write_tensors

A = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"
HEAD, TABLE = "base_model.model.lm_head.weight", "base_model.model.model.embed_tokens.weight"


@pytest.fixture
def folder(unit_llama, attach, tmp_path):
    """A valid adapter on q and v with r = 3."""
    lora.save_adapter(attach(unit_llama()), tmp_path)
    return tmp_path


def change(folder, edit):
    file = folder / "adapter_model.safetensors"
    write_tensors(file, edit(read_tensors(file)))


def set_option(folder, **options):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **options}))


def test_empty_tensors_of_a_sharded_trainer(folder, unit_llama):
    change(folder, lambda tensors: {key: np.zeros(0, np.float32) for key in tensors})
    with pytest.raises(lora.AdapterError, match=r"found \(0,\); the tensor is empty, .* gather the weights and save"):
        lora.load_adapter(unit_llama(), folder)


def test_a_pickle_file_is_not_opened(folder, unit_llama):
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(lora.AdapterError, match=r"contains adapter_model\.bin, a pickle file.* convert it .*save_file"):
        lora.load_adapter(unit_llama(), folder)


@pytest.mark.parametrize(
    "rename",
    [
        lambda key: key.removeprefix("base_model.model."),
        lambda key: key.replace("base_model.model.model.", "base_model.model."),
        lambda key: key.replace("base_model.model.", "base_model.model._orig_mod."),
        lambda key: key.replace("base_model.", "module.base_model."),
        lambda key: key.replace("base_model.model.model.", "base_model.model.model.language_model."),
        lambda key: key.replace("lora_A.weight", "lora_A.default.weight").replace("B.weight", "B.default.weight"),
    ],
    ids=["no prefix", "no causal language model", "compiled", "distributed", "multimodal", "name of the adapter"],
)
def test_other_names_are_shown_beside_the_expected_one(rename, folder, unit_llama):
    change(folder, lambda tensors: {rename(key): array for key, array in tensors.items()})
    with pytest.raises(lora.AdapterError) as caught:
        lora.load_adapter(unit_llama(), folder)
    first = A.replace("layers.1", "layers.0")
    assert f"is missing {first} and 11 more" in str(caught.value)
    assert re.search(rf"; it has {re.escape(rename(first))} instead\. Save the adapter with PEFT", str(caught.value))


@pytest.mark.parametrize(
    ("target_modules", "advice"),
    [("q_proj", "['q_proj']"), ("q_proj,v_proj", "['q_proj', 'v_proj']"), ("q_proj v_proj", "['q_proj', 'v_proj']")],
)
def test_a_string_of_names(target_modules, advice, unit_llama):
    message = (
        "a string is a regular expression that must match the full path; to select layers by name, write "
        + re.escape(advice)
    )
    with pytest.raises(lora.AdapterError, match=message):
        lora.inject(unit_llama(), target_modules=target_modules)


def test_settings_that_match_nothing(folder, unit_llama, ids):
    """They are errors in a new adapter; in a file, the tensors settle what is adapted."""
    settings = {"rank_pattern": {"x": 2}, "alpha_pattern": {"x": 2}, "layers_to_transform": [0, 1, 2, 9]}
    for name, value in settings.items():
        with pytest.raises(lora.AdapterError, match=r"matches none|but this model has layers 0 to 2"):
            lora.inject(unit_llama(), **{name: value})
    plain, model = unit_llama(), unit_llama()
    lora.load_adapter(plain, folder)
    set_option(folder, target_modules=["q_proj", "v_proj", "c_attn"], exclude_modules=["y"], **settings)
    lora.load_adapter(model, folder)
    np.testing.assert_array_equal(model(ids).data, plain(ids).data)


def test_a_file_whose_targets_all_match_nothing(folder, unit_llama):
    set_option(folder, target_modules=["c_attn"])
    with pytest.raises(lora.AdapterError, match=r"target 'c_attn' matches no linear module; this model's linear"):
        lora.load_adapter(unit_llama(), folder)


@pytest.mark.parametrize("kind", ["F16", "F32", "F64"])  # NumPy cannot write bfloat16; PEFT does in tests/oracles
@pytest.mark.parametrize("tied", [True, False])
def test_copies_of_the_base(kind, tied, folder, unit_llama, ids):
    """PEFT saves the embedding and the head after `resize_token_embeddings` and for modules_to_save."""
    model, other = unit_llama(tie_word_embeddings=tied), unit_llama(seed=1, tie_word_embeddings=tied)
    copies = {HEAD: model.lm_head.weight.data, TABLE: model.model.embed_tokens.weight.data}
    change(folder, lambda tensors: {**tensors, **{key: rounded(array, kind) for key, array in copies.items()}})
    lora.load_adapter(model, folder)
    with pytest.raises(lora.AdapterError, match=r"its copy of (lm_head|model\.embed_tokens)\.weight differs"):
        lora.load_adapter(other, folder)


def test_bfloat16_rounds_to_the_nearest_even():
    x = np.array([1, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-9, -1.00390625, 3e38, 0], dtype=np.float32)
    np.testing.assert_array_equal(rounded(x, "BF16"), [1, 1, 1 + 2**-6, 1, -1, 226 * 2.0**120, 0])
    assert not (rounded(x, "BF16").view(np.uint32) & 0xFFFF).any()


posix = pytest.mark.skipif(os.name != "posix", reason="requires POSIX links")


def in_cache(cache, folder, repository="models--someone--adapter"):
    """Move the files of an adapter folder to a Hugging Face cache; return the snapshot, which has only links."""
    blobs, snapshot = cache / repository / "blobs", cache / repository / "snapshots" / "0123abcd"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for i, file in enumerate(sorted(folder.glob("adapter_*"))):
        file.rename(blobs / (str(i) * 40))
        (snapshot / file.name).symlink_to(f"../../blobs/{str(i) * 40}")
    return snapshot


@posix
def test_a_snapshot_of_the_hugging_face_cache(folder, unit_llama, tmp_path):
    snapshot = in_cache(tmp_path / "hub", folder)
    lora.load_adapter(unit_llama(), snapshot)
    (tmp_path / "link").symlink_to(snapshot)
    lora.load_adapter(unit_llama(), tmp_path / "link")


@posix
@pytest.mark.parametrize("target", ["../../../models--other--adapter/blobs/1", "../../secret", "/etc/passwd"])
def test_a_snapshot_with_links_elsewhere(target, folder, unit_llama, tmp_path):
    snapshot = in_cache(tmp_path / "hub", folder)
    for place in ("models--other--adapter/blobs/1", "models--someone--adapter/secret"):
        (tmp_path / "hub" / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "hub" / place).write_text("{}")
    (snapshot / "adapter_config.json").unlink()
    (snapshot / "adapter_config.json").symlink_to(target)
    with pytest.raises(lora.AdapterError, match="is a link to a target outside its folder"):
        lora.load_adapter(unit_llama(), snapshot)


@posix
def test_blobs_that_are_a_link_themselves(folder, unit_llama, tmp_path):
    snapshot = in_cache(tmp_path / "hub", folder)
    (tmp_path / "hub" / "models--someone--adapter" / "blobs").rename(tmp_path / "private")
    (tmp_path / "hub" / "models--someone--adapter" / "blobs").symlink_to(tmp_path / "private")
    with pytest.raises(lora.AdapterError, match="is a link to a target outside its folder"):
        lora.load_adapter(unit_llama(), snapshot)
