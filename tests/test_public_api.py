"""What the package offers, as literal lists: a change here is a change for users."""

import doctest
import inspect
import subprocess
import sys

import pytest

import seedbed as sb
from seedbed import initializers

NAMES = [
    "Input", "ParamSpec", "Specs", "Parts", "initializers", "Where", "Rule", "Recipe", "Entry", "Plan", "Division", "Finding", "Findings",
    "SeedbedError", "deferred", "dim", "lazy", "trace", "plan", "divide", "materialize", "initialize", "apply_init", "write",
    "check", "fingerprint",
]  # fmt: skip
SIGNATURES = {
    "dim": "(axis, input=0)",
    "lazy": "(cls, *arguments, **keywords)",
    "trace": "(model, *inputs, **keywords)",
    "plan": "(model_or_specs, *inputs, recipe=None, seed=0, streams=None, parts=None, checkpoint=None, leave=(), **keywords)",
    "materialize": "(plan, model, *, device=None, sharding=None, threads=None, progress=None, replace=False, collective=True)",
    "initialize": "(model, *inputs, recipe=None, seed=0, streams=None, parts=None, checkpoint=None, leave=(), device=None, sharding=None, threads=None, progress=None, replace=False, collective=True, **keywords)",
    "apply_init": "(model, inputs, init=None, *, seed=0)",
    "write": "(plan, path, *, shard_size='5GB', process=(0, 1), replace=False, model=None, threads=None, progress=None)",
    "check": "(params_or_path, plan, *, progress=None, collective=True)",
    "divide": "(plan, mesh, placements=None)",
    "fingerprint": "(plan, params_or_path=None, *, progress=None)",
}


def test_the_public_names_are_these():
    assert sb.__all__ == NAMES


@pytest.mark.parametrize("name", SIGNATURES)
def test_the_verbs_take_these_arguments(name):
    signature = inspect.signature(getattr(sb, name))
    bare = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    assert str(signature.replace(parameters=bare, return_annotation=signature.empty)) == SIGNATURES[name]


@pytest.mark.parametrize("name", SIGNATURES)
def test_the_verbs_stay_functions_whatever_else_is_imported(name):
    code = (
        f"import seedbed, seedbed.plan, seedbed.check, seedbed.materialize; assert seedbed.{name}.__name__ == {name!r}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "initializers"])
def test_every_public_name_is_described(name):
    value = getattr(sb, name)
    text = inspect.getdoc(value)
    assert text
    if name in SIGNATURES:
        assert doctest.DocTestParser().get_examples(text), "an executed example"
        for section in ("Args:", "Returns:"):
            assert section in text
        assert "Raises:" in text or name == "apply_init"


@pytest.mark.parametrize("cls", initializers.ALL, ids=lambda c: c.__name__)
def test_every_initializer_describes_its_arguments(cls):
    text = inspect.getdoc(cls)
    for argument in inspect.signature(cls).parameters:
        assert f"{argument}:" in text or cls.__name__.startswith("Lecun")


def test_public_methods_of_the_nouns_are_described():
    for cls in (sb.Specs, sb.ParamSpec, sb.Plan, sb.Entry, sb.Recipe, sb.Rule, sb.Where, sb.Findings):
        for name, member in inspect.getmembers(cls):
            if not name.startswith("_") and (callable(member) or isinstance(member, property)):
                assert inspect.getdoc(member), f"{cls.__name__}.{name}"
