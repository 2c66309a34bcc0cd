"""flax.nnx: modules that hold their values, real, abstract, or with lazy layers among them."""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from seedbed.errors import ModelError, SeedbedError
from seedbed.frameworks import Room
from seedbed.frameworks.flax import build, graph, layers
from seedbed.frameworks.flax.describe import Leaf, settle, spec_of
from seedbed.frameworks.flax.inputs import Given, bind
from seedbed.frameworks.flax.lazy import SETTLING, STAND_INS, STARTING, Lazy, Settling, Wanted, become, lazy
from seedbed.frameworks.flax.place import Filling, laid
from seedbed.frameworks.flax.watch import Watch, explain
from seedbed.frameworks.flax.wish import Wish
from seedbed.materialize import Which, run
from seedbed.plan import Plan, require_fit
from seedbed.spec import Settled, Specs

__all__ = ["arrays", "carry_out", "fit", "keep", "lazy", "modules", "placing", "trace"]

arrays, modules = graph.arrays, graph.modules


def trace(model: Any, inputs: Sequence[Any], keywords: Mapping[str, Any]) -> Specs:
    """Every parameter and buffer; sizes of lazy layers as settled by a dry run when there are inputs."""
    if not inputs and not keywords:
        return Specs(tuple(spec_of(leaf) for leaf in _leaves(model, {})), "flax")
    bind(f"{type(model).__name__}.__call__", model.__call__, inputs, keywords)
    sizes: dict[int, tuple[Any, ...]] = {}

    def dry_run(given: Given) -> Sequence[Leaf]:
        sizes.clear()
        sizes.update(_dry_run(model, given))
        return _leaves(model, sizes)

    leaves = settle(dry_run, inputs, keywords, _dtype(model))
    settled = tuple(
        Settled(path, module.wanted.cls.__name__, (("sizes", tuple(sizes[id(module.wanted)])),))
        for path, module in graph.modules(model)
        if isinstance(module, Lazy) and all(isinstance(n, int) for n in sizes.get(id(module.wanted), (None,)))
    )
    return Specs(tuple(spec_of(leaf) for leaf in leaves), "flax", settled)


def _dtype(model: Any) -> Any:
    for held in graph.walk(model):
        if jnp.issubdtype(held.variable.get_value().dtype, jnp.floating):
            return held.variable.get_value().dtype
    return "float32"


def _leaves(model: Any, sizes: Mapping[int, tuple[Any, ...]]) -> list[Leaf]:
    """All leaves in the order of definition, those of lazy layers as they would be built."""
    real = graph.firsts(model)
    known = build.starts(model)
    lazies = _lazy_paths(model)
    found: list[Leaf] = []
    for held, others in real.values():
        value = held.variable.get_value()
        if not hasattr(value, "shape") or not hasattr(value, "dtype"):
            raise ModelError(
                f"{held.path}: holds a {type(value).__name__}, and seedbed starts arrays.",
                remedy="Give each array a variable of its own.",
                path=held.path,
            )
        start, origin, stack = known.get(id(held.variable), (None, "", ()))
        found.append(
            Leaf(
                held.path,
                held.path.rpartition(".")[0],
                layers.Place(held.layer, held.name, value.shape, held.owner, held.part, stack),
                str(value.dtype),
                "parameter" if isinstance(held.variable, nnx.Param) else "buffer",
                start=start,
                origin=origin,
                aliases=others,
            )
        )
    for wanted, paths in lazies.values():
        found.extend(_of_lazy(wanted, paths, sizes.get(id(wanted))))
    order = {path: n for n, path in enumerate(_order(model))}
    return sorted(found, key=lambda leaf: max((n for p, n in order.items() if _below(leaf.path, p)), default=-1))


def _order(model: Any) -> Iterator[str]:
    for path, _, _, _ in graph.modules_with_owners(model):
        yield path


def _below(path: str, module: str) -> bool:
    return not module or path.startswith(f"{module}.")


def _lazy_paths(model: Any) -> dict[int, tuple[Wanted, list[str]]]:
    """Each lazy layer, with its paths."""
    found: dict[int, tuple[Wanted, list[str]]] = {}
    for path, module, _, _ in graph.modules_with_owners(model):
        if isinstance(module, Lazy):
            found.setdefault(id(module.wanted), (module.wanted, []))[1].append(path)
    return found


def _of_lazy(wanted: Wanted, paths: Sequence[str], sizes: tuple[Any, ...] | None) -> list[Leaf]:
    """What a lazy layer would hold: of its sizes, or of two that stand in for them."""
    number = len(wanted.dims)
    tries = [sizes] if sizes is not None else [(n,) * number for n in STAND_INS]
    leaves, *others = [build.build(functools.partial(wanted.make, s)).leaves for s in tries]
    pairs = list(zip(leaves, others[0] if others else leaves, strict=True))
    open_ones = [a for a, b in pairs if a.place.shape != b.place.shape]
    for leaf, other in pairs:
        both = zip(leaf.place.shape, other.place.shape, strict=True)
        shape = tuple(a if a is b or (isinstance(a, int) and a == b) else None for a, b in both)
        if leaf.start != other.start:
            leaf.start = None
        leaf.waits = sizes is None and (None in shape or leaf.start is None)
        leaf.place = leaf.place._replace(shape=shape)
        if sizes is None and not open_ones:  # its sizes decide none of its shapes; it waits for them all the same
            leaf.start, leaf.waits = None, True
        first, *rest = [f"{path}.{leaf.path}" if path else leaf.path for path in paths]
        leaf.home = f"{paths[0]}.{leaf.home}".strip(".")
        leaf.path, leaf.aliases = first, (*rest, *leaf.aliases)
    return leaves


def _dry_run(model: Any, given: Given) -> dict[int, tuple[Any, ...]]:
    """Run a copy of the model on shapes; nothing in the model changes. Returns the sizes of its lazy layers.

    Raises:
        ShapeError: Sizes do not fit; the layer that found out is named, and the one it got them from.
        ModelError: The module reads values, which a dry run does not have.
    """
    watch, settling = Watch(), Settling()
    graphdef, state = nnx.split(model)
    like = jax.tree_util.tree_map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), state)

    def called(state: Any, arguments: Sequence[Any]) -> Any:
        copied = nnx.merge(graphdef, state)
        for path, module in list(graph.modules(copied)):
            if not isinstance(module, (nnx.List, nnx.Dict)):
                _watch(module, path, watch)
        inputs, named = given.rebuild(arguments)
        copied(*inputs, **named)

    token = SETTLING.set(settling)
    try:
        jax.eval_shape(called, like, given.leaves)
    except SeedbedError:
        raise
    except Exception as error:  # whatever the model's own code raised, told as a sentence with its place
        raise explain(error, watch) from error
    finally:
        SETTLING.reset(token)
    return settling.sizes


def _watch(module: Any, path: str, watch: Watch) -> None:
    """Let the calls of one module of the copy be seen: its class becomes one that says when it is called."""
    cls = type(module)
    if "__call__" not in {name for c in cls.__mro__ for name in vars(c)}:
        return

    def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        watch.enter(path, self, (*args, *kwargs.values()))
        output = cls.__call__(self, *args, **kwargs)
        own = any(isinstance(v, nnx.Variable) for v in vars(self).values())
        watch.leave(output, sized=own or isinstance(self, Lazy))
        return output

    names = {"__call__": called, "__module__": cls.__module__, "__qualname__": cls.__qualname__}
    object.__setattr__(
        module, "__class__", types.new_class(cls.__name__, (cls,), exec_body=lambda space: space.update(names))
    )


def fit(plan: Plan, model: Any) -> None:
    """Raise `PlanError` unless the plan is for this model, and all that it keeps is there."""
    found = graph.firsts(model)
    there = {path: held for path, (held, _) in found.items()}
    lazies = [p for _, paths in _lazy_paths(model).values() for p in paths]
    planned = {e.spec.path: e for e in plan}
    rows = [(p, "only in the plan") for p in planned if p not in there and not any(_below(p, path) for path in lazies)]
    rows += [(p, "only in the model") for p in there if p not in planned]
    settled = {s.path for s in plan.settled}
    for path, wanted in ((paths[0], wanted) for wanted, paths in _lazy_paths(model).values()):
        below = [e for e in plan if _below(e.spec.path, path)]
        if below and path not in settled and all(e.settled for e in below):
            rows.append((path, f"a {wanted.cls.__name__} in the plan, lazy in the model"))
    for path, held in there.items():
        value, entry = held.variable.get_value(), planned.get(path)
        if entry is None:
            continue
        if entry.spec.known and tuple(value.shape) != entry.spec.sizes:
            rows.append((path, f"planned {entry.spec.shown_shape}, has {tuple(value.shape)}"))
        if str(value.dtype) != entry.spec.dtype:
            rows.append((path, f"planned {entry.spec.dtype}, has {value.dtype}"))
        if entry.spec.aliases != found[path][1]:
            rows.append((path, f"tied to {', '.join(entry.spec.aliases) or 'nothing'} in the plan only"))
    homeless = [
        e for e in plan if e.kept and (e.spec.path not in there or graph.is_abstract(there[e.spec.path].variable))
    ]
    require_fit(
        rows,
        homeless,
        because=": it was built without memory",
        remedy="Give it a rule, or build the model with memory, where its constructor computes it.",
    )


@contextmanager
def placing(plan: Plan, model: Any, filling: Filling, which: Which, *, traced: bool) -> Iterator[Room]:
    """Make room for every value of a plan; at the end they are in the model's own variables.

    Raises:
        ModelError: The model is being traced: what is put in it there would leak.
    """
    if traced or any(isinstance(held.variable.get_value(), jax.core.Tracer) for held in graph.walk(model)):
        raise ModelError(
            "A model that holds its values cannot be started inside jit or another transformation.",
            remedy="Start it outside, or build it with nnx.eval_shape and start that.",
        )
    for path, value in graph.loose(model):
        raise ModelError(
            f"{path}: is an array outside of any variable and has no value, and seedbed starts variables.",
            facts=[f"shape  {tuple(value.shape)}", f"dtype  {value.dtype}"],
            remedy="Keep it in a variable, such as nnx.Param, or build the model with memory.",
            path=path,
        )
    settled = {s.path: dict(s.attributes)["sizes"] for s in plan.settled}
    lazies = {p: m for p, m in graph.modules(model) if isinstance(m, Lazy)}
    entries = [e for e in plan if e.settled and not e.kept]
    if which == "known":
        waiting = [p for _, paths in _lazy_paths(model).values() for p in paths]
        entries = [e for e in entries if not any(_below(e.spec.path, path) for path in waiting)]
    elif which == "waiting":
        entries = [e for e in entries if any(_below(e.spec.path, path) for path in lazies)]
    filling.add(entries, {path: laid(held.variable.get_value()) for path, (held, _) in graph.firsts(model).items()})

    def result() -> Any:
        with STARTING:
            variables = {path: held.variable for path, (held, _) in graph.firsts(model).items()}
            built = {}
            for path, layer in lazies.items():
                if which != "known" and path in settled:
                    wanted, sizes = layer.wanted, settled[path]
                    key = next(iter(wanted.keys.values()), None)
                    built[path] = build.build(functools.partial(wanted.make, sizes), key).module
                    inside = graph.firsts(built[path]).items()
                    variables |= {f"{path}.{p}" if path else p: held.variable for p, (held, _) in inside}
            for entry in entries:
                variables[entry.spec.path].set_value(filling.arrays[entry.spec.path]())
            for path, module in built.items():  # with its values: other threads may call it from here on
                become(lazies[path], module)
        return model

    yield Room(filling.jobs, result)


def keep(model: Any, wish: Wish) -> Any:
    """Keep the wish in every lazy layer, which carries it out at its first call."""
    with STARTING:
        for wanted, paths in _lazy_paths(model).values():
            wanted.wish = (wish, paths[0])
    return model


def carry_out(layer: Lazy, sizes: tuple[Any, ...], wish: Wish, path: str) -> None:
    """A lazy layer's first call: start it as the wish says, under its path in the model, and put it in place."""
    from seedbed.frameworks import flax
    from seedbed.plan import decide

    leaves = _of_lazy(layer.wanted, [path], sizes)
    specs = Specs(tuple(spec_of(leaf) for leaf in leaves), "flax", (Settled("", "", (("sizes", sizes),)),))
    recipe = wish.recipe.lenient() if wish.recipe else None
    streams = {p: s for p, s in (wish.streams or {}).items() if p in specs.paths}
    plan = decide(specs, recipe, seed=wish.seed, streams=streams, translate=flax.translate)
    prefix = f"{path}." if path else ""
    own = [replace(e, spec=replace(e.spec, path=e.spec.path.removeprefix(prefix))) for e in plan]
    with flax.placing(replace(plan, entries=tuple(own)), layer, wish.device, None, "waiting") as room:
        run(room.jobs)
    room.result()
