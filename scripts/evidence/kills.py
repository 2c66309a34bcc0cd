"""Kill writers with SIGKILL at random moments, and count what they leave.

    python scripts/evidence/kills.py [KILLS] [FOLDER]

Each kill that comes before the writer's end counts, in three ways of writing: one process into an empty folder; two
processes at once, both killed; one process in the place of another model. One process is also killed before each
of its renames. After each kill, every file under a final
name must be whole, and an index must find all that it names; the same call again must then end with the very
bytes of a writer that nobody killed, and leave nothing beside them. Exit code 1 when one does not.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import seedbed as sb

SHARD = 2_000_000
TRIES = 40
"""As many for each kill that is to count."""
Write = Callable[[Path, int], object]


def plan_of(seed: int) -> sb.Plan:
    """Six files, of two parameters each."""
    specs = sb.Specs(tuple(sb.ParamSpec(path=f"h.{n}.w", shape=(250, 1000)) for n in range(12)))
    return sb.plan(specs, recipe=sb.initializers.Normal(std=0.02), seed=seed)


NEW, OLD = plan_of(0), plan_of(1)
WAYS: dict[str, tuple[int, Write]] = {
    "one process": (1, lambda out, _: sb.write(NEW, out, shard_size=SHARD, threads=2)),
    "two processes": (2, lambda out, rank: sb.write(NEW, out, shard_size=SHARD, threads=1, process=(rank, 2))),
    "replacing": (1, lambda out, _: sb.write(NEW, out, shard_size=SHARD, threads=2, replace=True)),
}


def held(folder: Path) -> dict[str, bytes]:
    """Every file, those beside final names with them."""
    return {p.name: p.read_bytes() for p in folder.iterdir()} if folder.exists() else {}


def started(write: Write, out: Path, rank: int) -> int:
    """A writer, as a process of its own."""
    child = os.fork()
    if child:
        return child
    try:
        write(out, rank)
    except BaseException as error:
        print(error, file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def ended(children: list[int]) -> list[int]:
    """How writers ended: 0, or minus the signal."""
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def wrong(found: dict[str, bytes], *whole: dict[str, bytes]) -> list[str]:
    """What is under a final name and should not be, or is missing from an index."""
    final = {name: raw for name, raw in found.items() if not name.startswith(".")}
    bad = [name for name, raw in final.items() if not any(model.get(name) == raw for model in whole)]
    if any(name.endswith(".index.json") for name in final) and not any(m.items() <= final.items() for m in whole):
        bad.append("the index names files that are not there")
    return bad


def trial(
    way: str,
    delay: float | None,
    out: Path,
    new: dict[str, bytes],
    old: dict[str, bytes],
    started_all: Callable[[], object] = lambda: None,
) -> tuple[bool, int, list[str]]:
    """Kill once: whether it came before the end, how many new files were whole, and what was wrong."""
    count, write = WAYS[way]
    replacing = way == "replacing"
    if replacing:
        shutil.copytree(out.parent / "old", out)
    children = [started(write, out, rank) for rank in range(count)]
    started_all()
    if delay is not None:
        time.sleep(delay)
        for child in children:
            os.kill(child, signal.SIGKILL)
    hit = -signal.SIGKILL in ended(children)
    left = held(out)
    bad = wrong(left, new, *([old] if replacing else []))
    if any(ended([started(write, out, rank) for rank in range(count)])):
        bad.append("the restart failed")
    elif held(out) != new:
        bad.append("the restart left other bytes")
    shutil.rmtree(out)
    return hit, sum(left.get(name) == raw for name, raw in new.items()), bad


def at_renames(way: str, out: Path, new: dict[str, bytes], old: dict[str, bytes]) -> tuple[int, list[str]]:
    """Kill before each rename in turn, where a moment drawn at random seldom falls: how many, and what was wrong."""
    real, bad, number = os.replace, [], 0
    while True:
        calls = iter(range(number, -1, -1))

        def deadly(source: Path, target: Path, calls: Iterator[int] = calls) -> None:
            if next(calls, 1) == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            real(source, target)

        os.replace = deadly
        hit, _, found = trial(way, None, out, new, old, lambda: setattr(os, "replace", real))
        bad += found
        if not hit:
            return number, bad
        number += 1


def main(kills: int, folder: Path) -> int:
    """Kill as often in each way, and print what was counted."""
    sb.write(NEW, folder / "new", shard_size=SHARD)
    sb.write(OLD, folder / "old", shard_size=2 * SHARD)
    new, old = held(folder / "new"), held(folder / "old")
    failed = 0
    for way, (count, write) in WAYS.items():
        took = []
        for _ in range(3):
            begin = time.perf_counter()
            ended([started(write, folder / "timed", rank) for rank in range(count)])
            took.append(time.perf_counter() - begin)
            shutil.rmtree(folder / "timed")
        hits, tries, bad, whole = 0, 0, [], Counter[int]()
        while hits < kills and tries < TRIES * kills:
            tries += 1
            hit, files, found = trial(way, random.uniform(0, sorted(took)[1]), folder / "out", new, old)
            hits += hit
            if hit:
                whole[files] += 1
            bad += found
        renames, found = at_renames(way, folder / "out", new, old) if count == 1 else (0, [])
        bad += found
        failed += len(bad) + (hits < kills)
        print(
            json.dumps(
                {
                    "way": way,
                    "kills before the end": hits,
                    "tries": tries,
                    "ms a write": round(1000 * sorted(took)[1]),
                    "new files whole when killed": {str(n): whole[n] for n in sorted(whole)},
                    "kills before a rename": renames,
                    "wrong": bad,
                }
            ),
            flush=True,
        )
    return 1 if failed else 0


if __name__ == "__main__":
    if len(sys.argv) > 2:
        sys.exit(main(int(sys.argv[1]), Path(sys.argv[2])))
    with tempfile.TemporaryDirectory() as place:
        sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 50, Path(place)))
