"""Checkpoints: what safetensors itself reads in ours, what we read in files that nobody vouches for."""

import contextlib
import json
import os
import runpy
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file as load_numpy
from safetensors.torch import load_file as load_torch
from safetensors.torch import load_model, save_file
from torch import nn

import seedbed as sb
from seedbed.errors import CheckpointError, OutputError, PlanError
from seedbed.fill import fill
from seedbed.initializers import Constant, Normal, Ones, Orthogonal, Zeros
from seedbed.store import NAMES, load

HOSTILE = runpy.run_path(str(Path(__file__).parent / "hostile" / "files.py"))
FLOATS = [d for d in NAMES if "float" in d]


def specs(*params):
    made = (
        sb.ParamSpec(path=p, shape=s, dtype=d, axes=("out", "in")[: len(s)] if len(s) == 2 else ())
        for p, s, d in params
    )
    return sb.Specs(tuple(made), "torch")


def of_every_dtype():
    """A matrix, a scalar and two empty arrays of each dtype that the format has."""
    shapes = {"matrix": (5, 2), "scalar": (), "empty": (0,), "hollow": (3, 0, 2)}
    return specs(*((f"{d}.{n}", s, d) for d in NAMES for n, s in shapes.items()))


def plan_of_every_dtype():
    starts = {f"{d}.*": Normal(std=0.5) if d in FLOATS else Constant(value=1) for d in NAMES}
    return sb.plan(of_every_dtype(), recipe=starts, seed=7)


def files_in(folder):
    return {p.name: p.read_bytes() for p in Path(folder).iterdir()}


def test_safetensors_reads_every_dtype_with_the_values_of_the_plan(tmp_path):
    plan = plan_of_every_dtype()
    (file,) = sb.write(plan, tmp_path / "all.safetensors")
    found = load_torch(file)
    assert set(found) == {e.spec.path for e in plan}
    for entry in plan:
        expected, tensor = fill(entry), found[entry.spec.path]
        assert str(tensor.dtype) == f"torch.{entry.spec.dtype}"
        assert tuple(tensor.shape) == entry.spec.shape
        same = tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        assert same == expected.tobytes(), entry.spec.path


def test_safetensors_reads_it_with_numpy_too(tmp_path):
    plan = sb.plan(specs(*(((d, (4, 5), d)) for d in ("float64", "float32", "float16"))), recipe=Normal(std=1.0))
    (file,) = sb.write(plan, tmp_path / "all.safetensors")
    found = load_numpy(file)
    for entry in plan:
        assert found[entry.spec.path].tobytes() == fill(entry).tobytes()


def test_what_we_write_we_read(tmp_path):
    plan = plan_of_every_dtype()
    (file,) = sb.write(plan, tmp_path / "all.safetensors")
    held = load(file)
    for entry in plan:
        tensor = held[entry.spec.path]
        assert (tensor.dtype, tensor.shape) == (entry.spec.dtype, entry.spec.shape)
        assert tensor.array.tobytes() == fill(entry).tobytes()
    assert sb.check(file, plan)


def test_we_read_what_safetensors_writes(tmp_path):
    tensors = {"b": torch.randn(3, 2).bfloat16(), "odd": torch.ones(3, dtype=torch.uint8), "w": torch.randn(4, 5)}
    save_file(tensors, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    held = load(tmp_path / "theirs.safetensors")
    for path, tensor in tensors.items():
        assert held[path].array.tobytes() == tensor.flatten().view(torch.uint8).numpy().tobytes()


def test_arrays_that_are_not_aligned_are_read(tmp_path):
    header = {
        "a": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]},
        "w": {"dtype": "F32", "shape": [2], "data_offsets": [3, 11]},
    }
    data = b"abc" + np.array([1.5, -2.5], "<f4").tobytes()
    (tmp_path / "odd.safetensors").write_bytes(HOSTILE["file"](header, data))
    assert load(tmp_path / "odd.safetensors")["w"].array.tolist() == [1.5, -2.5]


def test_every_array_begins_at_a_multiple_of_its_size(tmp_path):
    (file,) = sb.write(plan_of_every_dtype(), tmp_path / "all.safetensors")
    raw = file.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    assert (8 + length) % 8 == 0
    for path, entry in header.items():
        if path != "__metadata__":
            size = sb.spec.ITEMSIZE[path.split(".")[0]]
            assert (8 + length + entry["data_offsets"][0]) % size == 0


def test_the_header_says_which_plan_it_was(tmp_path):
    plan = sb.plan(nn.Linear(2, 3), seed=5)
    (file,) = sb.write(plan, tmp_path / "x.safetensors")
    with safe_open(file, "pt") as opened:
        assert opened.metadata() == {
            "format": "pt", "seedbed.fingerprint": plan.fingerprint(), "seedbed.seed": "5",
        }  # fmt: skip


def test_a_parameter_named_like_the_metadata_does_not_change_it(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Parameter(torch.zeros(2))
            self.format = self.first

    (file,) = sb.write(sb.plan(Net(), recipe=Ones()), tmp_path / "x.safetensors")
    with safe_open(file, "pt") as opened:
        assert opened.metadata()["format"] == "pt"


def test_buffers_are_written_and_those_that_do_not_persist_are_not(tmp_path):
    net = nn.BatchNorm1d(4)
    net.register_buffer("gone", torch.zeros(2), persistent=False)
    (file,) = sb.write(sb.plan(net), tmp_path / "x.safetensors", model=net)
    assert set(load_torch(file)) == set(net.state_dict())


def test_tied_parameters_are_written_once_and_load_model_opens_them(tmp_path):
    def tied():
        net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        net[1].weight = net[0].weight
        return net

    net = tied()
    plan = sb.plan(net, recipe="he", seed=3)
    (file,) = sb.write(plan, tmp_path / "tied.safetensors")
    assert set(load_torch(file)) == {"0.weight", "0.bias", "1.bias"}
    with safe_open(file, "pt") as opened:
        assert opened.metadata()["1.weight"] == "0.weight"
    again = tied()
    missing, unexpected = load_model(again, file)
    assert not missing
    assert not unexpected
    assert again[1].weight is again[0].weight
    assert sb.check(again, plan)


def test_kept_values_are_those_of_the_model(tmp_path):
    net = nn.Linear(2, 3)
    with torch.no_grad():
        net.bias.copy_(torch.tensor([1.0, 2.0, 3.0]))
    plan = sb.plan(net, recipe={"bias": sb.initializers.Keep(values=True), "*": Zeros()})
    (file,) = sb.write(plan, tmp_path / "x.safetensors", model=net)
    assert load_torch(file)["bias"].tolist() == [1.0, 2.0, 3.0]


# Several files.


def wide(layers=6):
    return specs(*((f"h.{n}.w", (100, 10), "float32") for n in range(layers)))


def test_shards_have_the_names_of_their_ecosystem_and_an_index(tmp_path):
    plan = sb.plan(wide(), recipe=Normal(std=1.0))
    files = sb.write(plan, tmp_path / "out", shard_size=8_000)
    names = [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    assert [f.name for f in files] == [*names, "model.safetensors.index.json"]
    assert sorted(files_in(tmp_path / "out")) == sorted(f.name for f in files)
    index = json.loads(files[-1].read_text())
    assert index == {
        "metadata": {"total_size": 24_000},
        "weight_map": {f"h.{n}.w": names[n // 2] for n in range(6)},
    }
    for path, name in index["weight_map"].items():
        with safe_open(tmp_path / "out" / name, "np") as opened:
            assert opened.get_tensor(path).tobytes() == fill(plan[path]).tobytes()
    assert sb.check(tmp_path / "out", plan)
    assert sb.check(files[-1], plan)


def test_shards_of_a_named_file_have_its_name(tmp_path):
    plan = sb.plan(wide(2), recipe=Zeros())
    files = sb.write(plan, tmp_path / "net.safetensors", shard_size="4kB")
    assert [f.name for f in files] == [
        "net-00001-of-00002.safetensors", "net-00002-of-00002.safetensors", "net.safetensors.index.json",
    ]  # fmt: skip
    assert sb.check(tmp_path / "net.safetensors", plan), "by the name that was given"


def test_a_parameter_larger_than_a_shard_has_one_of_its_own(tmp_path):
    plan = sb.plan(wide(3), recipe=Zeros())
    assert len(sb.write(plan, tmp_path / "out", shard_size=1)) == 4


def test_transformers_opens_the_folder(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=32, n_positions=8)
    net = transformers.GPT2LMHeadModel(config)
    plan = sb.plan(net, recipe="gpt2", seed=2)
    sb.write(plan, tmp_path / "out", shard_size=2_000, model=net)
    config.save_pretrained(tmp_path / "out")
    again = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "out")
    assert sb.check(again, plan)


# What stood there before.


@pytest.mark.parametrize("first", [1, "5GB"])
@pytest.mark.parametrize("second", [1, 8_000, "5GB"])
@pytest.mark.parametrize("target", ["out", "out/net.safetensors"])
def test_an_earlier_checkpoint_of_the_name_is_replaced_whole(first, second, target, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "beside.txt").write_text("mine")
    sb.write(sb.plan(wide(), recipe=Zeros()), tmp_path / target, shard_size=first)
    plan = sb.plan(wide(), recipe=Normal(std=1.0))
    files = sb.write(plan, tmp_path / target, shard_size=second, replace=True)
    assert set(files_in(tmp_path / "out")) == {f.name for f in files} | {"beside.txt"}
    assert sb.check(tmp_path / target, plan)


def test_files_that_only_an_index_claims_are_left_alone(tmp_path):
    other = tmp_path / "out" / "other.safetensors"
    sb.write(sb.plan(wide(), recipe=Zeros()), tmp_path / "out", shard_size=1)
    other.write_bytes(b"mine")
    index = tmp_path / "out" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": "other.safetensors", "v": "../x.safetensors"}}))
    sb.write(sb.plan(wide(), recipe=Zeros()), tmp_path / "out", replace=True)
    assert other.read_bytes() == b"mine"


@pytest.mark.parametrize("shard_size", ["5GB", 8_000])
@pytest.mark.parametrize("earlier", [None, "5GB", 4_000])
def test_a_failure_leaves_what_was_there(earlier, shard_size, tmp_path):
    out = tmp_path / "out"
    if earlier:
        sb.write(sb.plan(wide(), recipe=Zeros()), out, shard_size=earlier)
    before = files_in(out) if earlier else None

    def fails(draw, spec):
        if spec.path == "h.5.w":
            raise RuntimeError("in the middle")
        return draw.normal()

    with pytest.raises(RuntimeError, match="in the middle"):
        sb.write(sb.plan(wide(), recipe=sb.initializers.Custom(fails)), out, shard_size=shard_size, replace=True)
    if not earlier and shard_size == 8_000:
        assert sorted(files_in(out)) == ["model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors"]
        return
    assert (files_in(out) if out.exists() else None) == before


@pytest.mark.parametrize("earlier", ["5GB", 8_000])
@pytest.mark.parametrize("at", range(8))
def test_a_failure_while_files_change_places_leaves_the_earlier_or_the_new(earlier, at, tmp_path, monkeypatch):
    out = tmp_path / "out"
    sb.write(sb.plan(wide(), recipe=Zeros()), out, shard_size=earlier)
    before = files_in(out)
    real, calls = os.replace, []

    def interrupted(source, target):
        calls.append(target)
        if len(calls) == at + 1:
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    plan = sb.plan(wide(), recipe=Normal(std=1.0))
    try:
        sb.write(plan, out, shard_size=8_000, replace=True)
    except KeyboardInterrupt:
        assert files_in(out) == before
    else:
        assert len(calls) <= at
        assert sb.check(out, plan)


def test_one_file_is_replaced_in_one_step(tmp_path, monkeypatch):
    target = tmp_path / "x.safetensors"
    sb.write(sb.plan(wide(), recipe=Zeros()), target)
    real, seen = os.replace, []

    def watched(source, goal):
        seen.append(target.exists())
        real(source, goal)

    monkeypatch.setattr(os, "replace", watched)
    sb.write(sb.plan(wide(), recipe=Ones()), target, replace=True)
    assert seen == [True]


def test_a_full_disk_is_found_before_anything_is_computed(tmp_path, monkeypatch):
    def full(descriptor, offset, length):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    computed = []
    plan = sb.plan(wide(), recipe=sb.initializers.Custom(lambda draw, spec: computed.append(1) or draw.normal()))
    with pytest.raises(OutputError, match="No space left on device"):
        sb.write(plan, tmp_path / "x.safetensors")
    assert not computed
    assert not files_in(tmp_path)


def test_a_file_system_that_reserves_nothing_is_written_all_the_same(tmp_path, monkeypatch):
    def unable(descriptor, offset, length):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", unable)
    plan = sb.plan(wide(), recipe=Ones())
    assert sb.check(sb.write(plan, tmp_path / "x.safetensors")[0], plan)


def test_what_the_format_cannot_hold_is_refused_before_a_file_is_made(tmp_path):
    plan = sb.plan(specs(("w", (2,), "complex128")), recipe=Zeros())
    with pytest.raises(PlanError):
        sb.write(plan, tmp_path / "x.safetensors")
    assert not files_in(tmp_path)


# The same bytes; bounded memory.


def test_threads_and_runs_change_no_byte(tmp_path):
    net = specs(("a", (1500, 1000), "float32"), ("b", (1200, 1000), "bfloat16"), ("c", (300, 200), "float32"))
    plan = sb.plan(net, recipe={"c": Orthogonal(), "*": Normal(std=0.02)})
    written = [
        sb.write(plan, tmp_path / f"{n}.safetensors", threads=threads)[0].read_bytes()
        for n, threads in enumerate((1, 4, 4))
    ]
    assert written[0] == written[1] == written[2]
    code = (
        "import sys, seedbed as sb; from pathlib import Path;"
        "sb.write(sb.Plan.from_json(Path(sys.argv[1]).read_text()), sys.argv[2], threads=3)"
    )
    (tmp_path / "plan.json").write_text(plan.to_json())
    subprocess.run([sys.executable, "-c", code, tmp_path / "plan.json", tmp_path / "x.safetensors"], check=True)
    assert (tmp_path / "x.safetensors").read_bytes() == written[0]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells a process its own peak")
def test_memory_holds_a_few_blocks_however_large_the_plan(tmp_path):
    code = """
import re, sys
from pathlib import Path
import seedbed as sb
from seedbed.initializers import Normal
def write(rows):
    plan = sb.plan(sb.Specs((sb.ParamSpec(path="w", shape=(rows, 1024)),)), recipe=Normal(std=0.02))
    sb.write(plan, sys.argv[1] + f"/{rows}.safetensors", threads=2)
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
first = write(8192)
print((write(98304) - first) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path], check=True, capture_output=True, text=True)
    assert (tmp_path / "98304.safetensors").stat().st_size > 400_000_000
    assert int(done.stdout) < 32, "MiB more for 400 MB than for 33 MB"
    shutil.rmtree(tmp_path)


# Files that nobody vouches for.


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    HOSTILE["write"](folder)
    return folder


@pytest.mark.parametrize("name", [*(f"{n}.safetensors" for n in HOSTILE["FILES"]), *HOSTILE["FOLDERS"]])
def test_a_hostile_file_is_refused(name, hostile):
    with pytest.raises(CheckpointError) as caught:
        load(hostile / name)
    text = str(caught.value)
    assert len(text) < 1000 + len(str(hostile))
    assert not set(text) & set(map(chr, [*range(10), *range(11, 32), 127]))


def test_the_sound_file_that_the_hostile_ones_are_made_of_is_read(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(HOSTILE["SOUND"])
    assert load(tmp_path / "x.safetensors")["w"].array.tolist() == [0.0, 0.0]


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """The bytes of a sound file, and a place for others."""
    folder = tmp_path_factory.mktemp("any")
    plan = sb.plan(specs(("a.w", (3, 2), "float32"), ("b", (4,), "bfloat16"), ("c", (), "int64")), recipe=Zeros())
    return sb.write(plan, folder / "x.safetensors")[0].read_bytes(), folder / "y.safetensors"


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_a_sound_file_cut_or_changed_anywhere_is_read_or_refused(data, sound):
    raw, file = bytearray(sound[0]), sound[1]
    (length,) = struct.unpack("<Q", raw[:8])
    for _ in range(data.draw(st.integers(0, 4))):
        place = data.draw(st.integers(0, 8 + length - 1))
        raw[place] = data.draw(st.one_of(st.integers(0, 255), st.sampled_from(b'0123456789[]{}",:-')))
    file.write_bytes(raw[: data.draw(st.one_of(st.just(len(raw)), st.integers(0, len(raw))))])
    with contextlib.suppress(CheckpointError):
        for tensor in load(file).values():
            assert tensor.array.shape == tensor.shape


@settings(deadline=None, max_examples=200)
@given(header=st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", "__metadata__", "w", "F32", ""]), inner, max_size=4),
    max_leaves=12,
))  # fmt: skip
def test_any_json_at_all_is_read_or_refused(header, sound):
    sound[1].write_bytes(HOSTILE["file"](header, bytes(8)))
    with contextlib.suppress(CheckpointError):
        load(sound[1])


def test_a_sound_file_outside_the_folder_is_not_opened(tmp_path):
    (tmp_path / "secret.safetensors").write_bytes(HOSTILE["SOUND"])
    (tmp_path / "in").mkdir()
    for name in ("../secret.safetensors", str(tmp_path / "secret.safetensors"), "..\\secret.safetensors"):
        index = tmp_path / "in" / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": {"w": name}}))
        with pytest.raises(CheckpointError, match="outside its folder"):
            load(index)


def test_files_that_an_index_does_not_mention_in_full_are_read_in_full(tmp_path):
    plan = sb.plan(wide(), recipe=Zeros())
    index = sb.write(plan, tmp_path / "out", shard_size=8_000)[-1]
    data = json.loads(index.read_text())
    del data["weight_map"]["h.1.w"]
    index.write_text(json.dumps(data))
    assert sb.check(index, plan)


def test_nothing_is_read_until_it_is_used(tmp_path):
    (file,) = sb.write(sb.plan(wide(), recipe=Zeros()), tmp_path / "x.safetensors")
    array = load(file)["h.0.w"].array
    while not isinstance(array, np.memmap):
        array = array.base
    assert not array.flags.writeable
