"""Where a plan's values go: the memory of Gluon's parameters, which stay the same objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import mxnet as mx
from mxnet.gluon import Block, Parameter

from seedbed.errors import InputError, UninitializedError, count
from seedbed.frameworks.gluon.blocks import owners, parameters, plain, shape_of
from seedbed.frameworks.gluon.memory import Memory, Values, allocate, values_of
from seedbed.frameworks.gluon.wish import STARTING, forget, unstarted
from seedbed.materialize import Job, Which
from seedbed.plan import Entry, Plan, require_fit


@contextmanager
def placing(plan: Plan, model: Block, contexts: Sequence[mx.Context] | None, which: Which) -> Iterator[Iterator[Job]]:
    """Make room for every parameter of a plan, and say where it is; inside, they are filled.

    What has memory keeps it. What has none gets it where it was asked to be, on the contexts of Gluon's own
    `initialize` or on the current one, with room for gradients as Gluon makes it.

    Raises:
        PlanError: The plan is for another model; every difference is listed.
    """
    with STARTING, mx.autograd.pause():
        fit(plan, model)
        held = {path: held.parameter for path, (held, _) in owners(model).items()}
        ready = [e for e in plan if e.settled]
        yield _jobs([e for e in ready if not e.kept], held, contexts)
        if which != "known":
            forget(model)


def _jobs(
    entries: Sequence[Entry], held: Mapping[str, Parameter], contexts: Sequence[mx.Context] | None
) -> Iterator[Job]:
    """One parameter after another: memory is made when its turn comes."""
    for entry in entries:
        parameter = held[entry.spec.path]
        new = parameter._data is None
        if new:
            allocate(parameter, entry.spec.sizes, contexts)
        else:
            _tell_trainer(parameter)
        yield Job(entry, Memory(parameter.list_data(), entry.spec.dtype, new=new))


def _tell_trainer(parameter: Parameter) -> None:
    """A trainer that updates in its key-value store holds copies of the values; it is to take the new ones."""
    trainer = parameter._trainer
    if trainer and trainer._kv_initialized and trainer._update_on_kvstore and parameter not in trainer._params_to_init:
        trainer._reset_kvstore()


def fit(plan: Plan, model: Block) -> None:
    """Raise `PlanError` unless the plan is for this model, and all it keeps is there."""
    held = {h.path: h.parameter for h in parameters(model)}
    planned = {path: e.spec for e in plan for path in e.spec.paths}
    rows = [(p, "only in the plan") for p in planned if p not in held]
    rows += [(p, "only in the model") for p in held if p not in planned]
    homeless, owner = [], dict[int, str]()
    for entry in plan:
        spec, parameter = entry.spec, held.get(entry.spec.path)
        if parameter is None:
            continue
        shape = shape_of(parameter)
        fits = len(shape) == len(spec.shape) or parameter._shape is None
        if not fits or any(a and b and a != b for a, b in zip(shape, spec.shape, strict=False)):
            rows.append((spec.path, f"planned {spec.shown_shape}, has {shown_shape(shape)}"))
        if plain(parameter.dtype) != spec.dtype:
            rows.append((spec.path, f"planned {spec.dtype}, has {plain(parameter.dtype)}"))
        others = [p for p in spec.aliases if p in held and held[p] is not parameter]
        rows += [(p, f"tied to {spec.path} in the plan only") for p in others]
        other = owner.setdefault(id(parameter), spec.path)
        if other != spec.path:
            rows.append((spec.path, f"tied to {other} in the model only"))
        if entry.kept and parameter._data is None:
            homeless.append(entry)
    require_fit(
        rows,
        homeless,
        because=" yet",
        remedy="Give it a rule, or values first: net.initialize(), or load_parameters.",
    )


def shown_shape(shape: tuple[int | None, ...]) -> str:
    """A shape as it is printed."""
    sizes = ["?" if n is None else str(n) for n in shape]
    return f"({sizes[0]},)" if len(sizes) == 1 else f"({', '.join(sizes)})"


def contexts_of(device: Any) -> list[mx.Context] | None:
    """The contexts that `device` names: one, its name, or a list of them."""
    if device is None:
        return None
    found = []
    for one in device if isinstance(device, (list, tuple)) else [device]:
        context = one
        if isinstance(one, str):
            kind, _, number = one.removesuffix(")").partition("(")
            context = mx.Context(kind, int(number or 0)) if kind in mx.Context.devstr2type and _whole(number) else None
        if not isinstance(context, mx.Context):
            raise InputError(
                f"device: {one!r} is not one of MXNet's contexts.",
                remedy="Give mx.cpu(), its name 'cpu' or 'cpu(0)', or a list of contexts.",
            )
        if context.device_type == "gpu" and context.device_id >= mx.context.num_gpus():
            raise InputError(
                f"device: {context} is not here.",
                facts=[f"here  {count(mx.context.num_gpus(), 'GPU')}"],
                remedy="Name one that is:\n    device='cpu'",
            )
        found.append(context)
    return found


def _whole(number: str) -> bool:
    return not number or number.isdecimal()


def held_values(model: Block) -> dict[str, Values]:
    """Every array of a model, by every path, on the first of its contexts.

    Raises:
        UninitializedError: Some have no values yet.
    """
    found = {h.path: h.parameter for h in parameters(model)}
    for path, parameter in found.items():
        if parameter._data is None:
            if parameter._deferred_init or None in shape_of(parameter):
                raise unstarted(path)
            raise UninitializedError(
                f"{path}: has no value yet; nothing has started it.",
                remedy="Start the model first:\n    seedbed.initialize(model, ...)",
                path=path,
            )
    return values_of({path: parameter.list_data()[0] for path, parameter in found.items()})
