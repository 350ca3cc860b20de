"""`minilora.files`: writes are atomic, and tensors are read back exactly."""

import json
import os
import stat
import struct

import numpy as np
import pytest

from minilora.files import (
    read_header,
    read_json,
    read_metadata,
    read_tensors,
    regular_file,
    remove_unfinished,
    write_atomically,
    write_json,
    write_tensors,
)


def only_file(folder):
    (file,) = folder.iterdir()  # and no temporary file
    return file


@pytest.mark.parametrize("content", [b"\x00\xff new", "neu · 新 🦙", ""])
def test_what_is_written_is_there(content, tmp_path):
    file = write_atomically(tmp_path / "a" / "b" / "file", content)
    assert file.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert only_file(tmp_path / "a" / "b") == file
    assert stat.S_IMODE(file.stat().st_mode) & 0o444 == 0o444  # readable by everyone
    write_atomically(str(file), b"newer")
    assert only_file(tmp_path / "a" / "b").read_bytes() == b"newer"


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError("the disk is full"), KeyboardInterrupt("Ctrl-C")], ids=["full", "Ctrl-C"])
def test_a_failure_leaves_the_old_content_and_nothing_else(step, error, tmp_path, monkeypatch):
    file = write_atomically(tmp_path / "file", b"old")

    def fail(*_):
        raise error

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(type(error), match=str(error)):
        write_atomically(file, b"new")
    assert only_file(tmp_path).read_bytes() == b"old"


def test_the_old_content_stays_until_the_new_is_on_the_disk(tmp_path, monkeypatch):
    file, seen = write_atomically(tmp_path / "file", b"old"), []
    monkeypatch.setattr(os, "fsync", lambda handle: seen.append((file.read_bytes(), os.fstat(handle).st_size)))
    write_atomically(file, b"newer")
    assert seen == [(b"old", 5)]
    assert file.read_bytes() == b"newer"


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_bytes(b"in the way")
    with pytest.raises(OSError, match="file"):
        write_atomically(tmp_path / "file" / "inside", b"x")
    assert only_file(tmp_path).read_bytes() == b"in the way"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root can write anywhere")
def test_a_folder_without_permission(tmp_path):
    write_atomically(tmp_path / "file", b"old")
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(PermissionError):
            write_atomically(tmp_path / "file", b"new")
    finally:
        tmp_path.chmod(0o700)
    assert only_file(tmp_path).read_bytes() == b"old"


def test_json_is_sorted_at_the_top_and_keeps_the_order_inside(tmp_path):
    file = write_json(tmp_path / "a.json", {"z": 1, "a": {"second": "ä", "first": None}})
    assert file.read_text() == json.dumps({"a": {"second": "ä", "first": None}, "z": 1}, indent=2) + "\n"
    assert list(read_json(file)["a"]) == ["second", "first"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"a\.json does not exist"),
        (b"", r"a\.json is not valid JSON"),
        (b"\xff\xfe", r"a\.json is not valid JSON"),
        (b"[1]", r"a\.json should contain a JSON object, found a list"),
        (b'{"b": {"a": 1, "a": 1}}', r"a\.json is not valid JSON \(duplicate key 'a'\)"),
        (b'{"a": ' + b"1" * 5_000 + b"}", r"a\.json is not valid JSON \(Exceeds the limit \(4300 digits"),
        (b'{"a": ' + b"[" * 50 + b"]" * 50 + b"}", r"a\.json is not valid JSON \(nested too deeply\)"),
        (b'{"a": ' * 100_000 + b"1" + b"}" * 100_000, r"a\.json is not valid JSON \(nested too deeply"),
    ],
)
def test_invalid_json(content, message, tmp_path):
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_json(tmp_path / "a.json")


def test_the_limits_of_json(tmp_path):
    (tmp_path / "a.json").write_text('{"a": ' + "[" * 49 + "]" * 49 + "}" + " " * 2_000_000)
    assert np.ravel(read_json(tmp_path / "a.json")["a"]).size == 0
    (tmp_path / "a.json").write_text('{"a": 1}')
    assert read_json(tmp_path / "a.json", limit=8) == {"a": 1}
    with pytest.raises(ValueError, match=r"a\.json is not valid JSON \(it is larger than 7 bytes\)"):
        read_json(tmp_path / "a.json", limit=7)


def test_a_duplicate_among_many_keys_is_found_quickly(tmp_path):
    keys = ", ".join(f'"{i}": 0' for i in range(200_000))  # pairwise comparison would take hours
    (tmp_path / "a.json").write_text(f'{{{keys}, "7": 0}}')
    with pytest.raises(ValueError, match="duplicate key '7'"):
        read_json(tmp_path / "a.json")


@pytest.fixture
def drawer(tmp_path):
    """A folder that contains a file, next to another file."""
    (tmp_path / "drawer").mkdir()
    (tmp_path / "drawer" / "file").write_text("inside")
    (tmp_path / "outside").write_text("outside")
    return tmp_path / "drawer"


def test_a_regular_file_is_one_in_the_folder(drawer):
    assert regular_file(drawer, "file").read_text() == "inside"
    if os.name == "posix":
        (drawer / "name").symlink_to("file")
        (drawer.parent / "shelf").symlink_to(drawer)
        assert regular_file(drawer, "name").read_text() == "inside"
        assert regular_file(str(drawer.parent / "shelf"), "file").read_text() == "inside"


@pytest.mark.skipif(os.name != "posix", reason="requires symbolic links and named pipes")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "thing does not exist"),
        (lambda path: path.mkdir(), "thing is not a regular file"),
        (os.mkfifo, "thing is not a regular file"),
        (lambda path: path.symlink_to("nowhere"), "thing is a broken link"),
        (lambda path: path.symlink_to("thing"), "thing is a broken link"),
        (lambda path: path.symlink_to("../outside"), "thing is a link to a target outside its folder; copy the file"),
        (lambda path: path.symlink_to("/dev/zero"), "thing is a link to a target outside its folder"),
    ],
    ids=["nothing", "folder", "pipe", "broken", "loop", "outside", "device"],
)
def test_what_is_no_regular_file(make, message, drawer):
    make(drawer / "thing")
    with pytest.raises(ValueError, match=message):
        regular_file(drawer, "thing")


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int64, np.uint8])
@pytest.mark.parametrize("shape", [(), (3, 4), (2, 0, 3)], ids=str)
def test_tensors_come_back_bit_for_bit(dtype, shape, tmp_path):
    array = (100 * np.random.default_rng(0).random(shape)).astype(dtype)
    (back,) = read_tensors(write_tensors(tmp_path / "t", {"x": array})).values()
    assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, array.shape, array.tobytes())
    back[...] = 1  # the returned array is writable


def test_special_numbers_and_views(tmp_path):
    special = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45], dtype=np.float32)
    turned = np.arange(12.0).reshape(3, 4).T
    back = read_tensors(write_tensors(tmp_path / "t", {"special": special, "turned": turned, "part": turned[::2, 1:]}))
    assert back["special"].tobytes() == special.tobytes()
    np.testing.assert_array_equal(back["turned"], turned)
    np.testing.assert_array_equal(back["part"], turned[::2, 1:])


def test_metadata(tmp_path):
    assert read_metadata(write_tensors(tmp_path / "t", {"x": np.ones(1)})) == {"format": "pt"}
    assert read_metadata(write_tensors(tmp_path / "t", {"x": np.ones(1)}, {"a": "ü\n1"})) == {"a": "ü\n1"}
    for name in ("missing", "broken"):
        (tmp_path / "broken").write_bytes(b"nothing of the kind")
        with pytest.raises(ValueError, match=f"{name} is not a valid safetensors file"):
            read_metadata(tmp_path / name)


def raw(dtype, shape, data):
    """The content of a safetensors file with one tensor, built by hand from the format's specification."""
    header = json.dumps({"x": {"dtype": dtype, "shape": shape, "data_offsets": [0, len(data)]}}).encode()
    return struct.pack("<Q", len(header)) + header + data


def test_bfloat16_is_the_upper_half_of_float32(tmp_path):
    values = {0x3F80: 1.0, 0xC000: -2.0, 0x3F81: 1.0078125, 0x7F7F: 3.3895313892515355e38}
    values |= {0x0001: 2.0**-133, 0x8000: -0.0, 0x7F80: np.inf}
    (tmp_path / "t").write_bytes(raw("BF16", [7, 1], struct.pack("<7H", *values)))
    x = read_tensors(tmp_path / "t")["x"]
    assert x.tobytes() == np.array(list(values.values()), dtype=np.float32).tobytes()
    assert (x.dtype, x.shape) == (np.float32, (7, 1))


def test_a_header_says_types_and_shapes_and_no_number_is_read(tmp_path):
    tensors = {"x": np.ones((3, 0)), "y": np.float32(1)}
    assert read_header(write_tensors(tmp_path / "t", tensors)) == {"x": ("F64", (3, 0)), "y": ("F32", ())}
    file, size = tmp_path / "huge", 4 * 10**12
    start = raw("F32", [10**12], b"").replace(b"[0, 0]", f"[0, {size}]".encode())
    start = struct.pack("<Q", len(start) - 8) + start[8:]
    file.write_bytes(start)
    os.truncate(file, len(start) + size)  # a sparse file: the zeros take no disk space
    assert read_header(file) == {"x": ("F32", (10**12,))}


@pytest.mark.parametrize("length", [10**6 + 1, 2**64 - 1])
def test_a_header_that_says_to_be_huge(length, tmp_path):
    (tmp_path / "t").write_bytes(struct.pack("<Q", length) + b"{")
    os.truncate(tmp_path / "t", 10**10)
    with pytest.raises(ValueError, match=rf"t is not a valid .* declares a header of {length:,} bytes"):
        read_header(tmp_path / "t")


def test_invalid_headers(tmp_path):
    for read in (read_header, read_tensors):
        with pytest.raises(ValueError, match="t does not exist"):
            read(tmp_path / "t")
    for content in (b"", b"{}", raw("F32", [9, 2], bytes(72))[:-1], raw("F32", [3, 2], bytes(72))):
        (tmp_path / "t").write_bytes(content)
        with pytest.raises(ValueError, match="t is not a valid safetensors file"):
            read_header(tmp_path / "t")


@pytest.mark.parametrize(("kind", "size"), [("F8_E4M3", 1), ("I32", 4)])
def test_a_type_that_is_not_read_is_named(kind, size, tmp_path):
    (tmp_path / "t").write_bytes(raw(kind, [2], bytes(2 * size)))
    with pytest.raises(ValueError, match=rf"t: tensor x has dtype {kind}; supported dtypes: F64, F32, F16, .*BF16"):
        read_tensors(tmp_path / "t")


@pytest.mark.parametrize("kept", [*range(0, 140, 7), 144])
def test_a_file_cut_short(kept, tmp_path):
    content = raw("F32", [9, 2], bytes(72))
    assert kept < len(content)
    (tmp_path / "t").write_bytes(content[:kept])
    with pytest.raises(ValueError, match=r"t is not a valid safetensors file"):
        read_tensors(tmp_path / "t")


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path):
    mine = [".notes.tmp", ".a.json.tmp", ".a.json.123-abc.tmp", "a.json"]
    for name in (*mine, ".a.json.123-0123abcd.tmp"):
        (tmp_path / name).write_text("x")
    remove_unfinished(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(mine)


def test_the_temporary_name_is_one_that_is_removed(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("os.replace", lambda source, target: seen.append(source.name))
    write_atomically(tmp_path / "a.json", "{}")
    assert seen == [path.name for path in tmp_path.iterdir()]
    remove_unfinished(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_link_stays_a_link_and_what_it_leads_to_is_written(tmp_path):
    (tmp_path / "real.json").write_text("{}")
    (tmp_path / "link.json").symlink_to(tmp_path / "real.json")
    write_json(tmp_path / "link.json", {"a": 1})
    assert (tmp_path / "link.json").is_symlink()
    assert read_json(tmp_path / "real.json") == {"a": 1}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_what_is_no_file_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe is not a regular file, and writing would replace it"):
        write_json(tmp_path / "pipe", {"a": 1})
    assert (tmp_path / "pipe").is_fifo()
    assert list(tmp_path.iterdir()) == [tmp_path / "pipe"]
