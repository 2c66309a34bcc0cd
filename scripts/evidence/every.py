"""Every model class of transformers, built deferred and by PyTorch, compared; a section of docs/evidence/architectures.md.

    python scripts/evidence/every.py [--keep FILE] [--write] [NAME ...]

The models of each configuration class are tried in a process of its own, with a time limit. What was found is kept in
FILE, a line each, and is not tried again; `--write` writes the section.
"""

import argparse
import collections
import functools
import gc
import json
import logging
import multiprocessing
import re
import resource
import sys
import time
import typing
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
import transformers
from shrunk import candidates
from tests.frameworks.pairs import named
from torch import nn
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto
from transformers.models.auto.auto_factory import _LazyAutoMapping

from alike import compare
from seedbed.errors import SeedbedError

PAGE = Path(__file__).parents[2] / "docs" / "evidence" / "architectures.md"
SECTION = "\n## Every model class of transformers\n"
NEXT = "\n## Libraries that nobody here has written for\n"
HEAD = f"""
Made by `python scripts/evidence/every.py`, then with `--write`, with transformers {transformers.__version__}: every class below
`PreTrainedModel`, with each configuration class that a mapping of transformers or the class itself names for it, made
small from its defaults (`scripts/evidence/shrunk.py`). Compared as above, and besides: tensors in other attributes than
parameters and buffers, `seedbed.check`, and for the first model of each configuration that its children started one by
one hold the same bits as the whole, and that another seed gives other numbers. Random values are compared with those of PyTorch,
and with the law that the plan names where it has one: support, and distribution, by bounds that fail by chance once in 10^9.
Of the libraries that some models need, timm and torchvision were installed.

"""
MOST = 130_000_000
"""Values of a model that is compared."""
AUTOS = [
    v
    for v in vars(modeling_auto).values()
    if isinstance(v, type) and isinstance(getattr(v, "_model_mapping", None), _LazyAutoMapping)
]
FIRST = ("AutoModelForCausalLM", "AutoModelForPreTraining", "AutoModel")
LIMIT, MEMORY = 420, 12 << 30
Row = dict[str, Any]


def classes() -> dict[type[PreTrainedConfig], set[type[PreTrainedModel]]]:
    """Every model class, by the configurations that it may be built from."""
    configs = [CONFIG_MAPPING[name] for name in CONFIG_MAPPING]
    found: dict[Any, set[Any]] = {c: set() for c in configs}
    for name in dir(modeling_auto):
        mapping = getattr(modeling_auto, name)
        for config in configs if isinstance(mapping, _LazyAutoMapping) else ():
            found[config].update(mapped(mapping, config))
    for name in dir(transformers):
        getattr(transformers, name, None)  # imports it
    todo = [PreTrainedModel]
    known = set().union(*found.values())
    while todo:
        model = todo.pop()
        todo += model.__subclasses__()
        if model.__name__.endswith("PreTrainedModel") or not model.__module__.startswith("transformers.models"):
            continue
        if model in known:
            continue
        for config in asked(model):
            found.setdefault(config, set()).add(model)
    return {c: m for c, m in found.items() if m}


def mapped(mapping: Any, config: Any) -> list[Any]:
    """The models that a mapping has for a configuration."""
    try:
        held = mapping.get(config, None)
    except ValueError:  # it names a class that is not there
        return []
    return [*held] if isinstance(held, (tuple, list)) else [held] if held else []


def order(config: Any, models: set[Any]) -> list[Any]:
    """A configuration's models, one with a head first."""
    first = [m for name in FIRST for a in AUTOS if a.__name__ == name for m in mapped(a._model_mapping, config)]
    return sorted(models, key=lambda m: (first.index(m) if m in first else len(first), m.__name__))


def asked(model: type[PreTrainedModel]) -> list[type[PreTrainedConfig]]:
    """The configuration that a class no mapping knows says it takes."""
    space = vars(sys.modules[model.__module__])
    said = model.__init__.__annotations__.get("config")
    said = eval(said, space) if isinstance(said, str) else said  # noqa: S307 -- an annotation
    options = typing.get_args(said) or (said,)
    own = [o for o in options if isinstance(o, type) and issubclass(o, PreTrainedConfig) and o is not PreTrainedConfig]
    return own or [c for c in [model.config_class] if c is not None]


def values_of(model: nn.Module) -> int:
    """How many values a model holds."""
    return sum(t.numel() for t in {id(t): t for t in named(model).values()}.values())


def small(config: type[PreTrainedConfig], model: type[PreTrainedModel]) -> tuple[Any, str]:
    """A configuration that a model can be built from, and how it was made small, or why there is none."""
    why = ""
    for how, tried in candidates(config):
        if tried is None:
            why = why or how
            continue
        try:
            with torch.device("meta"):
                size = values_of(model(tried))
        except Exception as error:
            if not (isinstance(error, NotImplementedError) or "meta" in str(error)):
                why = why if why and "too large" not in why else f"{type(error).__name__}: {str(error)[:200]}"
                continue
            size = 0  # not on the meta device
        if size > MOST:
            why = why or f"too large: {size / 1e6:,.0f} million values"
            continue
        try:
            torch.manual_seed(0)
            model(tried)
        except Exception as error:
            why = why if why and "too large" not in why else f"{type(error).__name__}: {str(error)[:200]}"
            continue
        return tried, how
    return None, why


def tried(name: str, make: Callable[[], nn.Module], *, again: bool = False) -> Row:
    """One comparison's verdict."""
    begin = time.perf_counter()
    row: Row = {"model": name}
    try:
        compare(make, again=again)
        row["verdict"] = "agree"
    except SeedbedError as error:
        row |= {"verdict": "refused", "why": str(error)}
    except AssertionError as error:
        row |= {"verdict": "wrong", "why": str(error)[:600]}
    except Exception as error:  # anything else is ours as well
        row |= {"verdict": "raised", "why": f"{type(error).__name__}: {str(error)[:600]}"}
    gc.collect()
    return row | {"seconds": round(time.perf_counter() - begin, 1)}


def of_config(config: type[PreTrainedConfig], models: list[type[PreTrainedModel]], found: Any, *, again: bool) -> None:
    """All models of a configuration, in a process of its own; a row for each goes into `found`."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    sizes: dict[Any, Any] = {}
    for model in models:
        name = f"{model.__name__}"
        made, how = small(config, model)
        if made is None:
            found.send({"config": config.__name__, "model": name, "verdict": "unbuilt", "why": how})
            continue
        sizes[model] = made
        row = tried(name, functools.partial(model, made), again=again)
        found.send({"config": config.__name__, **row, "how": how})
    some = zlib.crc32(config.__name__.encode()) % 5 == 0
    for auto in AUTOS if sizes and some and not again else ():
        model = next((m for m in mapped(auto._model_mapping, config) if m in sizes), None)
        if model is None:
            continue
        name, made = f"{auto.__name__}.from_config, bfloat16", sizes[model]
        call = functools.partial(auto.from_config, made, dtype=torch.bfloat16)
        try:
            call()
        except Exception as error:
            row = {"model": name, "verdict": "unbuilt", "why": f"{type(error).__name__}: {str(error)[:200]}"}
        else:
            row = tried(name, call)
        found.send({"config": config.__name__, **row, "auto": model.__name__})
        break
    found.send(None)


def rows(config: Any, models: list[Any], *, again: bool) -> Iterator[Row]:
    """What became of each model of a configuration."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(
        target=of_config, args=(config, models, theirs), kwargs={"again": again}
    )
    process.start()
    theirs.close()
    got = set()
    try:
        while ours.poll(LIMIT):
            row = ours.recv()
            if row is None:
                break
            got.add(row["model"])
            yield row
        else:
            yield {"config": config.__name__, "model": "?", "verdict": "late", "why": f"no answer in {LIMIT} s"}
    except EOFError:
        process.join()
        yield {"config": config.__name__, "model": "?", "verdict": "died", "why": f"exit code {process.exitcode}"}
    process.kill()
    process.join()
    for model in models:
        if model.__name__ not in got:
            yield {"config": config.__name__, "model": model.__name__, "verdict": "late", "why": "not reached"}


def sweep(keep: Path, pattern: re.Pattern[str]) -> None:
    """Try what was not tried, one model of each configuration first."""
    kept = [json.loads(line) for line in keep.read_text().splitlines()] if keep.exists() else []
    done = {(r["config"], r["model"]) for r in kept}
    found = sorted(classes().items(), key=lambda item: item[0].__name__)
    print(f"{len(found)} configurations, {sum(len(m) for _, m in found)} models", flush=True)
    with keep.open("a") as out:
        for again in (False, True):
            for config, models in found:
                left = order(config, models)
                left = left[1:] if again else left[:1]
                left = [m for m in left if (config.__name__, m.__name__) not in done]
                left = [m for m in left if pattern.search(f"{config.__name__} {m.__name__}")]
                for row in rows(config, left, again=again) if left else ():
                    out.write(json.dumps(row) + "\n")
                    out.flush()
                    if row["verdict"] != "agree":
                        print(config.__name__, row["model"], row["verdict"], str(row["why"])[:300], flush=True)


def reason(row: Row) -> str:
    """Why PyTorch's model was not built, in a few words."""
    why = row["why"].split("Error: ")[-1]
    if "requires the" in why or "backend" in why or "No module named" in why:
        found = re.search(r"requires the (\S+)|No module named '(\S+)'", why)
        return f"the library {next(filter(None, found.groups())) if found else ''} is not installed"
    if "too large" in why:
        return f"more than {MOST // 1_000_000} million values, however small its configuration"
    return "no configuration was found with which PyTorch builds it"


def section(kept: list[Row]) -> str:
    """What the page says."""
    plain = [r for r in kept if "auto" not in r]
    models: dict[str, Row] = {}
    for row in plain:  # a class that several configurations are asked for is the best of them
        if row["model"] != "?" and (row["model"] not in models or row["verdict"] == "agree"):
            models[row["model"]] = row
    by = collections.Counter(r["verdict"] for r in models.values())
    autos = collections.Counter(r["verdict"] for r in kept if "auto" in r)
    kinds: dict[str, list[Row]] = {}
    for name, row in models.items():
        head = re.search(r"For[A-Z]\w+$|LMHeadModel$|Model$", name)
        kinds.setdefault(head[0] if head else "others", []).append(row)
    few = [k for k, rows in kinds.items() if len(rows) < 15]
    for kind in few:
        kinds.setdefault("others", []).extend(kinds.pop(kind) if kind != "others" else [])
    counts = (
        f"{len(models)} model classes of {len({r['config'] for r in plain})} configurations: {by['agree']} agree. "
        f"Differ: {by['wrong']}. Refused: {by['refused'] + by['raised']}. "
        f"Not compared: {len(models) - by['agree'] - by['wrong'] - by['refused'] - by['raised']}. "
        f"By `from_config` of an `AutoModel` class in bfloat16: {autos['agree']} agree, of "
        f"{autos['agree'] + autos['wrong'] + autos['refused'] + autos['raised']}."
    )
    lines = [
        counts,
        "",
        "| class | tried | agree | differ | refused | not compared |",
        "|---|---|---|---|---|---|",
    ]
    for kind, rows in sorted(kinds.items(), key=lambda item: (item[0] == "others", -len(item[1]))):
        of = collections.Counter(r["verdict"] for r in rows)
        refused = of["refused"] + of["raised"]
        rest = len(rows) - of["agree"] - of["wrong"] - refused
        lines.append(
            f"| {'' if kind == 'others' else '...'}{kind} | {len(rows)} | {of['agree']} | {of['wrong']} | {refused} | {rest} |"
        )
    for verdict, title in (("wrong", "differs"), ("refused", "refused"), ("raised", "refused")):
        for row in [r for r in models.values() if r["verdict"] == verdict]:
            said = [" ".join(line.split()) for line in row["why"].splitlines() if line.strip()][:2]
            lines += ["", f"{row['model']} {title}:", "", *(f"    {line}" for line in said)]
    reasons: dict[str, list[str]] = {}
    for row in models.values():
        if row["verdict"] in ("unbuilt", "late", "died"):
            said = reason(row) if row["verdict"] == "unbuilt" else f"no answer in {LIMIT} s"
            reasons.setdefault(said, []).append(row["model"])
    lines += ["", "| not compared, because | classes | |", "|---|---|---|"]
    for said, names in sorted(reasons.items(), key=lambda item: -len(item[1])):
        lines.append(f"| {said} | {len(names)} | {', '.join(sorted(names))} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Try what was not tried."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=Path, default=Path("every.jsonl"))
    parser.add_argument("--write", action="store_true")
    parser.add_argument("names", nargs="*")
    asked_for = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    if not asked_for.write:
        sweep(asked_for.keep, re.compile("|".join(asked_for.names) or "."))
    kept = [json.loads(line) for line in asked_for.keep.read_text().splitlines()]
    print(collections.Counter(r["verdict"] for r in kept))
    if asked_for.write:
        before, following, others = PAGE.read_text().partition(NEXT)
        PAGE.write_text(before.partition(SECTION)[0] + SECTION + HEAD + section(kept) + following + others)


if __name__ == "__main__":
    main()
