"""Write a checkpoint in a process that may take little more memory than it has after its imports.

    python scripts/evidence/memory.py FOLDER [GIGABYTES] [MEGABYTES] [DTYPE] [--keep]

The address space is limited (RLIMIT_AS) to what it is once everything is imported and MEGABYTES, 512 unless told;
Prints what was written, how much more memory was held at the most, and removes it.
"""

from __future__ import annotations

import json
import re
import resource
import shutil
import sys
import time
from pathlib import Path

import seedbed as sb
from seedbed import engine, store


def status(name: str) -> int:
    """A figure of this process, in bytes."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


def main(folder: Path, gigabytes: float, megabytes: float, dtype: str) -> None:
    """Write files of 320 MB, under the limit."""
    assert store.save
    engine.chosen()
    imported, resident = status("VmSize"), status("VmRSS")
    limit = imported + round(megabytes * 1e6)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    rows = 40_000_000 // 1000 // sb.spec.ITEMSIZE[dtype]
    shapes = {f"h.{n}.w": (rows, 1000) for n in range(round(gigabytes * 1e9 / 40_000_000))}
    specs = sb.Specs(tuple(sb.ParamSpec(path=p, shape=s, dtype=dtype) for p, s in shapes.items()))
    begin = time.perf_counter()
    files = sb.write(sb.plan(specs, recipe=sb.initializers.Normal(std=0.02)), folder / "out", shard_size="320MB")
    seconds = time.perf_counter() - begin
    print(
        json.dumps(
            {
                "files": len(files),
                "bytes": sum(f.stat().st_size for f in files),
                "seconds": round(seconds, 1),
                "address space after imports": imported,
                "limit above it": limit - imported,
                "most taken above it": status("VmPeak") - imported,
                "most held above it": status("VmHWM") - resident,
            }
        )
    )


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--keep"]
    place = Path(words[0])
    try:
        main(place, float((words[1:] or [1])[0]), float((words[2:] or [512])[0]), (words[3:] or ["float32"])[0])
    finally:
        if "--keep" not in sys.argv:
            shutil.rmtree(place / "out", ignore_errors=True)
