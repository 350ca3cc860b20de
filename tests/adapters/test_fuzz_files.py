"""2,000 corrupted adapters: each is either refused with a one-line error, or still valid and loaded in full.

Each case has its own generator, `np.random.default_rng(case)`, so that a failing case can be reproduced.
"""

import json
import os
import struct
import sys
import tracemalloc
import warnings
from collections import Counter
from contextlib import contextmanager

import numpy as np
import pytest
from safetensors.numpy import save

from minilora import lora
from minilora.adapters.attach import hosts
from minilora.files import read_tensors

resource = pytest.importorskip("resource")  # this module, links and pipes require POSIX
CASES = 2_000
SMALL = {"num_hidden_layers": 1}
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
DTYPES = [np.float64, np.float32, np.float16, np.int64, np.int32, np.uint8, np.bool_]
KINDS = ["F64", "F32", "F16", "BF16", "F8_E4M3", "I64", "U8", "BOOL", "F128", "", None, 32]
NUMBERS = [-1, 0, 1, 2, 3, 2**31, 2**62, 2**63 - 1, 2**64, 10**30, 1.5, None, "8", True]
NOT_FINITE = [np.nan, np.inf, -np.inf]
NAMES = ["", "x", "x\ny", "\x1b[31m", "../../etc/passwd", "²", "9" * 5000, "lora_A", "base_model.model.", "a" * 3000]
PIECES = ["(", ")", "+", "*", "?", "{2,}", "|", "\\w", "[a-z]", "[\\w.]*", "(.*)+", "q_proj", "\\.", ".*", "^", "(?i)"]
WRONG = [
    None, True, False, 0, -1, 7, 1e400, float("nan"), 0.5, 10**400, "", "x", "none", "(", "([\\w.]+)+!", "\ud800", [],
    [[1]], [1, None], ["q_proj", 3], ["x" * 10_000], ["q_proj"] * 3_000, [-1], [True], [10**400], {}, {"q_proj": None},
    {"q_proj": "3"}, {"q_proj": -2}, {"(": 3}, {"(\\w+)*!": 2}, {"q_proj": True}, {"q_proj": 10**400},
    {"(?i)q_proj": 3}, {"x\n": [{}]}, [[[[[[[[[]]]]]]]]],
]  # fmt: skip
KEYS = [
    "r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "layers_to_transform", "rank_pattern",
    "alpha_pattern", "use_rslora", "init_lora_weights", "bias", "modules_to_save", "peft_type", "use_dora",
    "fan_in_fan_out", "layer_replication", "trainable_token_indices", "next_years_option\n", "runtime_config",
]  # fmt: skip


def pick(rng, things):
    return things[rng.integers(len(things))]


def put(path, content):
    """Write in place: creating or truncating a file takes milliseconds on many disks."""
    with open(path, "r+b" if path.is_file() and not path.is_symlink() else "wb") as file:
        file.write(content if isinstance(content, bytes) else content.encode())
        file.truncate()


def spoil_bytes(rng, content, end):
    """Flip a bit, insert or remove bytes, or truncate, at a random position before `end`."""
    at = int(rng.integers(end))
    junk = rng.bytes(int(rng.integers(1, 9)))
    flipped = bytes([content[at] ^ (1 << int(rng.integers(8)))])
    return [
        content[:at] + flipped + content[at + 1 :],
        content[:at] + junk + content[at:],
        content[:at] + content[at + len(junk) :],
        content[:at],
    ][rng.integers(4)]


def config_bytes(rng, folder):
    file = folder / CONFIG
    content = file.read_bytes()
    put(file, spoil_bytes(rng, content, len(content)))


def config_values(rng, folder):
    file = folder / CONFIG
    config = json.loads(file.read_text())
    for key in rng.choice(KEYS, size=rng.integers(1, 3), replace=False):
        if rng.random() < 0.1:
            config.pop(str(key), None)
        else:
            config[str(key)] = pick(rng, WRONG)
    put(file, json.dumps(config))


def config_expressions(rng, folder):
    file = folder / CONFIG
    expression = "".join(pick(rng, PIECES) for _ in range(rng.integers(1, 12)))
    where = pick(rng, ["target_modules", "exclude_modules", "rank_pattern", "alpha_pattern"])
    value = {expression: 3} if "pattern" in where else expression
    put(file, json.dumps({**json.loads(file.read_text()), where: value}))


def config_text(rng, folder):
    """Replace the config with text that no JSON writer produces."""
    good = (folder / CONFIG).read_text()
    depth = int(rng.integers(60, 3_000))
    texts = [
        good.replace('"r": 3', '"r": 3, "r": 4'),
        good.replace('"r": 3', '"r": ' + "3" * 5_000),
        good.replace('"r": 3', '"r": 3, "runtime_config": ' + "[" * depth + "]" * depth),
        good.replace('"lora_alpha": 6', f'"lora_alpha": {pick(rng, ["NaN", "-Infinity", "1e999"])}'),
        good + " " * 1_000_000,
        good[1:-1],
        good + good,
    ]
    put(folder / CONFIG, pick(rng, texts))


def tensor_bytes(rng, folder):
    """Corrupt mostly the header: a float32 value with a flipped bit is usually still a valid value."""
    file = folder / WEIGHTS
    content = file.read_bytes()
    end = 8 + struct.unpack("<Q", content[:8])[0]
    put(file, spoil_bytes(rng, content, len(content) if rng.random() < 0.2 else end))


def tensor_header(rng, folder):
    file = folder / WEIGHTS
    content = file.read_bytes()
    end = 8 + struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8:end])
    key = pick(rng, sorted(header.keys() - {"__metadata__"}))
    part = pick(rng, ["dtype", "shape", "data_offsets", "name", "metadata", "length", "entry", "swap"])
    if part == "dtype":
        header[key]["dtype"] = pick(rng, KINDS)
    elif part in ("shape", "data_offsets"):
        numbers = [pick(rng, NUMBERS) for _ in range(rng.integers(4))]
        header[key][part] = pick(rng, [numbers, [*header[key][part], pick(rng, NUMBERS)], header[key][part][:1], 3])
    elif part == "name":
        header[pick(rng, NAMES)] = header.pop(key)
    elif part == "metadata":
        header["__metadata__"] = pick(rng, [{"format": 1}, [1], "pt", {"a": None}, {"a": {"b": "c"}}])
    elif part == "entry":
        header[key] = pick(rng, [None, [], {}, 3, {"dtype": "F32"}, header[key]["shape"]])
    elif part == "swap":  # overlapping, or the data of one tensor under the name of another
        header[key]["data_offsets"] = header[pick(rng, sorted(header.keys() - {key, "__metadata__"}))]["data_offsets"]
    text = json.dumps(header).encode()
    length = pick(rng, [0, 1, 10**6, 10**8, 2**63, 2**64 - 1]) if part == "length" else len(text)
    put(file, struct.pack("<Q", length) + text + content[end:])


def tensor_values(rng, folder):
    """Write a well-formed file with wrong tensors."""
    tensors = read_tensors(folder / WEIGHTS)
    key = pick(rng, sorted(tensors))
    array, other = tensors[key], pick(rng, sorted(tensors))
    change = pick(rng, ["delete", "copy", "rename", "dtype", "transpose", "reshape", "value", "shape", "huge", "empty"])
    if change in ("delete", "rename"):
        del tensors[key]
    if change in ("copy", "rename"):
        tensors[pick(rng, [*NAMES[1:6], key.replace("base_model.model.", ""), key + ".default"])] = array
    elif change == "dtype":
        tensors[key] = array.astype(pick(rng, DTYPES))
    elif change == "transpose":
        tensors[key] = array.T
    elif change == "reshape":
        tensors[key] = array.reshape(pick(rng, [(-1,), (1, *array.shape), (array.size, 1)]))
    elif change == "value":
        array[tuple(rng.integers(array.shape))] = pick(rng, NOT_FINITE)
    elif change == "shape":
        tensors[key] = pick(rng, [array[:0], array[:, :0], array[:-1], np.float32(3), np.vstack([array, array])])
    elif change == "huge":
        tensors[key] = array.astype(np.float64) * 10.0 ** rng.integers(39, 300)
    elif change == "empty":
        tensors = {} if rng.random() < 0.5 else {key: array, other: tensors[other]}
    put(folder / WEIGHTS, save({key: np.asarray(array, order="C") for key, array in tensors.items()}))


def sparse(rng, folder):
    """Write a sparse file with up to hundreds of gigabytes of zeros, which take no space on disk."""
    file = folder / WEIGHTS
    content = file.read_bytes()
    header = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])
    rows = int(rng.integers(10**6, 10**10))
    header = {key: {"dtype": "F32", "shape": [0, 12], "data_offsets": [0, 0]} for key in header if key[0] != "_"}
    header[min(header)] = {"dtype": "F32", "shape": [rows, 12], "data_offsets": [0, 48 * rows]}
    text = json.dumps(header).encode()
    put(file, struct.pack("<Q", len(text)) + text)
    os.truncate(file, 8 + len(text) + 48 * rows)


def other_things(rng, folder):
    """Replace a file with a folder, link, pipe or device, or with nothing."""
    path = folder / pick(rng, [CONFIG, WEIGHTS])
    content = path.read_bytes()
    path.unlink()
    kind = pick(rng, ["nothing", "folder", "link out", "broken link", "loop", "pipe", "device"])
    if kind == "folder":
        path.mkdir()
    elif kind == "link out":
        outside = folder.parent / f"outside-{path.name}"
        put(outside, content)
        path.symlink_to(outside)
    elif kind in ("broken link", "loop"):
        path.symlink_to(folder / "nothing" if kind == "broken link" else path)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")


MUTATIONS = {
    config_bytes: 0.1,
    config_values: 0.25,
    config_expressions: 0.1,
    config_text: 0.05,
    tensor_bytes: 0.15,
    tensor_header: 0.15,
    tensor_values: 0.15,
    sparse: 0.02,
    other_things: 0.03,
}
HUNGRY = (config_text, tensor_header, sparse, other_things)


def restore(folder, good):
    """Restore the valid files."""
    for name, content in good.items():
        path = folder / name
        if path.is_dir():
            path.rmdir()
        elif path.is_symlink() or not path.is_file():
            path.unlink(missing_ok=True)
        put(path, content)


def peak_of_this_process():
    """Return the peak memory of the process in bytes, including NumPy, Python and safetensors."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@contextmanager
def traced(wanted):
    """Yield a list that ends with the peak traced memory, 0 unless `wanted`. Tracing every case would take too long."""
    peaks = [0]
    if wanted:
        tracemalloc.start()
    try:
        yield peaks
    finally:
        peaks.append(tracemalloc.get_traced_memory()[1])  # 0 if tracing was not started
        tracemalloc.stop()


def is_whole(model, adapter):
    """Return whether every adapted module has a finite A (r, in) and B (out, r)."""
    modules = [module for module in hosts(model).values() if adapter in module.config]
    for module in modules:
        a, b = module.lora_A[adapter].data, module.lora_B[adapter].data
        if not np.isfinite(a).all() or not np.isfinite(b).all() or not np.isfinite(module.scaling[adapter]):
            return False
        if a.shape != (len(a), module.in_features) or b.shape != (module.out_features, len(a)):
            return False
    return bool(modules)


def outcome(load, *arguments):
    """Return (value, None), or (None, message) for an AdapterError. Other exceptions propagate."""
    try:
        return load(*arguments), None
    except lora.AdapterError as error:
        line = str(error)
        assert line.isprintable(), ascii(line)
        assert 20 < len(line) < 1_000, ascii(line)
        return None, line


def test_2000_spoiled_adapters(unit_llama, two_adapters, attach, tmp_path, snapshot):
    lora.save_adapter(attach(unit_llama(**SMALL)), tmp_path / "good")
    good = {name: (tmp_path / "good" / name).read_bytes() for name in (CONFIG, WEIGHTS)}
    makers = [unit_llama, two_adapters]
    models = [make(**SMALL) for make in makers]
    before = [snapshot(model) for model in models]
    folder, refused, seen = tmp_path / "case", 0, Counter()
    folder.mkdir()
    resident, most = peak_of_this_process(), 0
    for case in range(CASES):
        rng, which = np.random.default_rng(case), case % 2
        restore(folder, good)
        mutate = list(MUTATIONS)[rng.choice(len(MUTATIONS), p=list(MUTATIONS.values()))]
        mutate(rng, folder)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings(
                "ignore", ".*a base model with different weights"
            )  # a bit of the fingerprint flipped
            with traced(mutate in HUNGRY) as allocated:
                read, _ = outcome(lora.read_adapter, folder)
                _, line = outcome(lora.load_adapter, models[which], folder, "new")
        most = max(most, *allocated)
        if read is not None:
            assert all(np.isfinite(array).all() for array in read[1].values()), (case, mutate)
        if line is None:
            assert mutate not in (sparse, other_things), case
            assert is_whole(models[which], "new"), (case, mutate)
            assert read is not None, case
            assert len(read[1]) == 2 * sum("new" in module.config for module in hosts(models[which]).values())
            assert lora.active(models[which]) == {"new": 1.0}
            models[which] = makers[which](**SMALL)
            assert snapshot(models[which])[0] == before[which][0]
            before[which] = snapshot(models[which])
        else:
            refused += 1
            seen[mutate] += 1
            assert snapshot(models[which]) == before[which], (case, mutate, line)
    assert refused > 0.8 * CASES
    assert min(seen[mutate] for mutate in MUTATIONS) > 20
    assert 0 < most < 20e6, f"{most:,} bytes"
    assert peak_of_this_process() - resident < 50e6
