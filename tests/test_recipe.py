"""What we want: which rule decides which parameter, and recipes as text."""

import json
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

import seedbed as sb
from seedbed import recipes
from seedbed.errors import RecipeError, SeedbedError, UnmatchedError, UnusedRuleError
from seedbed.initializers import (
    Constant,
    Custom,
    HeNormal,
    Keep,
    Mixture,
    Normal,
    Ones,
    Orthogonal,
    TruncatedNormal,
    XavierUniform,
    Zeros,
)
from seedbed.recipe import Finder
from seedbed.spec import ROLES

tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")
FLOATS = st.floats(-1e30, 1e30, allow_nan=False)
STARTS = st.one_of(
    st.sampled_from([Zeros(), Ones(), HeNormal(fan="out"), Orthogonal(gain=-1), Keep(), Keep(values=True)]),
    st.builds(Constant, value=FLOATS | st.integers(-(2**60), 2**60)),
    st.builds(Normal, mean=FLOATS, std=st.floats(0, 1e30)),
    st.builds(TruncatedNormal, std=st.floats(0, 1e30), cut=st.floats(0.001, 9)),
    st.builds(lambda p, n: Mixture([(p, Normal(std=n)), (1 - p, Zeros())]), st.floats(0, 1), st.floats(0, 9)),
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=10)
WHERES = st.builds(sb.Where, path=TEXT, layer=st.none() | TEXT, role=st.none() | st.sampled_from(ROLES))
RECIPES = st.builds(
    sb.Recipe, st.lists(st.builds(sb.Rule, WHERES, STARTS, st.booleans()), min_size=1, max_size=4), TEXT
)


def spec(path="fc.weight", **facts):
    return sb.ParamSpec(path=path, shape=(4, 3), **facts)


def decided(specs, rules):
    """Which of the rules decides each parameter, told by a constant."""
    made = sb.Recipe(tuple(sb.Rule(where, Constant(value=n), True) for n, where in enumerate(rules)))
    return {e.spec.path: getattr(e.start, "value", None) for e in sb.plan(specs, recipe=made)}


PIECES = st.lists(st.sampled_from(["a", "b", "ab", ".", "*", "?", "[", "]", "[ab]", "[!a]", "[b", "a]"]), max_size=5)
GLOBS = st.one_of(st.none(), PIECES.map("".join))
MANY = st.lists(st.tuples(GLOBS, st.none() | st.sampled_from(["weight", "buffer"])), min_size=1, max_size=8)


@given(
    rules=MANY.filter(lambda rules: all(rule != (None, None) for rule in rules)),
    paths=st.lists(st.text("ab.[]", min_size=1, max_size=5), min_size=1, max_size=3, unique=True),
    kind=st.sampled_from(["parameter", "buffer"]),
)
@example(rules=[("b[ab", None), ("[ab]b", None)], paths=["b[ab"], kind="parameter")
@example(rules=[("*[ab]", None)], paths=["ba"], kind="parameter")
def test_the_first_that_matches_is_found_among_many(rules, paths, kind):
    made = sb.Recipe(tuple(sb.Rule(sb.Where(path=path, role=role), Zeros()) for path, role in rules))
    where = spec(paths[0], aliases=tuple(paths[1:]), kind=kind, role="buffer" if kind == "buffer" else "weight")
    expected = next((n for n, rule in enumerate(made) if rule.where.matches(where)), None)
    assert Finder(made).first(where) == expected


def test_of_many_rules_few_are_tried(monkeypatch):
    """Each parameter is asked of the rules that its path may fit, not of all."""
    asked = []
    holds = sb.Where._holds
    monkeypatch.setattr(sb.Where, "_holds", lambda self, spec: asked.append(self) or holds(self, spec))
    specs = sb.Specs(tuple(spec(f"layers.{n}.{name}") for n in range(40) for name in ("up.weight", "down.weight")))
    globs = [*(f"layers.{n}.up.*" for n in range(40)), *(f"*.{n}.down.weight" for n in range(40))]
    plan = sb.plan(specs, recipe={glob: Constant(value=n) for n, glob in enumerate(globs)})
    assert [e.start.value for e in plan] == [n + 40 * down for n in range(40) for down in (0, 1)]
    assert len(asked) == len(specs.params)


# What may stand where an initializer does.


@pytest.mark.parametrize(
    ("told", "meant"),
    [("Zeros", Zeros()), ("HeNormal", HeNormal()), ("Keep", Keep()), ({"name": "Normal", "std": 0.5}, Normal(std=0.5)),
     ({"name": "Ones"}, Ones())],
)  # fmt: skip
def test_initializers_have_the_names_that_files_give_them(told, meant, tmp_path):
    specs = sb.Specs((spec(axes=("out", "in")),))
    expected = sb.plan(specs, recipe=meant)
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps({"rule": [{"path": "*", "initializer": told}]}))
    recipes_ = [{"*": told}, sb.Recipe((sb.Rule("*", told),)), sb.Recipe.of({"*": told}), file]
    for recipe in [*recipes_, *([told, sb.Recipe.of(told)] if isinstance(told, str) else [])]:
        assert sb.plan(specs, recipe=recipe) == expected
    assert sb.Rule("*", told) == sb.Rule("*", meant)


@pytest.mark.parametrize("name", ["zeros", "he", "ZEROS", "Zeros()"])
def test_names_that_are_not_quite_those_are_refused_with_the_right_one(name):
    specs, meant = sb.Specs((spec(),)), "HeNormal" if name == "he" else "Zeros"
    for give in (lambda: {"*": name}, lambda: sb.Recipe.of(name), lambda: sb.Rule("*", name)):
        with pytest.raises(RecipeError, match=f"Did you mean '{meant}'"):
            sb.plan(specs, recipe=give())


# As text.


@given(recipe=RECIPES)
@example(recipe=sb.Recipe.of({"\x7f\t\n\"\\'\u2028": Zeros(), "é": Constant(value=-1e-300)}))
def test_recipes_go_to_toml_and_back(recipe):
    assert sb.Recipe.from_toml(recipe.to_toml()) == recipe


@given(recipe=RECIPES)
def test_recipes_go_to_json_and_back(recipe):
    assert sb.Recipe.from_json(recipe.to_json()) == recipe
    assert json.loads(recipe.to_json()) == recipe.to_dict()


@given(recipe=RECIPES)
def test_toml_has_one_table_for_each_rule(recipe):
    assert recipe.to_toml().count("[[rule]]\n") >= len(recipe.rules)
    assert len(tomllib.loads(recipe.to_toml())["rule"]) == len(recipe.rules)


def test_toml_is_what_a_person_would_write():
    recipe = sb.Recipe((sb.Rule("*.bias", Zeros()), sb.Rule(sb.Where(role="weight"), Normal(std=0.02), True)), "mine")
    assert recipe.to_toml() == (
        'name = "mine"\n\n[[rule]]\npath = "*.bias"\ninitializer = "Zeros"\n\n'
        '[[rule]]\nrole = "weight"\ninitializer = { name = "Normal", std = 0.02 }\noptional = true\n'
    )


@given(data=st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT
    | st.sampled_from(["Zeros", "Normal", "Mixture", "Overlay", "weight", "*"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["name", "rule", "path", "role", "layer", "initializer", "optional", "std", "parts", "base",
                         "boxes", "probability", "box", "value"]), inner, max_size=4,
    ),
    max_leaves=15,
))  # fmt: skip
def test_data_that_is_no_recipe_is_an_error_of_ours(data):
    for start in (data, {"rule": data}, {"rule": [data]}, {"rule": [{"path": "*", "initializer": data}]}):
        try:
            sb.Recipe.from_dict(start)
        except SeedbedError:
            continue


def test_a_function_cannot_be_written():
    with pytest.raises(RecipeError, match="cannot be written to a file"):
        sb.Recipe.of(nn.init.zeros_).to_json()
    with pytest.raises(RecipeError, match="cannot be read from a file"):
        sb.Recipe.from_json(sb.Recipe.of(Custom(lambda draw, spec: draw.normal())).to_json())


@pytest.mark.parametrize(("name", "line", "column"), [("a = 1\nb = = 2", 2, 5), ("[[rule]]\npath = 'x", 2, None)])
def test_broken_toml_is_told_with_its_line(name, line, column):
    with pytest.raises(RecipeError) as caught:
        sb.Recipe.from_toml(name, source="x.toml")
    place = f"line {line}, column {column}" if column else f"line {line}, the last"
    assert f"at     {place}\n" in str(caught.value)


def test_a_file_is_read_by_its_ending(tmp_path):
    recipe = sb.Recipe.of({"*.bias": Zeros(), "*": Ones()})
    (tmp_path / "a.toml").write_text(recipe.to_toml())
    (tmp_path / "a.json").write_text(recipe.to_json())
    assert recipes.read(tmp_path / "a.toml") == recipes.read(str(tmp_path / "a.json")) == recipe


# Which rule decides.


def test_the_first_match_wins():
    specs = sb.Specs((spec("a.weight"), spec("a.bias"), spec("b.weight")))
    assert decided(specs, ["a.weight", "a.*", "*"]) == {"a.weight": 0, "a.bias": 1, "b.weight": 2}
    assert decided(specs, ["*", "a.weight"]) == {"a.weight": 0, "a.bias": 0, "b.weight": 0}


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("weight", "fc.weight", False), ("*weight", "fc.weight", True), ("fc", "fc.weight", False),
        ("fc*", "fc.weight", True), ("h.*.weight", "h.0.attn.weight", True), ("h.?.w", "h.0.w", True),
        ("h.?.w", "h.10.w", False), ("h.[01].w", "h.1.w", True), ("h.[!01].w", "h.1.w", False),
        ("FC.*", "fc.weight", False), ("fc.weight", "fc.weight", True), ("*", "", True), ("fc.weigh", "fc.weight", False),
    ],
)  # fmt: skip
def test_a_glob_is_compared_with_the_whole_path(pattern, path, matches):
    assert sb.Where(path=pattern).matches(spec(path)) == matches


@pytest.mark.parametrize(
    ("where", "matches"),
    [
        (sb.Where(layer="Linear"), True), (sb.Where(layer="Base"), True), (sb.Where(layer="linear"), False),
        (sb.Where(layer=nn.Linear), True), (sb.Where(layer=nn.Conv2d), False), (sb.Where(role="weight"), True),
        (sb.Where(role="bias"), False), (sb.Where(path="fc.*", role="bias"), False),
        (sb.Where(path="fc.*", layer="Linear", role="weight"), True), (sb.Where(path="x", layer="Linear"), False),
    ],
)  # fmt: skip
def test_all_conditions_must_hold(where, matches):
    assert where.matches(spec(layer="Linear", bases=("Base",), role="weight")) == matches


def test_a_layers_class_takes_the_classes_that_extend_it():
    class Mine(nn.Linear):
        pass

    specs = sb.trace(nn.Sequential(Mine(2, 2), nn.Conv1d(2, 2, 1)))
    assert decided(specs, [nn.Linear, "*"]) == {"0.weight": 0, "0.bias": 0, "1.weight": 1, "1.bias": 1}
    lazy = sb.trace(nn.LazyLinear(2))
    assert all(sb.Where(layer="Linear").matches(s) for s in lazy)


def test_any_of_a_tied_parameters_paths_will_do():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[1].weight = net[0].weight
    assert decided(sb.trace(net), ["1.weight", "*"]) == {"0.weight": 0, "0.bias": 1, "1.bias": 1}


def test_buffers_are_touched_by_nothing_but_their_role():
    specs = sb.trace(nn.BatchNorm1d(3))
    own = {s.path: e.start for s, e in zip(specs, sb.plan(specs), strict=True) if s.kind == "buffer"}
    assert list(own) == ["running_mean", "running_var", "num_batches_tracked"]
    for rules in ({"*": Constant(value=3)}, {nn.BatchNorm1d: Constant(value=3)}):
        plan = sb.plan(specs, recipe=rules)
        assert {path: plan[path].start for path in own} == own
        assert plan["weight"].start == Constant(value=3)
    named = sb.Recipe((sb.Rule(sb.Where(role="buffer", path="running_mean"), Ones()), sb.Rule("*", Zeros())))
    plan = sb.plan(specs, recipe=named)
    assert {path: plan[path].start for path in own} == {**own, "running_mean": Ones()}


def test_a_rule_that_only_names_buffers_by_path_is_unused():
    with pytest.raises(UnusedRuleError):
        sb.plan(nn.BatchNorm1d(3), recipe={"running_*": Ones(), "*": Zeros()})


def test_every_parameter_that_no_rule_matches_is_named_and_no_buffer():
    net = nn.Sequential(*(nn.BatchNorm1d(3) for _ in range(12)))
    with pytest.raises(UnmatchedError) as caught:
        sb.plan(net, recipe={"0.weight": Zeros()})
    assert len(caught.value.paths) == 23
    for path in caught.value.paths:
        assert f"\n    {path} " in str(caught.value)
    assert "running_mean" not in str(caught.value)
    assert "23 of 24 parameters" in str(caught.value)


def test_a_rule_that_decides_nothing_is_an_error_unless_it_is_optional():
    rules = [sb.Rule("*", Zeros()), sb.Rule("fc.weight", Ones())]
    specs = sb.Specs((spec(),))
    with pytest.raises(UnusedRuleError) as caught:
        sb.plan(specs, recipe=sb.Recipe(tuple(rules)))
    assert caught.value.rules == (rules[1],)
    optional = sb.Recipe((rules[0], sb.Rule("fc.weight", Ones(), optional=True)))
    assert sb.plan(specs, recipe=optional)["fc.weight"].start == Zeros()


def test_one_rule_twice_is_a_rule_that_decides_nothing():
    rule = sb.Rule("*", Zeros())
    with pytest.raises(UnusedRuleError):
        sb.plan(sb.Specs((spec(),)), recipe=sb.Recipe((rule, rule)))


def test_the_plan_says_which_rule_it_was():
    specs = sb.Specs((spec("a.weight", role="weight"), spec("b.weight")))
    plan = sb.plan(specs, recipe=sb.Recipe((sb.Rule("b.*", Ones()), sb.Rule(sb.Where(role="weight"), Zeros())), "mine"))
    assert [e.why for e in plan] == ["rule 2: role=weight", "rule 1: 'b.*'"]
    assert plan.recipe == "mine"


def test_keep_starts_as_the_framework_does():
    net = nn.Linear(2, 3)
    kept = sb.plan(net, recipe={"weight": Keep(), "bias": Zeros()})
    assert kept["weight"].start == sb.plan(net)["weight"].start
    assert kept["weight"].start.high == -kept["weight"].start.low == pytest.approx(0.5**0.5)
    assert kept["weight"].why == "Linear.reset_parameters"


# Where recipes come from.


@pytest.mark.parametrize(
    "value",
    [Ones(), {"*": Ones()}, sb.Recipe((sb.Rule("*", Ones()),)), {sb.Where(path="*"): Ones()}],
    ids=["one initializer", "mapping", "recipe", "mapping of Where"],
)
def test_a_recipe_is_made_from_all_these(value):
    assert sb.Recipe.of(value) == sb.Recipe.of(Ones())


@pytest.mark.parametrize("name", recipes.NAMED)
def test_named_recipes_go_to_toml_and_name_their_source(name):
    specs = sb.Specs(tuple(spec(f"h.{n}.c_proj.weight", role="weight") for n in range(3)))
    recipe = recipes.recipe_of(name, specs)
    assert recipe.name == name
    assert sb.Recipe.from_toml(recipe.to_toml()) == recipe


def test_gpt2_scales_residual_layers_by_their_number():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_layer=3, n_head=2, n_embd=8, vocab_size=32, n_positions=8)
    plan = sb.plan(transformers.GPT2LMHeadModel(config), recipe="gpt2")
    assert plan["transformer.h.1.mlp.c_proj.weight"].start == Normal(std=0.02 / 6**0.5)
    assert plan["transformer.h.1.mlp.c_fc.weight"].start == Normal(std=0.02)
    assert plan["lm_head.weight"] is plan["transformer.wte.weight"]
    assert plan["transformer.ln_f.weight"].start == Ones()
    assert plan["transformer.ln_f.bias"].start == Zeros()


@pytest.mark.parametrize(("name", "weight"), [("he", HeNormal()), ("xavier", XavierUniform())])
def test_scaled_recipes_start_weights_and_leave_the_rest(name, weight):
    net = nn.ModuleDict(
        {"fc": nn.Linear(2, 3), "norm": nn.LayerNorm(3), "rnn": nn.GRU(2, 2), "words": nn.Embedding(5, 2)}
    )
    plan, own = sb.plan(net, recipe=name), sb.plan(net)
    assert plan["fc.weight"].initializer == weight
    assert plan["rnn.weight_ih_l0"].initializer == weight
    assert plan["rnn.weight_hh_l0"].start == Orthogonal()
    assert plan["fc.bias"].start == plan["norm.bias"].start == Zeros()
    assert plan["norm.weight"].start == own["norm.weight"].start
    assert plan["words.weight"].start == own["words.weight"].start
