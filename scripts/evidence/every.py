"""Every model class of transformers, built deferred and by PyTorch, compared; a section of docs/evidence/architectures.md.

    python scripts/evidence/every.py [--keep FILE] [--write] [NAME ...]

Each configuration class is tried in a process of its own, with a time limit. Lines of what was found are kept in FILE,
and what is there is not tried again; `--write` writes the section.
"""

import argparse
import collections
import functools
import gc
import json
import logging
import math
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
from scipy import stats
from shrunk import candidates
from tests.frameworks.pairs import ALPHA, aliases, bits, deferred, facts, named, same
from torch import nn
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto
from transformers.models.auto.auto_factory import _LazyAutoMapping

import seedbed as sb
from seedbed.errors import SeedbedError
from seedbed.initializers import Normal, TruncatedNormal, Uniform

PAGE = Path(__file__).parents[2] / "docs" / "evidence" / "architectures.md"
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


def loose(model: nn.Module) -> dict[str, torch.Tensor]:
    """Tensors in attributes that are neither parameters nor buffers."""
    found: dict[str, torch.Tensor] = {}

    def walk(path: str, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            found[path] = value
        elif isinstance(value, (list, tuple)):
            for n, v in enumerate(value):
                walk(f"{path}[{n}]", v)
        elif isinstance(value, dict):
            for k, v in value.items():
                walk(f"{path}[{k}]", v)

    for prefix, module in model.named_modules():
        for name, value in vars(module).items():
            if name not in ("_parameters", "_buffers", "_modules", "_seedbed_note"):
                walk(f"{prefix}.{name}", value)
    return found


def some(values: torch.Tensor) -> torch.Tensor:
    """At most 8192 of them, from everywhere, in order."""
    places = torch.linspace(0, len(values) - 1, min(len(values), 8192), dtype=torch.float64).long()
    return values[places].sort().values


def apart(one: torch.Tensor, other: torch.Tensor | Callable[[Any], Any]) -> float:
    """How far two distributions are apart, in the distance that ALPHA allows; the other may be a law."""
    values = one.double().reshape(-1)
    values = some(values)
    count = len(values)
    if isinstance(other, torch.Tensor):
        others = some(other.double().reshape(-1))
        both = torch.cat([values, others])
        first, second = (torch.searchsorted(v, both, right=True) / len(v) for v in (values, others))
        distance, count = float((first - second).abs().max()), count * len(others) / (count + len(others))
    else:
        below = torch.from_numpy(other(values.numpy()))
        steps = torch.arange(count + 1) / count
        distance = float(torch.maximum(steps[1:] - below, below - steps[:-1]).max())
    return distance / math.sqrt(math.log(2 / ALPHA) / 2 / count)


def law_of(start: Any) -> Any:
    """What a start is distributed as, where that has a name."""
    if isinstance(start, Uniform) and start.high > start.low:
        return stats.uniform(start.low, start.high - start.low)
    if isinstance(start, TruncatedNormal):
        return stats.truncnorm(-start.cut, start.cut, start.mean, start.std)
    return stats.norm(start.mean, start.std) if isinstance(start, Normal) and start.std else None


def spread(path: str, ours: list[torch.Tensor], theirs: list[torch.Tensor], start: Any) -> None:
    """Random values: those that are not random equal, the others distributed alike, and by the law that is named."""
    if theirs[0].is_complex():
        ours, theirs = ([torch.view_as_real(t.resolve_conj()) for t in ts] for ts in (ours, theirs))
    fixed = torch.stack([theirs[0] == t for t in theirs[1:]]).all(0)
    if theirs[0].dtype in (torch.float32, torch.float64):
        assert torch.equal(ours[0][fixed], theirs[0][fixed]), f"{path}: where nothing is random"
    mine, eager = (torch.cat([t[~fixed].reshape(-1) for t in ts]) for ts in (ours, theirs))
    assert torch.isfinite(mine.double()).all(), f"{path}: not finite"
    assert apart(mine, eager) < 1, f"{path}: other distributions: {mine[:4]}, {eager[:4]}"
    law = law_of(start) if mine.dtype in (torch.float32, torch.float64) and not fixed.any() else None
    for who, values in (("PyTorch", eager), ("seedbed", mine)) if law is not None else ():
        low, high = law.support()
        slack = 1e-5 * (abs(low) + abs(high)) if math.isfinite(low) else 0
        assert low - slack <= values.min() <= values.max() <= high + slack, f"{path}: {who}'s support is not {start}"
        assert apart(values, law.cdf) < 1, f"{path}: {who}'s is not {start}"


def groups(tensors: dict[str, torch.Tensor]) -> set[tuple[str, ...]]:
    """Paths whose values are equal, those of one element left out."""
    found: dict[Any, list[str]] = {}
    for path, tensor in tensors.items():
        if tensor.numel() > 1:
            found.setdefault((tuple(tensor.shape), bits(tensor).numpy().tobytes()), []).append(path)
    return {tuple(paths) for paths in found.values() if len(paths) > 1}


def parts(make: Callable[[], nn.Module], whole: nn.Module) -> None:
    """Submodules started one by one hold the same bits as the whole."""
    model = deferred(make)
    for child in model.children():
        if any(True for _ in child.parameters()) or any(True for _ in child.buffers()):
            sb.initialize(child)
    sb.initialize(model)
    ours, theirs = named(model), named(whole)
    for path, tensor in ours.items():
        assert same(tensor, theirs[path]), f"{path}: started as a part, it differs"


def compare(make: Callable[[], nn.Module], *, again: bool) -> None:
    """All that must agree; `again` is for a model like another that did, which need not be started so often."""
    torch.manual_seed(1)
    eager = [make() for _ in range(2 if again else 3)]
    started = deferred(make)
    other = started if again else deferred(make)
    before = {path: (id(t), facts(t), t.is_meta) for path, t in named(started).items()}
    plan = sb.plan(started)
    sb.initialize(started)
    if not again:
        sb.initialize(other, seed=7)
    ours, others, theirs = named(started), named(other), [named(m) for m in eager]
    assert list(ours) == list(theirs[0]), f"paths {sorted(set(ours) ^ set(theirs[0]))[:3]}"
    assert aliases(started) == aliases(eager[0]), "ties and memory"
    entries = {p: e for e in plan for p in e.spec.paths}
    assert sorted(entries) == sorted(ours), "one origin for each"
    for path, mine in ours.items():
        assert before[path][:2] == (id(mine), facts(mine)), f"{path} is not the tensor it was"
        assert facts(mine) == facts(theirs[0][path]), f"{path}: {facts(mine)}, not {facts(theirs[0][path])}"
        assert not mine.is_meta, f"{path}: has no memory"
        tensors = [t[path].detach() for t in theirs]
        if all(same(tensors[0], t) for t in tensors[1:]):
            assert same(mine, tensors[0]), f"{path}: {mine.flatten()[:6]} is not {tensors[0].flatten()[:6]}"
            assert same(others[path], tensors[0]), f"{path}: differs by the seed"
        else:
            spread(path, [mine.detach(), others[path].detach()], tensors, entries[path].start)
            assert again or mine.numel() < 4 or not same(mine, others[path]), f"{path}: another seed, the same numbers"
    equal = set.intersection(*map(groups, theirs))
    assert groups(ours) & groups(others) == equal, f"equal values: {(groups(ours) ^ equal)}"[:300]
    findings = sb.check(started, plan)
    assert findings.ok, f"check: {findings.different[:2]}"
    held = [loose(m) for m in (started, *eager)]
    assert set(held[0]) == set(held[1]), f"attributes {sorted(set(held[0]) ^ set(held[1]))[:3]}"
    for path, tensor in held[1].items():
        assert facts(held[0][path]) == facts(tensor), f"attribute {path}: {facts(held[0][path])}, not {facts(tensor)}"
        if all(same(tensor, h[path]) for h in held[2:]):
            assert same(held[0][path], tensor), f"attribute {path}: other values"
    if not again:
        parts(make, started)


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
    kept = [json.loads(line) for line in asked_for.keep.read_text().splitlines()] if asked_for.keep.exists() else []
    done = {(r["config"], r["model"]) for r in kept}
    pattern = re.compile("|".join(asked_for.names) or ".")
    found = sorted(classes().items(), key=lambda item: item[0].__name__)
    print(f"{len(found)} configurations, {sum(len(m) for _, m in found)} models", flush=True)
    with asked_for.keep.open("a") as out:
        for again in (False, True):  # one model of each configuration first
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
    kept = [json.loads(line) for line in asked_for.keep.read_text().splitlines()]
    print(collections.Counter(r["verdict"] for r in kept))


if __name__ == "__main__":
    main()
