"""One start over many layouts and numbers of processes; writes docs/evidence/layouts.md.

    python scripts/evidence/layouts.py

Real processes on this machine, joined by gloo; the same programs as the tests of sharded models run, on wider models.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from tests.distributed import layouts

import seedbed as sb

PAGE = Path(__file__).parents[2] / "docs" / "evidence" / "layouts.md"
WORLDS, SCALE = (1, 2, 4), 64
HEAD = f"""# One start over layouts

Made by `python scripts/evidence/layouts.py` with PyTorch {torch.__version__.split("+")[0]}: real processes joined by gloo, every
model built in `deferred()`, laid out, then started by `sb.initialize(model, collective=False)`, each
process while the others waited. (By default the ranks first compare their plans, by one small all-gather.)

*Fingerprint*: `sb.fingerprint(plan, model)` after the start, the same on every process. *Alone*: that of the same model
started by one process without a layout. (All parameters and buffers are gathered too, and compared bit for bit.) *Sent*: collective operations during the
start. *Grew*: how much more memory a process held at most during the start than before it, against the bytes that are
its own; the largest of all processes. *Step*: the largest difference after one step of AdamW from the model that is not
sharded. *Verdict*: fingerprint, `sb.check`, identity of parameters, ties, and a second start after a forward pass.

| layout | model | processes | fingerprint | alone | sent | own, MB | grew, MB | step | verdict |
|---|---|---|---|---|---|---|---|---|---|
"""
NOTE = """
Models of few rows are not made wider, and what a process grows by is then its own business. `step` is empty where PyTorch
lays a model out and cannot call it (uneven tensor parallelism); where it computes in bfloat16, it differs by what that rounds.
"""


def verdict(lines: list[dict], alone: str) -> str:
    """What does not hold, if anything."""
    wrong = [
        name
        for name, holds in {
            "fingerprint": {d["values"] for d in lines} == {alone},
            "bits": len({d["fingerprint"] for d in lines}) == 1 and not any(d["different"] for d in lines),
            "check": all(d["same"] for d in lines),
            "identity": all(d["identity"] for d in lines),
            "ties": all(d["ties"] for d in lines),
            "again": all(d.get("again", d["fingerprint"]) == d["fingerprint"] for d in lines),
            "sent": not any(d["sent"] for d in lines),
        }.items()
        if not holds
    ]
    return "equal" if not wrong else "not: " + ", ".join(wrong)


def row(world: int, key: str, lines: list[dict], alone: str) -> str:
    """One line of the table."""
    lines = [d for d in lines if d["layout"] == key]
    failed = [d["error"].strip().split("\n")[-1] for d in lines if "error" in d]
    if failed or len(lines) != world:
        return f"| {key} | {layouts.LAYOUTS[key][1]} | {world} | {(failed or ['no answer'])[0][:60]} |" + " |" * 6
    most = max(lines, key=lambda d: d["grew"])
    step = f"{max(d['step'] for d in lines):.1e}" if "step" in lines[0] else ""
    cells = (
        *(key, layouts.LAYOUTS[key][1], world, f"`{lines[0]['values']}`", f"`{alone}`"),
        *(sum(d["sent"] for d in lines), f"{most['bytes'] / 1e6:.1f}", f"{most['grew'] / 1e6:.1f}"),
        *(step, verdict(lines, alone)),
    )
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    """Write the page."""
    alone = {}
    for net in layouts.NETS:
        model = layouts.built(net, scale=SCALE)
        plan = sb.plan(model, seed=layouts.SEED)
        alone[net] = sb.fingerprint(plan, sb.materialize(plan, model))
    rows = []
    for world in WORLDS:
        found = layouts.run(world, SCALE)
        for key, (_, net) in layouts.LAYOUTS.items():
            rows.append((key, world, row(world, key, found["lines"], alone[net])))
            print(rows[-1][-1], flush=True)
    rows.sort(key=lambda r: list(layouts.LAYOUTS).index(r[0]))
    bad = [text for _, _, text in rows if not text.endswith("| equal |")]
    summary = f"\n{len(rows) - len(bad)} of {len(rows)} starts are equal to those of one process.\n"
    PAGE.write_text(HEAD + "\n".join(text for *_, text in rows) + "\n" + summary + NOTE, encoding="utf-8")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
