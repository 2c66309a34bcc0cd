"""What `sharding=` asks for: one for all parameters, a mapping of paths, a tree of Flax's, or a function."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from flax import nnx
from jax.sharding import AbstractMesh, PartitionSpec

from seedbed.errors import InputError, nearest, quoted, shown
from seedbed.plan import Plan
from seedbed.spec import ParamSpec


def by_path(asked: Any, plan: Plan, model: Any) -> Any:
    """A mapping, nested or not, as one of whole paths; anything else as it is.

    Raises:
        InputError: Some of its paths are those of no parameter or buffer.
    """
    if not isinstance(asked, Mapping):
        return asked
    told = dict(_leaves(asked))
    known = {*plan.paths, *(f"params.{e.spec.path}" for e in plan if e.spec.kind == "parameter")}
    lost = [path for path in told if path not in known]
    if lost and isinstance(model, nnx.Module):  # its own tree has also what keeps the state of random numbers
        states = {".".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(model, nnx.RngState))}
        lost = [path for path in lost if path not in states]
    if lost:
        raise _strange(lost, plan)
    return told


def _leaves(tree: Mapping[Any, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        path = f"{above}.{key}" if above else str(key)
        if isinstance(value, Mapping):
            yield from _leaves(value, path)
        elif not isinstance(value, PartitionSpec) and isinstance(value, (list, tuple)):  # what linen's `sow` keeps
            yield from _leaves(dict(enumerate(value)), path)
        elif value is not None:
            yield path, value.get_value() if isinstance(value, nnx.Variable) else value


def _strange(lost: list[str], plan: Plan) -> InputError:
    first, known = lost[0], [path for e in plan for path in e.spec.paths]
    below = [path for path in known if f"params.{path}".startswith(f"{first}.") or path.startswith(f"{first}.")]
    return InputError(
        f"sharding: {quoted(first)} is not a parameter of the model."
        if len(lost) == 1
        else f"sharding: {len(lost)} of its paths are not parameters of the model.",
        facts=shown([quoted(path) for path in lost]) if len(lost) > 1 else (),
        remedy="\n".join(["It is a layer; name what it holds:", *shown([f"    {path!r}" for path in below])])
        if below
        else nearest(first, known),
        paths=tuple(lost),
    )


def sharding_of(asked: Any, spec: ParamSpec) -> Any:
    """The sharding of one parameter; `None` where it has none.

    Raises:
        InputError: It is no sharding, it is of another number of axes, it does not cut the parameter evenly, or
            no device is behind it.
    """
    found = asked
    if isinstance(asked, Mapping):
        found = _at(asked, spec)
    elif callable(asked) and not isinstance(asked, jax.sharding.Sharding):
        found = asked(spec.path, spec) if _takes_spec(asked) else asked(spec.path)
    if found is None:
        return None
    if not isinstance(found, jax.sharding.Sharding):
        raise InputError(
            f"sharding: {spec.path}: a jax.sharding.Sharding is needed, got {type(found).__name__}.",
            remedy="Give jax.sharding.NamedSharding(mesh, PartitionSpec(...)), a mapping of paths to them, or a function of the path.",
            path=spec.path,
        )
    _judge(found, spec)
    return found


def _judge(found: Any, spec: ParamSpec) -> None:
    """Raise unless a sharding cuts the parameter, before anything is compiled or allocated."""
    mesh, names = getattr(found, "mesh", None), getattr(found, "spec", None)
    facts = [f"sharding  {found if names is None else names}", f"mesh      {dict(getattr(mesh, 'shape', {})) or '?'}"]
    if names is not None and len(names) > len(spec.sizes):
        raise InputError(
            f"sharding: {spec.path}: {spec.shown_shape} has fewer axes than the PartitionSpec names.",
            facts=facts,
            remedy="Give a function of (path, spec) or a mapping of paths, so that each parameter has its own.",
            path=spec.path,
        )
    try:
        found.shard_shape(spec.sizes)
    except ValueError:
        raise InputError(
            f"sharding: {spec.path}: {spec.shown_shape} cannot be cut so; JAX's shards are all of one size.",
            facts=facts,
            remedy="Cut an axis that the number of devices divides, or leave this parameter whole: PartitionSpec().",
            path=spec.path,
        ) from None
    if isinstance(mesh, AbstractMesh):
        raise InputError(
            f"sharding: {spec.path}: its mesh is abstract: no device could hold a shard.",
            facts=facts,
            remedy="Give a mesh of devices, such as jax.make_mesh gives.",
            path=spec.path,
        )


def _takes_spec(function: Any) -> bool:
    try:
        return len(inspect.signature(function).parameters) > 1
    except ValueError:
        return False


def _at(told: Mapping[str, Any], spec: ParamSpec) -> Any:
    """What a mapping says of a parameter, which linen's trees have below `params`."""
    above = ("", "params.") if spec.kind == "parameter" else ("",)
    return next((told[a + path] for path in spec.paths for a in above if a + path in told), None)
