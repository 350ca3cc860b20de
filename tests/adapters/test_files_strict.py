"""A folder that does not match its model raises a one-line error and leaves the model unchanged."""

import json
import os
import struct
import warnings

import numpy as np
import pytest

from minilora import lora
from minilora.files import read_tensors, write_tensors

A = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"
B = A.replace("lora_A", "lora_B")


@pytest.fixture
def folder(unit_llama, attach, tmp_path):
    """A valid adapter on q and v with r = 3."""
    lora.save_adapter(attach(unit_llama()), tmp_path)
    return tmp_path


@pytest.fixture(params=["a plain model", "an adapted model"])
def model(request, unit_llama, two_adapters):
    return unit_llama() if request.param == "a plain model" else two_adapters()


def refused(model, folder, snapshot, message):
    before = snapshot(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(lora.AdapterError, match=message) as caught:
            lora.load_adapter(model, folder, "new")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600
    assert snapshot(model) == before


def test_the_folder_itself_is_good(folder, model):
    lora.load_adapter(model, folder, "new")
    assert lora.active(model) == {"new": 1.0}


SPOILED = {
    "missing": (
        lambda t: t.pop(A),
        r"adapter_model\.safetensors is missing .*1\.self_attn\.q_proj\.lora_A\.weight, which",
    ),
    "several missing": (
        lambda t: [t.pop(A), t.pop(B)],
        r"is missing .*q_proj\.lora_A\.weight and 1 more, which its config requires$",
    ),
    "extra": (lambda t: t.update(surplus=t[A]), r"contains surplus, which its config does not define"),
    "an extra module": (
        lambda t: t.update({A.replace("q_proj", "k_proj"): t[A]}),
        r"contains .*k_proj\.lora_A\.weight, which its config does not define",
    ),
    "without the prefix": (
        lambda t: t.update({"x." + A.removeprefix("base_model.model."): t.pop(A)}),
        r"is missing .*q_proj\.lora_A\.weight",
    ),
    "transposed": (
        lambda t: t.update({A: t[A].T}),
        r"lora_A\.weight should have shape \(3, 12\), found \(12, 3\); the adapter was made for a different base model",
    ),
    "swapped": (lambda t: t.update({A: t[B], B: t[A]}), r"lora_A\.weight should have shape \(3, 12\)"),
    "another rank": (
        lambda t: t.update({A: t[A][:2]}),
        r"should have shape \(3, 12\), found \(2, 12\); the rank in its config does not match its tensors",
    ),
    "another rank of B": (
        lambda t: t.update({B: t[B][:, :2]}),
        r"should have shape \(24, 3\), found \(24, 2\); the rank in its config does not match its tensors",
    ),
    "wider, and another rank": (
        lambda t: t.update({A: np.resize(t[A], (2, 14))}),
        r"should have shape \(3, 12\), found \(2, 14\); the adapter was made for a different base model",
    ),
    "three axes": (
        lambda t: t.update({A: t[A][:, :, None]}),
        r"should have shape \(3, 12\), found \(3, 12, 1\); the adapter was made for a different base model",
    ),
    "three axes, another rank": (
        lambda t: t.update({A: t[A][:2, :, None]}),
        r"should have shape \(3, 12\), found \(2, 12, 1\); the adapter was made for a different base model",
    ),
    "narrower": (
        lambda t: t.update({A: t[A][:, :8]}),
        r"lora_A\.weight should have shape \(3, 12\), found \(3, 8\); .* a base model with different dimensions",
    ),
    "shorter": (
        lambda t: t.update({B: t[B][:8]}),
        r"lora_B\.weight should have shape \(24, 3\), found \(8, 3\); .* a base model with different dimensions",
    ),
    "no columns": (lambda t: t.update({A: t[A][:, :0]}), r"should have shape \(3, 12\), found \(3, 0\)"),
    "a scalar": (lambda t: t.update({A: np.float32(1)}), r"should have shape \(3, 12\), found \(\)"),
    "integers": (lambda t: t.update({A: t[A].astype(int)}), "one of the dtypes F64, F32, F16, BF16, found I64"),
    "booleans": (lambda t: t.update({A: t[A] > 0}), r"lora_A\.weight should have one of the dtypes .*, found BOOL"),
    "an odd name": (lambda t: t.update({"x\n\x1b[31m" * 99: t[A]}), r"contains x  \[31mx  \[31m.*, which its config"),
    "no prefix": (
        lambda t: t.update({A.removeprefix("base_model.model."): t.pop(A)}),
        rf"is missing {A}, which its config requires",
    ),
    "twice": (
        lambda t: t.update({A.removeprefix("base_model.model."): t[A] + 1}),
        r"contains model\.layers\.1\.self_attn\.q_proj\.lora_A\.weight, which its config does not define",
    ),
    "too large": (
        lambda t: t.update({A: t[A].astype(np.float64) * 1e40}),
        r"lora_A\.weight contains values that are not finite in float32",
    ),
    "flat": (lambda t: t.update({A: t[A].ravel()}), r"should have shape \(3, 12\), found \(36,\)"),
    "NaN": (lambda t: t[B].__setitem__((0, 0), np.nan), r"q_proj\.lora_B\.weight contains values that are not finite"),
    "infinity": (lambda t: t[A].__setitem__((2, 3), -np.inf), r"lora_A\.weight contains values that are not finite"),
    "empty": (lambda t: t.clear(), r"is missing .* and 11 more, which its config requires$"),
}


@pytest.mark.parametrize(("spoil", "message"), SPOILED.values(), ids=SPOILED.keys())
def test_tensors(spoil, message, folder, model, snapshot):
    file = folder / "adapter_model.safetensors"
    tensors = read_tensors(file)
    spoil(tensors)
    write_tensors(file, tensors)
    refused(model, folder, snapshot, message)


@pytest.mark.parametrize("kept", [0, 7, 30, 0.5, -1])
def test_weights_cut_short(kept, folder, model, snapshot):
    file = folder / "adapter_model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    refused(model, folder, snapshot, r"adapter_model\.safetensors is not a valid safetensors file")


CONFIGS = {
    "no r": (
        lambda c: c.pop("r"),
        "adapter_config.json: the adapter's config is missing r, which the update depends on",
    ),
    "no alpha": (lambda c: c.pop("lora_alpha"), "is missing lora_alpha, which the update"),
    "neither": (lambda c: (c.pop("r"), c.pop("lora_alpha")), "is missing r, lora_alpha, which"),
    "no targets": (lambda c: c.pop("target_modules"), "is missing target_modules"),
    "another r": (lambda c: c.update(r=4), r"should have shape \(4, 12\), found \(3, 12\)"),
    "r as text": (lambda c: c.update(r="3"), "expected the rank r to be a positive integer, got '3'"),
    "alpha NaN": (lambda c: c.update(lora_alpha=float("nan")), "expected lora_alpha to be a finite number, got nan"),
    "more targets": (lambda c: c["target_modules"].append("k_proj"), r"is missing .*k_proj\.lora_A\.weight and 5 more"),
    "fewer targets": (lambda c: c.update(target_modules=["q_proj"]), r"contains .*v_proj\.lora_A\.weight and 5 more"),
    "fewer layers": (
        lambda c: c.update(layers_to_transform=[0, 1]),
        r"contains .*layers\.2.*\.lora_A\.weight and 3 more",
    ),
    "unknown target": (lambda c: c.update(target_modules=["c_attn"]), "target 'c_attn' matches no linear module"),
    "a number as targets": (lambda c: c.update(target_modules=3), "expected target_modules to be a list"),
    "a list of patterns": (lambda c: c.update(rank_pattern=[3]), "expected rank_pattern to be a dict"),
    "a bad pattern": (lambda c: c.update(alpha_pattern={"(": 3}), r"'\(' is not a valid regular expression"),
    "another type": (lambda c: c.update(peft_type="IA3"), "expected an adapter with peft_type 'LORA', found 'IA3'"),
    "a huge alpha": (lambda c: c.update(lora_alpha=10**400), "expected lora_alpha to be a finite number, got 1000"),
    "alpha beyond float32": (
        lambda c: c.update(lora_alpha=1e40),
        r"the scale of .*q_proj, 3\.33333e\+39, is not finite in float32",
    ),
    "alpha True": (lambda c: c.update(lora_alpha=True), "expected lora_alpha to be a finite number, got True"),
    "layers in lists": (lambda c: c.update(layers_to_transform=[[1]]), r"to contain layer indices, got \[1\]"),
    "targets that are not names": (lambda c: c.update(target_modules=[1, None]), "to contain module names, got 1"),
    "endless": (lambda c: c.update(target_modules=r"(?:.|\w)+[#!]"), "takes too long to match"),
    "an endless key": (lambda c: c.update(rank_pattern={r"(?:.|\w)+[#!]": 3}), "takes too long to match"),
    "a line break": (
        lambda c: c.update({"x\ny": ["\n"]}),
        r"the adapter uses x y = \['\\n'\], which minilora does not",
    ),
    "no type": (lambda c: c.pop("peft_type"), "expected an adapter with peft_type 'LORA', found None"),
    "another method of PEFT's": (
        lambda c: c.update(layer_replication=[[0, 1]]),
        r"uses layer_replication = \[\[0, 1\]\], which minilora does not implement; use this adapter with PEFT",
    ),
}


@pytest.mark.parametrize(("spoil", "message"), CONFIGS.values(), ids=CONFIGS.keys())
def test_config(spoil, message, folder, model, snapshot):
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text())
    spoil(config)
    file.write_text(json.dumps(config))
    refused(model, folder, snapshot, message)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "\x00",
        '{"r": 1, "r": 2}',
        '{"r": ' + "1" * 5_000 + "}",
        '{"r": ' * 9_999 + "1" + "}" * 9_999,
        " " * 10**6,
    ],
)
def test_a_malformed_config_is_refused(content, folder, model, snapshot):
    (folder / "adapter_config.json").write_text(content)
    refused(model, folder, snapshot, r"adapter_config\.json (is not valid JSON|should contain a JSON object)")


def test_a_config_of_megabytes_or_terabytes(folder, model, snapshot):
    file = folder / "adapter_config.json"
    file.write_text(file.read_text().ljust(1_000_000))
    lora.load_adapter(model, folder, "padded")
    for size in (1_000_001, 10**12):
        os.truncate(file, size)
        refused(model, folder, snapshot, r"adapter_config\.json is not valid JSON .it is larger than 1,000,000 bytes")


def test_missing_files(folder, model, snapshot, tmp_path):
    (folder / "adapter_model.safetensors").unlink()
    refused(model, folder, snapshot, r"adapter_model\.safetensors does not exist")
    (folder / "adapter_config.json").unlink()
    message = r"is not an adapter folder: expected a folder with adapter_config\.json and adapter_model\.safetensors"
    refused(model, folder, snapshot, message)
    refused(model, tmp_path / "nowhere", snapshot, message)


posix = pytest.mark.skipif(os.name != "posix", reason="requires POSIX links, pipes and permissions")


@posix
@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.mkdir(), "is not a regular file"),
        (os.mkfifo, "is not a regular file"),  # opening it would block forever
        (lambda path: path.symlink_to("/dev/zero"), "is a link to a target outside its folder; copy the file into"),
        (lambda path: path.symlink_to("nowhere"), "is a broken link"),
        (lambda path: path.symlink_to("../good"), "is a link to a target outside its folder; copy the file into"),
    ],
    ids=["folder", "pipe", "device", "broken link", "link out"],
)
def test_only_regular_files_in_the_folder_are_read(make, message, name, folder, unit_llama, snapshot):
    """A link to a valid file outside the folder is refused as well: such a link could expose a private file."""
    model, inside = unit_llama(), folder / "inside"
    inside.mkdir()
    for file in folder.glob("adapter_*"):
        file.rename(inside / file.name)
    (inside / name).rename(folder / "good")
    make(inside / name)
    refused(model, inside, snapshot, rf"{name} {message}")


@posix
def test_a_link_within_the_folder(folder, model):
    (folder / "adapter_model.safetensors").rename(folder / "version-2")
    (folder / "adapter_model.safetensors").symlink_to("version-2")
    lora.load_adapter(model, folder, "new")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root can read every file")
@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "."])
def test_a_file_that_may_not_be_read(name, folder, model, snapshot):
    (folder / name).chmod(0)
    try:
        refused(model, folder, snapshot, r"cannot be read: Permission denied; check its permissions")
    finally:
        (folder / name).chmod(0o700)


@pytest.mark.parametrize("function", ["read_header", "read_tensors"])
def test_what_the_system_says_about_a_file(function, folder, model, snapshot, monkeypatch):
    import minilora.adapters.files as files

    def fail(path):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(files, function, fail)
    refused(model, folder, snapshot, r"adapter_model\.safetensors cannot be read: Input/output error; check")


def declare(file, entries, size):
    """Write a safetensors file with these header entries and `size` zero bytes of data, as a sparse file."""
    text = json.dumps(entries).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text)
    os.truncate(file, 8 + len(text) + size)


def test_a_file_of_terabytes_is_not_read(folder, model, snapshot):
    rows, file = 10**11, folder / "adapter_model.safetensors"
    names = sorted(read_tensors(file))
    entries = {name: {"dtype": "F32", "shape": [0, 12], "data_offsets": [0, 0]} for name in names}
    declare(file, {**entries, A: {"dtype": "F32", "shape": [rows, 12], "data_offsets": [0, 48 * rows]}}, 48 * rows)
    refused(model, folder, snapshot, r"lora_A\.weight should have shape \(3, 12\), found \((0|10{11}), 12\)")
    with pytest.raises(lora.AdapterError, match=r"should have shape \(3, 12\), found \((0|10{11}), 12\)"):
        lora.read_adapter(folder)
    base = {"dtype": "F32", "shape": [3, rows], "data_offsets": [0, 12 * rows]}
    low = {"dtype": "F32", "shape": [0, 3], "data_offsets": [12 * rows, 12 * rows]}
    declare(file, {A: base, B: low}, 12 * rows)
    with pytest.raises(
        lora.AdapterError, match=r"contains 1,200,000,000,000 bytes of tensor data, more than the .* use load_adapter"
    ):
        lora.read_adapter(folder)


@pytest.mark.parametrize(("kind", "size"), [("F64", 8), ("F32", 4), ("F16", 2), ("BF16", 2)])
def test_two_gigabytes_are_read_without_a_model_and_no_more(kind, size, folder, monkeypatch):
    config, file = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    config.write_text(config.read_text().replace('"r": 3', '"r": 4'))
    monkeypatch.setattr("minilora.adapters.files.read_tensors", lambda path: {})
    most = 2**31
    for rows in (0, 1):  # of B, each with four values
        entries = {
            A: {"dtype": kind, "shape": [4, most // (4 * size)], "data_offsets": [0, most]},
            B: {"dtype": kind, "shape": [rows, 4], "data_offsets": [most, most + 4 * size * rows]},
        }
        declare(file, entries, most + 4 * size * rows)
        if rows:
            with pytest.raises(
                lora.AdapterError,
                match=f"contains {most + 4 * size:,} bytes of tensor data, more than the .* use load_adapter",
            ):
                lora.read_adapter(folder)
        else:
            assert lora.read_adapter(folder)[1] == {}


def test_without_a_model_names_have_at_most_a_hundred_characters(folder):
    file = folder / "adapter_model.safetensors"
    tensors = read_tensors(file)
    a, b = tensors.pop(A), tensors.pop(B)
    for length in (100, 101):
        longer = {key.replace("layers.1", "layers." + "1" * (length + 1 - len(key))): x for key, x in ((A, a), (B, b))}
        assert {len(key) for key in longer} == {length}
        write_tensors(file, {**tensors, **longer})
        if length == 100:
            assert len(lora.read_adapter(folder)[1]) == len(tensors) + 2
        else:
            with pytest.raises(
                lora.AdapterError,
                match=r"contains base_model\..*lora_[AB]\.weigh and 1 more, which its config does not",
            ):
                lora.read_adapter(folder)


ALONE = {
    "no B": (lambda t: t.pop(B), rf"is missing {B}, which its config requires"),
    "no A": (lambda t: t.pop(A), rf"is missing {A}, which its config requires"),
    "transposed": (lambda t: t.update({A: t[A].T}), r"lora_A\.weight should have shape \(3, 3\), found \(12, 3\)"),
    "rank": (lambda t: t.update({A: t[A][:2], B: t[B][:, :2]}), r"should have shape \(3, 12\), found \(2, 12\)"),
    "larger B": (lambda t: t.update({B: t[B][:, [0, 1, 2, 0]]}), r"should have shape \(24, 3\), found \(24, 4\)"),
    "A of three axes": (lambda t: t.update({A: t[A][:, :, None]}), r"should have shape \(3, 12\), found \(3, 12, 1\)"),
    "flat": (lambda t: t.update({A: t[A].ravel()}), r"lora_A\.weight should have shape \(3, 0\), found \(36,\)"),
    "extra": (lambda t: t.update(surplus=t[A]), "contains surplus, which its config does not define"),
    "magnitude": (
        lambda t: t.update({A.replace("lora_A.weight", "lora_magnitude_vector"): t[A][0]}),
        "lora_magnitude_vector, which its config does not define",
    ),
    "no prefix": (lambda t: t.update({A[17:]: t.pop(A)}), rf"is missing {A}, which its config requires"),
    "no suffix": (
        lambda t: t.update({A.removesuffix(".weight"): t.pop(A)}),
        rf"is missing {A}, which its config requires",
    ),
    "long": (lambda t: t.update({A.replace("1", "1" * 99): t[A]}), r"contains base_model\..*1{50}, which its config"),
    "empty": (lambda t: t.clear(), "contains no tensors"),
    "integers": (lambda t: t.update({A: t[A].astype(int)}), "should have one of the dtypes .*, found I64"),
    "an integer copy of the weight": (
        lambda t: t.update({A.replace("lora_A", "base_layer"): np.ones((24, 12), int)}),
        "should have one of the dtypes .*, found I64",
    ),
    "NaN": (lambda t: t[B].__setitem__((0, 0), np.nan), r"lora_B\.weight contains values that are not finite"),
    "too large": (lambda t: t.update({A: t[A].astype(np.float64) * 1e40}), "not finite in float32"),
}


@pytest.mark.parametrize(("spoil", "message"), ALONE.values(), ids=ALONE.keys())
def test_tensors_without_a_model(spoil, message, folder):
    file = folder / "adapter_model.safetensors"
    tensors = read_tensors(file)
    spoil(tensors)
    write_tensors(file, tensors)
    with pytest.raises(lora.AdapterError, match=message) as caught:
        lora.read_adapter(folder)
    assert str(caught.value).isprintable()


def test_the_folders_name_may_be_anything(tmp_path, model, snapshot):
    refused(model, tmp_path / "two\nlines\x1b[31m", snapshot, r"two lines \[31m is not an adapter folder")
    refused(model, tmp_path / "null\0", snapshot, "null  is not an adapter folder")


def test_an_adapter_fit_for_a_float64_model_alone(folder, unit_llama):
    """Values too large for float32 are finite in float64."""
    file = folder / "adapter_model.safetensors"
    write_tensors(file, {name: a.astype(np.float64) * 1e40 for name, a in read_tensors(file).items()})
    model = unit_llama()
    model.astype(np.float64)
    lora.load_adapter(model, folder)


@pytest.mark.parametrize("layers", [1, 4])
def test_a_base_of_another_depth(layers, folder, unit_llama, snapshot):
    message = r"(is missing|contains) .*layers\..*; it was made for a base model with a different number of layers$"
    refused(unit_llama(num_hidden_layers=layers), folder, snapshot, message)


@pytest.mark.parametrize("shape", [{"hidden_size": 8}, {"num_attention_heads": 2}, {"num_hidden_layers": 4}], ids=str)
def test_a_base_of_another_shape(shape, folder, unit_llama, snapshot):
    refused(unit_llama(**shape), folder, snapshot, r"(should have shape .* found|is missing .*layers\.3)")


def test_a_frozen_copy_of_an_adapted_head_must_be_this_models(unit_llama, attach, tmp_path, snapshot, ids, monkeypatch):
    """PEFT saves a copy of the frozen weight with the adapter of an output head."""
    model, same, other = (unit_llama(seed, tie_word_embeddings=False) for seed in (0, 0, 1))
    attach(model, target_modules=["lm_head"])
    lora.save_adapter(model, tmp_path)
    tensors = read_tensors(tmp_path / "adapter_model.safetensors")
    tensors["base_model.model.lm_head.base_layer.weight"] = model.lm_head.weight.data
    write_tensors(tmp_path / "adapter_model.safetensors", tensors)
    lora.load_adapter(same, tmp_path)
    np.testing.assert_array_equal(same(ids).data, model(ids).data)
    message = r"is for a different base model, or .* copy of lm_head\.weight differs from this model's; open the base"
    refused(other, tmp_path, snapshot, message)
    monkeypatch.setattr("minilora.adapters.files.read_tensors", lambda path: pytest.fail("the tensors were read"))
    for rows in (28, 30):  # a copy with a different shape is refused before it is read
        tensors["base_model.model.lm_head.base_layer.weight"] = np.resize(model.lm_head.weight.data, (rows, 12))
        write_tensors(tmp_path / "adapter_model.safetensors", tensors)
        refused(unit_llama(tie_word_embeddings=False), tmp_path, snapshot, message)


def test_a_name_that_is_taken_or_cannot_be_one(folder, two_adapters, snapshot):
    model = two_adapters()
    before = snapshot(model)
    for name, message in [("a", "already has an adapter 'a'"), ("x.y", "expected an adapter name of")]:
        with pytest.raises(lora.AdapterError, match=message):
            lora.load_adapter(model, folder, name)
    assert snapshot(model) == before
