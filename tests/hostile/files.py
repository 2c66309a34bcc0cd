"""Checkpoints that are wrong in one way each, as bytes; tests write them where they need them."""

import json
import struct


def file(header, data=b"", length=None):
    """A safetensors file with any header, sound or not."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def entry(shape=(2,), offsets=(0, 8), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


W = entry()
SOUND = file({"w": W}, bytes(8))
FILES = {
    "empty": b"",
    "cut_in_length": SOUND[:5],
    "cut_in_header": SOUND[:40],
    "cut_in_data": SOUND[:-3],
    "trailing_bytes": SOUND + b"more",
    "length_beyond_file": file({"w": W}, bytes(8), length=10_000),
    "length_of_2_to_64": file({"w": W}, bytes(8), length=2**64 - 1),
    "length_too_short": file({"w": W}, bytes(8), length=12),
    "not_json": file(b"not JSON at all", bytes(8)),
    "not_utf8": file(b'{"w\xff": 1}', bytes(8)),
    "half_a_surrogate": file(rb'{"w\ud800": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}', bytes(8)),
    "not_a_table": file([W], bytes(8)),
    "nested_deep": file(b"[" * 50_000),
    "nested_deep_tables": file(b'{"w":' * 20_000),
    "name_twice": file(
        b'{"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},'
        b' "w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}',
        bytes(8),
    ),
    "key_twice": file(b'{"w": {"dtype": "F32", "dtype": "I32", "shape": [2], "data_offsets": [0, 8]}}', bytes(8)),
    "metadata_not_a_table": file({"__metadata__": 3, "w": W}, bytes(8)),
    "metadata_not_text": file({"__metadata__": {"format": 3}, "w": W}, bytes(8)),
    "entry_not_a_table": file({"w": [0, 8]}, bytes(8)),
    "entry_without_shape": file({"w": {"dtype": "F32", "data_offsets": [0, 8]}}, bytes(8)),
    "entry_with_more": file({"w": {**W, "strides": [4]}}, bytes(8)),
    "dtype_unknown": file({"w": entry(dtype="F13")}, bytes(8)),
    "dtype_not_text": file({"w": entry(dtype=["F32"])}, bytes(8)),
    "dtype_endless": file({"w": entry(dtype="F" * 10_000)}, bytes(8)),
    "shape_negative": file({"w": entry((-2,), (0, 8))}, bytes(8)),
    "shape_two_negatives": file({"w": entry((-2, -1), (0, 8))}, bytes(8)),
    "shape_not_whole": file({"w": entry((2.0,), (0, 8))}, bytes(8)),
    "shape_of_booleans": file({"w": entry((True, True), (0, 4))}, bytes(4)),
    "shape_of_text": file({"w": {**W, "shape": "2"}}, bytes(8)),
    "shape_huge": file({"w": entry((2**62, 2**62), (0, 8))}, bytes(8)),
    "shape_huge_and_empty": file({"w": entry((2**62, 2**62, 0), (0, 0))}),
    "shape_wraps_to_fit": file({"w": entry((2**62, 4, 2), (0, 8))}, bytes(8)),
    "shape_beyond_64_bits": file({"w": entry((2**70, 0), (0, 0))}),
    "shape_of_many_axes": file({"w": entry((1,) * 10_000, (0, 4))}, bytes(4)),
    "shape_of_huge_digits": file(b'{"w": {"dtype": "F32", "shape": [' + b"9" * 10_000 + b'], "data_offsets": [0, 8]}}'),
    "offsets_one": file({"w": entry(offsets=(0,))}, bytes(8)),
    "offsets_backwards": file({"w": entry(offsets=(8, 0))}, bytes(8)),
    "offsets_negative": file({"w": entry(offsets=(-8, 0))}, bytes(8)),
    "offsets_beyond_file": file({"w": entry((1_000_000,), (0, 4_000_000))}, bytes(8)),
    "offsets_too_many_bytes": file({"w": entry(offsets=(0, 12))}, bytes(12)),
    "offsets_overlap": file({"v": W, "w": entry(offsets=(4, 12))}, bytes(12)),
    "offsets_same": file({"v": W, "w": W}, bytes(8)),
    "offsets_hole": file({"v": W, "w": entry(offsets=(12, 20))}, bytes(20)),
    "offsets_start_late": file({"w": entry(offsets=(4, 12))}, bytes(12)),
    "name_of_control_characters": file({"\x1b[2Jw\n": entry(dtype="F13")}, bytes(8)),
}


def index(where):
    return where if isinstance(where, bytes) else json.dumps({"metadata": {}, "weight_map": where}).encode()


ONE, NAME = "model-00001-of-00001.safetensors", "model.safetensors.index.json"
FOLDERS = {
    "index_missing_shard": {NAME: index({"w": ONE, "v": "model-00002-of-00002.safetensors"}), ONE: SOUND},
    "index_wrong_shard": {NAME: index({"w": ONE, "v": ONE}), ONE: SOUND},
    "index_outside": {NAME: index({"w": "../trailing_bytes.safetensors"})},
    "index_absolute": {NAME: index({"w": "/etc/model.safetensors"})},
    "index_not_a_checkpoint": {NAME: index({"w": "passwd"})},
    "index_not_json": {NAME: index(b"{")},
    "index_not_utf8": {NAME: index(b"\xff")},
    "index_not_a_table": {NAME: index(b"[]")},
    "index_without_map": {NAME: index(b"{}")},
    "index_of_numbers": {NAME: index({"w": 3})},
    "index_of_lists": {NAME: index({"w": [ONE]})},
    "index_nested_deep": {NAME: index(b"[" * 50_000)},
    "index_name_twice": {NAME: index(b'{"weight_map": {"w": "a.safetensors", "w": "b.safetensors"}}')},
    "index_unsound_shard": {NAME: index({"w": ONE}), ONE: SOUND[:-1]},
    "folder_of_two": {"a.safetensors": SOUND, "b.safetensors": SOUND},
    "folder_of_none": {"readme.txt": b"nothing here"},
}


def write(folder):
    """Write them all into a folder."""
    for name, content in FILES.items():
        (folder / f"{name}.safetensors").write_bytes(content)
    for name, files in FOLDERS.items():
        (folder / name).mkdir()
        for file_name, content in files.items():
            (folder / name / file_name).write_bytes(content)
