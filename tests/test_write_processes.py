"""Several processes write one checkpoint, a restart goes on, and nothing is overwritten unasked."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

import seedbed as sb
from seedbed.errors import InputError, OutputError
from seedbed.fill import fill
from seedbed.initializers import Custom, Keep, Normal, Zeros
from seedbed.store.aside import Aside, aside

ROOT = Path(__file__).parents[1]
LINUX = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells a process its own peak")
SIZE = 8_000
"""Two parameters a file: three files."""


def plan_of(recipe=None, layers=6, seed=0):
    specs = sb.Specs(tuple(sb.ParamSpec(path=f"h.{n}.w", shape=(100, 10)) for n in range(layers)))
    return sb.plan(specs, recipe=recipe or Normal(std=1.0), seed=seed)


def files_in(folder):
    return {p.name: p.read_bytes() for p in Path(folder).iterdir()}


def identities(folder):
    return {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in Path(folder).iterdir()}


@pytest.fixture
def whole(tmp_path):
    """What one process writes of the plan."""
    sb.write(plan_of(), tmp_path / "whole", shard_size=SIZE)
    return files_in(tmp_path / "whole")


FIRST, SECOND, THIRD, INDEX = (
    *(f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)), "model.safetensors.index.json",
)  # fmt: skip


# Several processes.


def test_each_process_writes_its_own_files_and_the_last_the_index(tmp_path, whole):
    out = tmp_path / "out"
    names = [[f.name for f in sb.write(plan_of(), out, shard_size=SIZE, process=(rank, 2))] for rank in (1, 0)]
    assert names == [[SECOND], [FIRST, THIRD, INDEX]]
    assert files_in(out) == whole
    before = identities(out)
    assert [f.name for f in sb.write(plan_of(), out, shard_size=SIZE, process=(1, 2))] == [SECOND, INDEX]
    assert identities(out) == before


def test_a_process_without_files_writes_none(tmp_path, whole):
    assert sb.write(plan_of(), tmp_path / "out", shard_size=SIZE, process=(3, 4)) == []
    assert sb.write(plan_of(), tmp_path / "x.safetensors", process=(1, 2)) == []
    assert files_in(tmp_path / "out") == {}
    assert not (tmp_path / "x.safetensors").exists()
    (file,) = sb.write(plan_of(), tmp_path / "x.safetensors", process=(0, 2))
    assert file.read_bytes() == sb.write(plan_of(), tmp_path / "y.safetensors")[0].read_bytes()


WRITER = """
import sys
from pathlib import Path
import seedbed as sb
plan = sb.Plan.from_json(Path("plan.json").read_text())
rank, of = map(int, sys.argv[1:])
print(*(f.name for f in sb.write(plan, "out", shard_size=8_000, process=(rank, of))))
"""


def together(folder, ranks, of):
    """Processes at the same time: what each said, and its exit code."""
    (folder / "plan.json").write_text(plan_of().to_json())
    started = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(rank), str(of)],
            cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in ranks
    ]  # fmt: skip
    said = [process.communicate(timeout=60) for process in started]
    return [(process.returncode, *words) for process, words in zip(started, said, strict=True)]


@pytest.mark.parametrize("of", [2, 3, 5])
def test_real_processes_write_the_bytes_of_one(of, tmp_path, whole):
    done = together(tmp_path, range(of), of)
    assert all((code, err) == (0, "") for code, _, err in done)
    assert any(INDEX in out for _, out, _ in done)
    assert files_in(tmp_path / "out") == whole


def test_racing_processes_of_the_same_number_end_with_the_same_bytes(tmp_path, whole):
    done = together(tmp_path, [0, 0, 0, 0], 1)
    assert any(code == 0 for code, _, _ in done)
    assert all("another process is writing this file" in err for code, _, err in done if code)
    assert files_in(tmp_path / "out") == whole


RACE = """
import os, sys
from pathlib import Path
import seedbed as sb
plan = sb.Plan.from_json(Path("plan.json").read_text())
sb.write(plan, "out", shard_size=8_000)
index = Path("out/model.safetensors.index.json")
raw, names = index.read_bytes(), sorted(os.listdir("out"))
for turn in range(20):
    index.unlink()
    children = []
    for rank in range(6):
        children.append(os.fork())
        if not children[-1]:
            found = sb.write(plan, "out", shard_size=8_000, process=(rank, 6))
            os._exit(0 if found[-1] == index else 1)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert codes == [0] * 6, codes
    assert index.read_bytes() == raw
    assert sorted(os.listdir("out")) == names
"""


def test_several_may_write_the_index_at_once(tmp_path):
    (tmp_path / "plan.json").write_text(plan_of().to_json())
    subprocess.run([sys.executable, "-c", RACE], cwd=tmp_path, check=True, timeout=60)


@pytest.mark.parametrize("process", [(2, 2), (-1, 2), (0, 0), (0,), (0.0, 1), (True, 2), "0/2", None, 3])
def test_a_process_that_is_none_is_refused_before_a_file_is_made(process, tmp_path):
    with pytest.raises(InputError, match=r"^process: must be \(rank, of\)"):
        sb.write(plan_of(), tmp_path / "out", process=process)
    assert not list(tmp_path.iterdir())


# A restart.


@pytest.mark.parametrize("lost", [[INDEX], [FIRST, INDEX], [SECOND, THIRD], [SECOND]])
def test_a_restart_writes_what_is_missing_and_nothing_else(lost, tmp_path, whole):
    out = tmp_path / "whole"
    for name in lost:
        (out / name).unlink()
    before, told = identities(out), []
    files = sb.write(plan_of(), out, shard_size=SIZE, progress=lambda path, size: told.append(size))
    assert [f.name for f in files] == [FIRST, SECOND, THIRD, INDEX]
    assert files_in(out) == whole
    assert {name: identities(out)[name] for name in before} == before
    assert sum(told) == 8_000 * len(set(lost) - {INDEX}), "what is there is not counted"


def test_one_whole_file_is_not_written_again(tmp_path):
    sb.write(plan_of(), tmp_path / "x.safetensors")
    before = identities(tmp_path)
    assert sb.write(plan_of(), tmp_path / "x.safetensors") == [tmp_path / "x.safetensors"]
    assert sb.write(plan_of(), tmp_path / "x.safetensors", replace=True) == [tmp_path / "x.safetensors"]
    assert identities(tmp_path) == before


def test_values_that_the_plan_does_not_decide_are_written_again(tmp_path):
    torch = pytest.importorskip("torch")
    net = torch.nn.Linear(2, 3)

    def written(recipe, **start):
        (file,) = sb.write(sb.plan(net, recipe=recipe, **start), tmp_path / "x.safetensors", model=net)
        return load_file(file)["bias"].tolist()

    for value in (1.0, 2.0):
        torch.nn.init.constant_(net.bias, value)
        assert written({"bias": Keep(values=True), "*": Zeros()}) == [value] * 3, "a model's"
    (tmp_path / "x.safetensors").unlink()
    for value in (1.0, 2.0):

        def mine(draw, spec, value=value):
            return np.full(draw.shape, value, np.float32)

        assert written({"bias": Custom(mine), "*": Zeros()}) == [value] * 3, "a function's"
    (tmp_path / "x.safetensors").unlink()
    for value in (1.0, 2.0):
        held = sb.plan(net, recipe=sb.initializers.Constant(value=value))
        sb.write(held, tmp_path / "held.safetensors", replace=True)
        assert written(None, checkpoint=tmp_path / "held.safetensors") == [value] * 3, "another checkpoint's"


def test_what_killed_writers_left_is_used_and_removed(tmp_path, whole):
    out = tmp_path / "whole"
    (out / SECOND).unlink()
    (out / INDEX).unlink()
    left = [aside(out / SECOND, "partial"), aside(out / "model-00007-of-00009.safetensors", "partial"),
            aside(out / INDEX, "partial"), aside(out / "model.safetensors", "earlier"), aside(out / THIRD, "replacing")]  # fmt: skip
    for path in left:
        path.write_bytes(b"x" * 100_000)
    others = [out / ".other.safetensors.partial", out / ".model.txt.partial", out / ".model-1.safetensors.partial"]
    for path in others:
        path.write_bytes(b"mine")
    sb.write(plan_of(), out, shard_size=SIZE)
    assert files_in(out) == whole | {path.name: b"mine" for path in others}


def test_what_a_living_writer_has_is_left_to_it(tmp_path, whole):
    out = tmp_path / "whole"
    with Aside(out / SECOND) as other:
        (out / SECOND).unlink()
        with pytest.raises(OutputError, match="another process is writing this file"):
            sb.write(plan_of(), out, shard_size=SIZE)
        assert sb.write(plan_of(), out, shard_size=SIZE, process=(0, 3)) == [out / FIRST], "not the others"
        assert other.path.exists()
    assert [f.name for f in sb.write(plan_of(), out, shard_size=SIZE)] == [FIRST, SECOND, THIRD, INDEX]
    (out / INDEX).unlink()
    with Aside(out / THIRD) as other:
        sb.write(plan_of(), out, shard_size=SIZE)
        assert other.path.exists(), "a writer of the same number, which will find that it has nothing to do"
    with Aside(out / INDEX, "gate"):
        aside(out / THIRD, "replacing").touch()
        sb.write(plan_of(), out, shard_size=SIZE)
        assert aside(out / THIRD, "replacing").exists(), "some process is replacing this checkpoint"
        with pytest.raises(OutputError, match="another process is writing this file"):
            sb.write(plan_of(seed=1), out, shard_size=SIZE, replace=True)
    sb.write(plan_of(), out, shard_size=SIZE)
    assert files_in(out) == whole


def test_a_name_taken_between_opening_and_locking_is_opened_again(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    final, real, calls = tmp_path / "x.safetensors", fcntl.flock, []

    def late(descriptor, how):
        if not calls:  # another process gives the file its own name, just now
            os.replace(aside(final, "partial"), final)
        calls.append(how)
        real(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with Aside(final) as made:
        assert len(calls) == 2
        assert made.path.exists()
        os.write(made.descriptor, b"mine")
    assert final.read_bytes() == b""


@pytest.mark.parametrize("code", ["ENOLCK", "ENOSYS"])
def test_a_file_system_without_locks_is_written_all_the_same(code, tmp_path, monkeypatch, whole):
    import errno

    fcntl = pytest.importorskip("fcntl")

    def unable(descriptor, how):
        raise OSError(getattr(errno, code), "no locks")

    monkeypatch.setattr(fcntl, "flock", unable)
    sb.write(plan_of(), tmp_path / "out", shard_size=SIZE)
    assert files_in(tmp_path / "out") == whole


def test_a_full_disk_keeps_the_files_that_are_whole(tmp_path, monkeypatch, whole):
    real, calls = os.posix_fallocate, []

    def fills(descriptor, offset, length):
        calls.append(length)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        real(descriptor, offset, length)

    monkeypatch.setattr(os, "posix_fallocate", fills)
    out = tmp_path / "out"
    with pytest.raises(OutputError) as caught:
        sb.write(plan_of(), out, shard_size=SIZE)
    assert str(caught.value) == (
        f"{out}: cannot be written: No space left on device.\n\n"
        "2 files are whole and stay: make room there, and the same call goes on from them."
    )
    assert sorted(files_in(out)) == [FIRST, SECOND]
    before = identities(out)
    sb.write(plan_of(), out, shard_size=SIZE)
    assert len(calls) == 4, "one file was missing"
    assert files_in(out) == whole
    assert {name: identities(out)[name] for name in before} == before


# Another model stands there.


def other_seed(out):
    sb.write(plan_of(seed=1), out, shard_size=SIZE)
    return [f"{n}: fingerprint {plan_of(seed=1).fingerprint()}" for n in (FIRST, SECOND, THIRD)]


def one_file(out):
    sb.write(plan_of(seed=1), out)
    return [f"model.safetensors: fingerprint {plan_of(seed=1).fingerprint()}"]


def cut_otherwise(out):
    sb.write(plan_of(), out, shard_size=12_000)
    cut = [f"model-0000{n}-of-00002.safetensors: of this plan, which is now cut into other files" for n in (1, 2)]
    return [f"{INDEX}: an index of other files", *cut]


def cut_short(out):
    sb.write(plan_of(), out, shard_size=SIZE)
    os.truncate(out / SECOND, 5_000)
    return [f"{SECOND}: of this plan, but not whole"]


def of_somebody(out):
    from safetensors.numpy import save_file

    out.mkdir()
    save_file({"w": np.ones(3, np.float32)}, out / FIRST)
    (out / THIRD).write_bytes(b"junk")
    (out / "model.safetensors").mkdir()
    return [f"{FIRST}: not written by seedbed", f"{THIRD}: not written by seedbed",
            "model.safetensors: not a file that can be read"]  # fmt: skip


def an_index(out):
    out.mkdir()
    (out / INDEX).write_text("{}")
    return [f"{INDEX}: an index of other files"]


@pytest.mark.parametrize("make", [other_seed, one_file, cut_otherwise, cut_short, of_somebody, an_index])
def test_another_model_is_not_overwritten_unasked(make, tmp_path, whole):
    out = tmp_path / "out"
    found = make(out)
    before = identities(out)
    facts = [f"expected  fingerprint {plan_of().fingerprint()}, in 3 files", f"found     {found[0]}"]
    facts += [f"          {line}" for line in found[1:]]
    with pytest.raises(OutputError) as caught:
        sb.write(plan_of(), out, shard_size=SIZE)
    assert caught.value.sentence == f"{out}: holds another model."
    assert caught.value.facts == facts
    assert "replace=True" in caught.value.remedy
    assert "--replace" in caught.value.remedy
    with pytest.raises(OutputError) as caught:
        sb.write(plan_of(), out, shard_size=SIZE, replace=True, process=(0, 2))
    assert caught.value.sentence == f"{out}: holds another model, which several processes cannot replace."
    assert caught.value.facts == facts
    assert caught.value.remedy == "Remove it first, give another place, or let one process alone replace it."
    assert identities(out) == before
    if make is not of_somebody:
        sb.write(plan_of(), out, shard_size=SIZE, replace=True)
        assert files_in(out) == whole


def test_several_processes_may_be_told_to_replace_what_is_not_there(tmp_path, whole):
    for rank in (0, 1):
        sb.write(plan_of(), tmp_path / "out", shard_size=SIZE, replace=True, process=(rank, 2))
    assert files_in(tmp_path / "out") == whole


@pytest.mark.parametrize("at", ["while it is written", "after"])
def test_what_another_plan_writes_meanwhile_is_not_lost_nor_taken_for_its_own(at, tmp_path, monkeypatch, whole):
    out, real = tmp_path / "out", os.replace

    def interfere():
        (tmp_path / "other.safetensors").write_bytes(b"another's")
        real(tmp_path / "other.safetensors", out / THIRD)

    def placed(source, target):
        real(source, target)
        if Path(target).name == (SECOND if at == "while it is written" else THIRD):
            interfere()

    monkeypatch.setattr(os, "replace", placed)
    with pytest.raises(OutputError, match="something else was written there while this plan was"):
        sb.write(plan_of(), out, shard_size=SIZE)
    assert files_in(out) == {FIRST: whole[FIRST], SECOND: whole[SECOND], THIRD: b"another's"}


# At the limits.


def evidence(script, *words):
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "evidence" / script, *map(str, words)],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="writers are forked, since to start one takes longer than to write")
def test_kill_9_leaves_whole_files_and_a_restart_ends_with_the_same_bytes(tmp_path):
    one, two, replacing = evidence("kills.py", 17, tmp_path)
    assert [row["kills before the end"] for row in (one, two, replacing)] == [17, 17, 17]
    assert (one["kills before a rename"], replacing["kills before a rename"]) == (7, 11)
    assert not [*one["wrong"], *two["wrong"], *replacing["wrong"]]
    assert len(one["new files whole when killed"]) > 1, "they were killed at different moments"


@LINUX
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_checkpoint_larger_than_the_memory_allowed_is_written(dtype, tmp_path):
    """The address space: of a thread, its stack and its arena of 64 MiB are part of it."""
    (row,) = evidence("memory.py", tmp_path, 0.96, 512, dtype)
    assert row["files"] == 4, "and the index is one of them"
    assert row["bytes"] > 900_000_000 > row["limit above it"] + 300_000_000
    assert row["most held above it"] < 100_000_000


def test_transformers_and_safetensors_open_what_several_wrote(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_layer=2, n_head=2, n_embd=8, vocab_size=32, n_positions=8)
    with sb.deferred():
        net = transformers.GPT2LMHeadModel(config)
    plan = sb.plan(net, recipe="gpt2", seed=2)
    files = [sb.write(plan, tmp_path / "out", shard_size=2_000, process=(rank, 3)) for rank in (2, 0, 1)]
    config.save_pretrained(tmp_path / "out")
    again = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "out")
    assert sb.check(again, plan)
    found = {}
    for file in {f for written in files for f in written if f.suffix == ".safetensors"}:
        with safe_open(file, "np") as opened:
            found |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 -- it is no mapping
    expected = {e.spec.path: e for e in plan if e.spec.persistent}
    assert set(found) == set(expected)
    assert all(found[path].tobytes() == fill(entry).tobytes() for path, entry in expected.items())
