"""Models of the frameworks' own zoos and in the style of their examples, started and compared; a section of docs/evidence/zoos.md.

    KERAS_BACKEND=torch python scripts/evidence/zoos.py keras --zoo
    python scripts/evidence/zoos.py gluon --zoo        # in the environment of its own
    python scripts/evidence/zoos.py flax

--zoo=NASNet takes those whose name begins so; without it, only the small models in the style of examples are run.
"""

from __future__ import annotations

import importlib
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

PAGE = ROOT / "docs" / "evidence" / "zoos.md"
LARGE = 70e6
"""Values; larger models are planned and not started."""
HEAD = """# Models of others

Made by `python scripts/evidence/zoos.py`, a section each time. *Agree*: the same parameters in the same order, with the
same shapes, dtypes and flags as the framework's own start of the same model; what is constant is equal, and what is random
passes a test of Kolmogorov and Smirnov against the framework's values, which fails by chance once in 10^9; no parameter is
kept as it was; `check` finds every value as planned; and the outputs are finite. *Planned*: more than 70 million values, so only
the plan was made, and its shapes compared.
"""
Row = tuple[str, int, int, str, float]
Case = tuple[str, Callable[[], Any]]


def row(name: str, make: Any, disagreements: Callable[..., Any]) -> Row:
    """One model, started both ways."""
    begin = time.perf_counter()
    try:
        found, plan = disagreements(make)
    except Exception as error:
        return name, 0, 0, f"error: {type(error).__name__}: {str(error).splitlines()[0][:80]}", 0.0
    values = sum(e.spec.count for e in plan)
    verdict = "agree" if not found else f"{len(found)} differ: {found[0][:80]}"
    return name, len(plan), values, verdict, time.perf_counter() - begin


def planned(name: str, plan: Any, shapes: list[tuple[int, ...]]) -> Row:
    """One model that is too large to be started twice here."""
    same = sorted(e.spec.sizes for e in plan) == sorted(shapes)
    return name, len(plan), sum(e.spec.count for e in plan), "planned" if same else "shapes differ", 0.0


def keras_rows(*, zoo: str | None) -> Iterator[Row]:
    """`keras.applications`, and the style of keras.io."""
    import keras
    from tests.keras.test_keras_zoo import disagreements
    from tests.keras.zoo import ZOO, img

    import seedbed as sb

    sides = {"InceptionV3": 75, "InceptionResNetV2": 75, "Xception": 71, "NASNetMobile": 224, "NASNetLarge": 331}
    offered = vars(keras.applications).items()
    for name, make in sorted(
        (k, v) for k, v in offered if zoo is not None and k[0].isupper() and k.startswith(zoo) and callable(v)
    ):
        side = sides.get(name, 32)
        kept: list[Any] = []

        def made(make: Any = make, side: int = side, kept: list[Any] = kept) -> Any:
            found = kept.pop() if kept else make(weights=None, classes=10, input_shape=(side, side, 3))
            return found, (img(1, side, side, 3),)

        try:
            first = made()[0]
        except ValueError as error:
            yield name, 0, 0, f"not on this backend, Keras says: {str(error)[:60]}", 0.0
            continue
        if first.count_params() > LARGE:
            yield planned(name, sb.plan(first), [tuple(w.shape) for w in first.weights])
        else:
            kept.append(first)
            yield row(name, made, disagreements)
        del first
        keras.backend.clear_session()
    for name, small in ZOO.items():
        yield row(name, small, disagreements)


def gluon_rows(*, zoo: str | None) -> Iterator[Row]:
    """`mxnet.gluon.model_zoo.vision`, and the style of Gluon's examples."""
    from mxnet.gluon.model_zoo import vision
    from tests.gluon.test_gluon_zoo import disagreements
    from tests.gluon.zoo import ZOO, img

    import seedbed as sb

    names = re.findall(r"'([\w.]+)': \w+", Path(vision.__file__).read_text())
    for name in [n for n in names if zoo is not None and n.startswith(zoo)]:
        side = 299 if "inception" in name else 224 if name.startswith(("vgg", "alex", "dense", "squeeze")) else 64

        def made(name: str = name, side: int = side) -> Any:
            return vision.get_model(name, classes=10), [img(1, 3, side, side)]

        if name.startswith("vgg"):
            model, inputs = made()
            plan = sb.plan(model, *inputs)
            model.infer_shape(*inputs)
            yield planned(name, plan, [p.shape for p in model.collect_params().values()])
        else:
            yield row(name, made, disagreements)
    for name, small in ZOO.items():
        yield row(name, small, disagreements)
        yield row(f"{name}, hybridized", small, lambda make: disagreements(make, hybrid=True))


def flax_rows(*, zoo: str | None) -> Iterator[Row]:
    """The style of Flax's examples, linen and nnx."""
    from tests.frameworks.zoo_flax import LINEN, NNX
    from tests.slow.test_flax_zoo import linen_disagreements, nnx_disagreements

    for name, make in LINEN.items():
        yield row(f"linen: {name}", make, linen_disagreements)
    for name, make in NNX.items():
        yield row(f"nnx: {name.removeprefix('nnx_')}", make, nnx_disagreements)


ROWS = {"keras": keras_rows, "gluon": gluon_rows, "flax": flax_rows}
MODULES = {"keras": "keras", "gluon": "mxnet", "flax": "flax"}


def main() -> None:
    """One section."""
    warnings.filterwarnings("ignore")
    which = sys.argv[1]
    zoo = next((a.partition("=")[2] for a in sys.argv[2:] if a.startswith("--zoo")), None)
    module = importlib.import_module(MODULES[which])
    beside = f" on {module.backend.backend()}" if which == "keras" else ""
    title = f"## {which.capitalize()} {module.__version__}{beside}"
    table, verdicts = ["| model | parameters and buffers | values | result |", "|---|---|---|---|"], []
    for name, number, values, verdict, seconds in ROWS[which](zoo=zoo):
        print(name, values, verdict, f"{seconds:.1f} s", flush=True)
        table.append(f"| {name} | {number:,} | {values:,} | {verdict} |")
        verdicts.append(verdict)
        write(title, table, verdicts)


def write(title: str, table: list[str], verdicts: list[str]) -> None:
    """Put a section in its place, the others as they are."""
    counts = {kind: verdicts.count(kind) for kind in ("agree", "planned")}
    rest = len(verdicts) - sum(counts.values())
    said = f"Tried {len(verdicts)}: {counts['agree']} agree, {counts['planned']} planned, {rest} not."
    page = PAGE.read_text() if PAGE.exists() else HEAD
    sections = dict(re.findall(r"\n(## [^\n]+)\n(.*?)(?=\n## |\Z)", page, re.DOTALL))
    sections[title] = "\n".join(["", said, "", *table]) + "\n"
    PAGE.write_text(HEAD + "".join(f"\n{head}\n{body}" for head, body in sorted(sections.items())))


if __name__ == "__main__":
    main()
