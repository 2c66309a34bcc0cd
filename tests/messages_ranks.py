"""The messages about ranks, meshes and fingerprints; cases of tests/test_messages.py."""

import contextlib
import threading
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn

import seedbed as sb
from seedbed import cli, digest
from seedbed.frameworks import Ranks
from seedbed.mesh import mesh_of, placements_of
from seedbed.shard import Shard
from seedbed.verbs.agreeing import agree


class Meeting:
    """Two threads that stand for two ranks, and tell each other what they say."""

    def __init__(self):
        self.barrier, self.said = threading.Barrier(2, timeout=30), {}

    def gather(self, number):
        def tell(text):
            self.said[number] = text
            self.barrier.wait()
            found = dict(sorted(self.said.items()))
            self.barrier.wait()
            return found

        return tell


def ranks_of(number, meeting, **other):
    known = {"place": (number,), "mesh": "dp=2", "size": 2, "layouts": {}, "real": ()}
    return Ranks(number=number, gather=meeting.gather(number), **(known | other))


def net():
    return nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))


def met(mine=None, theirs=None, *, plans=None):
    """Rank 0's error, when the two are about to start."""
    meeting = Meeting()
    plans = plans or (sb.plan(net(), recipe="he"), sb.plan(net(), recipe="he"))

    def one(number, other):
        framework = SimpleNamespace(ranks=lambda model: ranks_of(number, meeting, **(other or {})))
        agree(framework, plans[number], None, replace=False, collective=True)

    def quietly():
        with contextlib.suppress(sb.SeedbedError):  # rank 0 says the same
            one(1, theirs)

    other = threading.Thread(target=quietly)
    other.start()
    try:
        one(0, mine)
    finally:
        other.join()


def planned(**kwargs):
    return sb.plan(nn.Sequential(nn.Linear(6, 9), nn.Linear(9, 2)), recipe="he", **kwargs)


def fingerprint_of_kept():
    wish = sb.initializers.Keep(values=True)
    sb.fingerprint(sb.plan(net(), recipe={"0.weight": wish, "*": sb.initializers.Zeros()}))


def fingerprint_of_some():
    plan = sb.plan(net())
    sb.fingerprint(plan, {"0.weight": torch.zeros(3, 2), "1.weight": torch.zeros(1, 3)})


def replicas_that_differ():
    found = digest.sums(sb.plan(net(), recipe="he"))
    other = digest.sums(sb.plan(net(), recipe="he", seed=1))
    digest.together({0: found, 1: other})


def shards_that_are_not_all():
    plan = sb.plan(net(), recipe="he")
    held = SimpleNamespace(dtype="float32", shape=(3, 2), array=torch.ones(1, 2).numpy())
    held.shard = Shard.whole((3, 2)).cut(0, 3, 1)
    rest = {e.spec.path: sb.check.__globals__["_values"](dict(net().named_parameters()))[e.spec.path] for e in plan}
    digest.together({0: digest.sums(plan, rest | {"0.weight": held})})


def flattened():
    """The wrapper as it stands around a model; its constructor asks for a GPU."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    wrapper = FullyShardedDataParallel.__new__(FullyShardedDataParallel)
    nn.Module.__init__(wrapper)
    wrapper._fsdp_wrapped_module = nn.Linear(2, 3)
    sb.plan(nn.Sequential(nn.Linear(3, 2), wrapper))


def on_one_of_two(act):
    """Act on a sharded model, as the first of two processes."""
    from tests.distributed.emulated import process
    from torch.distributed.fsdp import fully_shard

    with process(0, 2):
        act(fully_shard(net()))


def kept_and_written(model):
    wish = {"0.weight": sb.initializers.Keep(values=True), "*": sb.initializers.Zeros()}
    sb.write(sb.plan(model, recipe=wish), "made", model=model)


def folder_in_the_way():
    Path("made/model-00001-of-00002.safetensors").mkdir(parents=True)
    sb.write(sb.plan(net(), recipe="he"), "made", shard_size=30, replace=True)


def half_written():
    sb.write(sb.plan(net(), recipe="he"), "made", shard_size=30, process=(0, 2))
    sb.check("made", sb.plan(net(), recipe="he"))


CASES = {
    "ranks_kept_shard_written": lambda: on_one_of_two(kept_and_written),
    "ranks_function_of_layers": lambda: on_one_of_two(lambda model: sb.apply_init(model, (1, 2), lambda layer: None)),
    "device_without_memory": lambda: sb.initialize(net(), device="meta"),
    "write_over_a_folder": folder_in_the_way,
    "checkpoint_not_finished": half_written,
    "command_json_of_a_mesh": lambda: cli.plan_command("net.py:net", mesh="dp=2", json=True),
    "model_flattened": flattened,
    "ranks_values_there": lambda: met({"real": ("0.weight",)}, {"real": ("0.weight",)}),
    "ranks_values_there_many": lambda: met({"real": ("0.weight", "1.bias")}, {"real": ("0.weight", "1.bias")}),
    "ranks_another_fails": lambda: met(None, {"real": ("0.weight",)}),
    "ranks_mesh": lambda: met({"mesh": "dp=2"}, {"mesh": "tp=2"}),
    "ranks_mesh_place": lambda: met({"place": (1,)}, {"place": (1,)}),
    "ranks_seeds": lambda: met(plans=(sb.plan(net(), recipe="he", seed=3), sb.plan(net(), recipe="he", seed=4))),
    "ranks_plans": lambda: met(plans=(sb.plan(net(), recipe="he"), sb.plan(net(), recipe="xavier"))),
    "ranks_layouts": lambda: met(
        {"layouts": {"0.weight": "(Shard(dim=0),) over dp=2"}}, {"layouts": {"0.weight": "(Shard(dim=1),) over dp=2"}}
    ),
    "fingerprint_kept": fingerprint_of_kept,
    "fingerprint_missing": fingerprint_of_some,
    "fingerprint_replicas": replicas_that_differ,
    "fingerprint_not_all": shards_that_are_not_all,
    "fingerprint_not_a_plan": lambda: sb.fingerprint(net()),
    "mesh_size": lambda: sb.divide(planned(), {"dp": 0}),
    "mesh_empty": lambda: sb.divide(planned(), {}),
    "mesh_axis": lambda: sb.divide(planned(), {"dp": 2}, {"*": {"pd": 0}}),
    "mesh_pattern": lambda: sb.divide(planned(), {"dp": 2}, {"0.weigth": {"dp": 0}}),
    "mesh_axis_of_parameter": lambda: sb.divide(planned(), {"dp": 2}, {"*": {"dp": 1}}),
    "mesh_device": lambda: sb.divide(planned(), {"dp": 2}).shard("0.weight", 2),
    "mesh_text": lambda: mesh_of("dp8"),
    "mesh_text_twice": lambda: mesh_of("dp=8,dp=2"),
    "placements_text": lambda: placements_of(["*.weight=tp0"]),
    "command_placements_alone": lambda: cli.plan_command("net.py:net", placements=["*=dp:0"]),
}
