"""The command line: every good path, and for every bad input the whole of what is said, and the exit code."""

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from safetensors.torch import load_file

import seedbed as sb
from seedbed import cli, frameworks
from seedbed.initializers import Zeros

NET = """
import torch
from torch import nn

def net():
    return nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(2))

def sized():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))

def chatty():
    print("building")
    return nn.Linear(4, 2)

instance = nn.Linear(4, 2)

class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(10, 4)
        self.fc = nn.LazyLinear(3)

    def forward(self, x, mask, seed=None):
        return self.fc(self.tokens(x) * mask)

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right, self.unused = nn.LazyLinear(2), nn.LazyLinear(2), nn.LazyLinear(2)

    def forward(self, a, b):
        return self.left(a) + self.right(b)

class Image(nn.Sequential):
    def __init__(self):
        super().__init__(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(2))

class Computed(nn.Linear):
    def __init__(self):
        super().__init__(2, 2)
        self.register_buffer("frequencies", torch.arange(3.0))

class Unwritten(nn.Linear):
    def __init__(self):
        super().__init__(2, 2)
        self.register_buffer("frequencies", torch.empty(3))

class ReadsValues(nn.Linear):
    def __init__(self):
        super().__init__(2, 2 if torch.rand(1).item() < 2 else 3)

def masked(): return Masked()
def two(): return Two()
def image(): return Image()
def computed(): return Computed()
def unwritten(): return Unwritten()
def reads_values(): return ReadsValues()
def many(): return nn.Sequential(*(nn.Linear(4, 4) for _ in range(30)))
def nothing(): return None
def with_argument(width): return nn.Linear(width, 2)
def fails():
    layers = []
    return layers[3]

number = 3
"""
RECIPE = """
from seedbed import Recipe, Rule
from seedbed.initializers import Constant, Zeros

mine = Recipe((Rule("*.bias", Zeros()), Rule("*", Constant(value=3))), name="mine")
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("net", "broken", "mine", "package", "package.module"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    Path("net.py").write_text(NET)
    Path("mine.py").write_text(RECIPE)
    Path("mine.toml").write_text(
        'name = "mine"\n[[rule]]\npath = "*.bias"\ninitializer = "Zeros"\n'
        '[[rule]]\nrole = "weight"\ninitializer = { name = "Constant", value = 3 }\n'
    )
    yield tmp_path
    for name in ("net", "broken", "mine", "package", "package.module"):
        sys.modules.pop(name, None)


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command line here: exit code, standard output, standard error."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["seedbed", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        said = capsys.readouterr()
        return left.value.code or 0, said.out, said.err

    return run


def command(*words, **options):
    """Run the command line as a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", "from seedbed.cli import main; main()", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        **options,
    )


# The good paths.


def test_the_commands_and_options_are_these():
    group = typer.main.get_command(cli.app)
    found = {
        name: [p.opts[0] for p in sub.params if p.opts[0] != "--help"] for name, sub in sorted(group.commands.items())
    }
    assert [p.opts[0] for p in group.params if p.opts[0] != "--help"] == ["--version"]
    planned = ["--input", "--recipe", "--seed", "--streams", "--parts", "--real", "--base", "--leave"]
    assert found == {
        "check": ["checkpoint", "model", *planned, "--fingerprint"],
        "init": ["model", "--out", *planned, "--shard-size", "--process", "--replace", "--threads", "--quiet"],
        "plan": ["model", *planned, "--full", "--json", "--mesh", "--placements"],
        "recipes": [],
    }


def test_plan_shows_every_parameter_before_it_is_started(run):
    assert run("plan", "net.py:net", "--input", "1x4", "--recipe", "he") == (
        0,
        (
            "parameter  shape   dtype    starts as                       because\n"
            "─────────  ──────  ───────  ──────────────────────────────  ───────────────────\n"
            "0.weight   (8, 4)  float32  HeNormal(): Normal(std=0.7071)  rule 1: role=weight\n"
            "0.bias     (8,)    float32  Zeros()                         rule 3: role=bias\n"
            "2.weight   (2, 8)  float32  HeNormal(): Normal(std=0.5)     rule 1: role=weight\n"
            "2.bias     (2,)    float32  Zeros()                         rule 3: role=bias\n"
            "4 parameters and buffers: 58 values, 232 B; seed 0, "
            f"fingerprint {sb.plan(model('net'), (1, 4), recipe='he').fingerprint()}\n"
        ),
        "",
    )


def model(name):
    return cli.loading.model_of(f"net.py:{name}", False)


def test_plan_without_inputs_shows_what_is_not_known(run):
    code, out, err = run("plan", "net.py:net")
    assert (code, err) == (0, "")
    assert "0.weight   (8, ?)  float32  as its layer starts it  Linear.reset_parameters  waits for an input\n" in out
    assert "4 parameters not settled yet" in out


def test_plan_in_json_is_read_back(run):
    code, out, err = run("plan", "net.py:net", "-i", "1x4", "-r", "he", "-s", "5", "--json")
    assert (code, err) == (0, "")
    assert sb.Plan.from_json(out) == sb.plan(model("net"), (1, 4), recipe="he", seed=5)


@pytest.mark.parametrize("told", ["position", "streams.py:names"])
def test_streams_have_other_names_than_paths(run, told):
    """The second layer that has parameters stands at 2."""
    names = {"2.weight": "1.weight", "2.bias": "1.bias"}
    Path("streams.py").write_text(f"names = {names!r}\n")
    asked = ["net.py:sized", "-r", "he", "--streams", told]
    expected = sb.plan(model("sized"), recipe="he", streams="position")
    assert sb.Plan.from_json(run("plan", *asked, "--json")[1]) == expected
    assert run("init", *asked, "--out", "there")[0] == 0
    assert sb.check("there", expected)
    assert run("check", "there", *asked)[0] == 0
    assert run("check", "there", *asked[:-2])[0] == 1


def test_arrays_hold_the_parts_that_a_file_tells(run):
    Path("held.py").write_text("import seedbed\nhalves = {'0.weight': seedbed.Parts(('up.weight', 'gate.weight'))}\n")
    asked = ["net.py:sized", "-r", "he", "--parts", "held.py:halves"]
    parts = {"0.weight": sb.Parts(("up.weight", "gate.weight"))}
    expected = sb.plan(model("sized"), recipe="he", parts=parts)
    assert "· gate.weight" in run("plan", *asked)[1]
    assert sb.Plan.from_json(run("plan", *asked, "--json")[1]) == expected
    assert run("init", *asked, "--out", "there")[0] == 0
    assert sb.check("there", expected)
    assert run("check", "there", *asked)[0] == 0
    assert run("check", "there", *asked[:-2])[0] == 1


def test_what_the_users_code_prints_stays_out_of_the_json(run):
    code, out, err = run("plan", "net.py:chatty", "--json")
    assert (code, err) == (0, "building\n")
    assert sb.Plan.from_json(out)


def test_plan_folds_many_rows_and_full_shows_each(run):
    folded, full = run("plan", "net.py:many")[1], run("plan", "net.py:many", "--full")[1]
    assert "\n{0-29}.weight  " in folded
    assert folded.count("\n") == 5
    assert "\n17.weight  " in full
    assert full.count("\n") == 63


def test_plan_says_on_the_side_what_the_input_does_not_reach(run):
    code, out, err = run("plan", "net.py:two", "-i", "1x4", "-i", "1x5")
    assert code == 0
    assert "unused.weight  (2, ?)" in out
    assert err == "Not reached by the input: unused.weight, unused.bias\n"


def test_inputs_repeat_have_dtypes_and_names_and_may_vary(run):
    out = run("plan", "net.py:two", "-i", "1x4", "--input", "1x5", "--json")[1]
    assert sb.Plan.from_json(out)["right.weight"].spec.shape == (2, 5)
    out = run("plan", "net.py:masked", "-i", "1x7:int64", "-i", "mask=1x7x4:bool", "-i", "seed=scalar", "--json")[1]
    assert sb.Plan.from_json(out)["fc.weight"].spec.shape == (3, 4)
    out = run("plan", "net.py:image", "-i", "?x3x?x8", "--json")[1]
    assert sb.Plan.from_json(out)["2.weight"].spec.shape == (2, None)
    assert sb.Plan.from_json(out)["2.weight"].spec.varies == "input 0 axis 2"


@pytest.mark.parametrize("recipe", ["mine.toml", "mine.json", "mine.py:mine", "./mine.py:mine"])
def test_a_recipe_is_a_file_or_a_name_in_one(recipe, run):
    Path("mine.json").write_text(sb.Recipe.from_toml(Path("mine.toml").read_text()).to_json())
    out = run("plan", "net.py:sized", "-r", recipe, "--json")[1]
    assert [str(e.start) for e in sb.Plan.from_json(out)] == ["Constant(value=3)", "Zeros()"] * 2


@pytest.mark.parametrize("name", ["net.py:instance", "./net.py:instance", "net:instance"])
def test_a_model_is_a_file_and_a_name_or_a_module_and_a_name(name, run):
    assert run("plan", name)[0] == 0


def test_a_class_is_called_like_a_function(run):
    code, out, _ = run("plan", "net.py:Two")
    assert (code, out.count("as its layer starts it")) == (0, 6)


def test_a_module_of_a_package_is_found_from_the_folder(run):
    Path("package").mkdir()
    Path("package/__init__.py").write_text("")
    Path("package/module.py").write_text(NET)
    assert run("plan", "package.module:sized")[0] == 0
    assert run("plan", "package/module.py:sized")[0] == 0


def test_a_file_with_the_name_of_another_module_does_not_take_its_place(run):
    shutil.copy("net.py", "random.py")
    import random

    assert run("plan", "random.py:sized")[0] == 0
    assert sys.modules["random"] is random


def test_init_writes_what_plan_shows_and_check_agrees(run):
    words = ("-i", "1x4", "-r", "he", "--seed", "9")
    code, out, err = run("init", "net.py:net", "--out", "x.safetensors", *words)
    plan = sb.plan(model("net"), (1, 4), recipe="he", seed=9)
    size = Path("x.safetensors").stat().st_size
    assert (code, out, err) == (0, f"{plan.summary}\nwrote x.safetensors ({size} B)\n", "")
    assert sb.check("x.safetensors", plan)
    assert run("check", "x.safetensors", "net.py:net", *words) == (
        0, "4 of 4 arrays equal the plan bit for bit.\n", "",
    )  # fmt: skip


def test_init_writes_shards_into_a_folder_quietly(run):
    code, out, err = run("init", "net.py:sized", "-o", "out", "--shard-size", "200B", "--threads", "2", "--quiet")
    files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"]
    assert code == 0
    assert err == ""
    assert re.sub(r" \(.*?\)", "", out) == "".join(f"wrote out/{f}\n" for f in files)
    assert run("check", "out", "net.py:sized")[0] == 0


def words(folder, *more):
    return ["init", "net.py:sized", "-o", folder, "--shard-size", "100B", *more]


@pytest.mark.parametrize("told", ["options", "environment"])
def test_several_processes_init_the_files_of_one(told, run, monkeypatch):
    summary = f"{sb.plan(model('sized')).summary}\n"
    assert run(*words("one"))[:2] == (
        0,
        summary + "".join(f"wrote {p} ({p.stat().st_size} B)\n" for p in written("one")),
    )
    said = {}
    for rank in (1, 0):
        if told == "environment":
            monkeypatch.setenv("RANK", str(rank))
            monkeypatch.setenv("WORLD_SIZE", "2")
        code, said[rank], err = run(*words("out", *(["--process", f"{rank}/2"] if told == "options" else [])))
        assert (code, err) == (0, "")
    lines = [f"{p} ({p.stat().st_size} B)\n" for p in written("out")]
    assert said[1] == f"process 1 of 2: wrote {lines[1]}"
    assert said[0] == summary + "".join(f"process 0 of 2: wrote {line}" for line in (lines[0], *lines[2:]))
    assert {p.name: p.read_bytes() for p in written("out")} == {p.name: p.read_bytes() for p in written("one")}
    assert run(*words("out", "-q", "--process", "0/1"))[1] == "".join(f"found {line}" for line in lines)


def written(folder):
    return sorted(Path(folder).iterdir())


def test_torchrun_starts_it(run):
    run(*words("one"))
    line = [
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        "0",
        "-m",
        "seedbed",
        *words("out", "-q"),
    ]
    done = subprocess.run([sys.executable, "-m", *line], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert {re.sub(r" \(.*", "", line) for line in done.stdout.splitlines()} >= {
        f"process {n % 2} of 2: wrote {p}" for n, p in enumerate(written("out")) if p.suffix != ".json"
    }
    assert {p.name: p.read_bytes() for p in written("out")} == {p.name: p.read_bytes() for p in written("one")}


def test_another_model_is_replaced_when_told(run):
    assert run("init", "net.py:sized", "-q", "-o", "x.safetensors")[0] == 0
    before = Path("x.safetensors").read_bytes()
    code, out, err = run("init", "net.py:sized", "-s", "1", "-q", "-o", "x.safetensors")
    assert (code, out) == (2, "")
    assert err.startswith("Error: x.safetensors: holds another model.\n")
    assert Path("x.safetensors").read_bytes() == before
    code, out, err = run("init", "net.py:sized", "-s", "1", "-q", "-o", "x.safetensors", "--replace")
    assert (code, out.split(" (")[0], err) == (0, "wrote x.safetensors", "")
    assert sb.check("x.safetensors", sb.plan(model("sized"), seed=1))


@pytest.mark.parametrize(
    ("option", "environment"),
    [("2/2", {}), ("1", {}), ("-1/2", {}), ("a/b", {}), ("", {}), (None, {"RANK": "0"}), (None, {"WORLD_SIZE": "2"}),
     (None, {"RANK": "2", "WORLD_SIZE": "2"}), (None, {"RANK": "0.0", "WORLD_SIZE": "2"})],
)  # fmt: skip
def test_a_process_that_is_none_is_said_in_a_sentence(option, environment, run, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    code, out, err = run(*words("out", *([] if option is None else ["--process", option])))
    given = ", ".join(f"{k}={v}" for k, v in environment.items()) or f"--process {option!r}"
    assert (code, out) == (2, "")
    assert err.startswith(f"Error: {given}: does not say which process this is, of how many.\n\nGive ")
    assert not Path("out").exists()


@pytest.mark.parametrize("options", [[], ["--real"]])
def test_init_writes_what_the_constructor_computes(run, options):
    assert run("init", "net.py:computed", "-o", "x.safetensors", *options)[0] == 0
    assert load_file("x.safetensors")["frequencies"].tolist() == [0.0, 1.0, 2.0]


def test_a_checkpoint_that_differs_is_exit_code_1(run):
    run("init", "net.py:sized", "-o", "x.safetensors", "-r", "he")
    code, out, err = run("check", "x.safetensors", "net.py:sized", "-r", "he", "-s", "1")
    findings = sb.check("x.safetensors", sb.plan(model("sized"), recipe="he", seed=1))
    assert (code, out, err) == (1, f"{findings}\n", "")
    assert [line.split()[:2] for line in out.split("\n")[2:4]] == [["0.weight", "moved"], ["2.weight", "moved"]]
    assert out.endswith("2 of 4 arrays equal the plan bit for bit, 2 do not.\n")


def test_recipes_are_listed_with_their_source(run):
    code, out, err = run("recipes")
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.split("\n")[2:-1]] == ["gpt2", "he", "lecun", "xavier"]
    assert "arXiv:1502.01852" in out


def test_the_version_names_the_engine(run, monkeypatch):
    code, out, err = run("--version")
    assert (code, err) == (0, "")
    assert re.fullmatch(rf"seedbed {re.escape(sb.__version__)} \(engine: (numpy|c, \w+)\)\n", out)
    monkeypatch.setenv("SEEDBED_ENGINE", "numpy")
    assert run("--version") == (0, f"seedbed {sb.__version__} (engine: numpy)\n", "")
    monkeypatch.setenv("SEEDBED_ENGINE", "fortran")
    code, out, err = run("--version")
    assert (code, out) == (2, "")
    assert err.startswith("Error: SEEDBED_ENGINE=fortran: this engine is not here.\n")


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "seedbed", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"seedbed {sb.__version__}")


def test_the_installed_command_is_this_one():
    done = subprocess.run(
        [Path(sys.executable).parent / "seedbed", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"seedbed {sb.__version__}")


def test_a_terminal_without_the_signs_shows_the_rest():
    done = command("plan", "net.py:sized", env={**os.environ, "PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"})
    assert done.returncode == 0
    assert "0.weight" in done.stdout


# What is wrong, whole: exit code 2, one sentence, no traceback.

WRONG = {
    "no_name": (["plan", "net.py"], "'net.py': must be FILE.py:NAME or package.module:NAME."),
    "file_missing": (["plan", "missing.py:net"], "missing.py: there is no such file."),
    "file_not_python": (["plan", "./mine.toml:net"], "./mine.toml: is not a Python file."),
    "module_missing": (["plan", "no_such_package.module:net"], "no_such_package.module: there is no such module."),
    "name_missing": (["plan", "net.py:nett"], "net.py: has no name 'nett'.\n\nDid you mean 'net'?"),
    "not_a_model": (
        ["plan", "net.py:number"],
        "A model is needed, got a int.\n\nModels of these frameworks are known: flax, gluon, keras, torch; imported here: torch.",
    ),
    "returns_no_model": (
        ["plan", "net.py:nothing"],
        "A model is needed, got a NoneType.\n\nModels of these frameworks are known: flax, gluon, keras, torch; imported here: torch.",
    ),
    "function_with_arguments": (
        ["plan", "net.py:with_argument"],
        (
            "net.py:with_argument: is called without arguments, and needs `width`.\n\n"
            "Write a function without arguments that returns the model, and give its name."
        ),
    ),
    "input_text": (
        ["plan", "net.py:net", "-i", "1,4"],
        (
            "--input '1,4': is not an input.\n\n"
            "Write sizes with x between them, ? for one that varies, then the dtype if it is not the model's:\n"
            "    --input BATCHxCHANNELSx?x?  --input BATCHxLENGTH:int64  --input NAME=BATCHxLENGTH:bool"
        ),
    ),
    "input_negative": (
        ["plan", "net.py:net", "--input=-1x4"],
        (
            "--input '-1x4': is not an input.\n\n"
            "Write sizes with x between them, ? for one that varies, then the dtype if it is not the model's:\n"
            "    --input BATCHxCHANNELSx?x?  --input BATCHxLENGTH:int64  --input NAME=BATCHxLENGTH:bool"
        ),
    ),
    "input_dtype": (
        ["plan", "net.py:net", "-i", "1x4:flaot32"],
        "Input: unknown dtype 'flaot32'.\n\nDid you mean 'float32' or 'float64' or 'float16'?",
    ),
    "input_twice": (
        ["plan", "net.py:masked", "-i", "x=1x7", "-i", "x=1x8"],
        "--input 'x=1x8': x is given twice.\n\nGive each input once.",
    ),
    "input_does_not_fit": (
        ["plan", "net.py:sized", "-i", "1x5"],
        (
            "0: Linear expects inputs of 4 features, got (1, 5).\n\n    expected  (..., 4)\n    got       (1, 5)\n"
            "    from      the model's input\n\n"
            "Let the two sizes agree, or leave this one open: a lazy layer takes it from its input."
        ),
    ),
    "input_unknown": (
        ["plan", "net.py:masked", "-i", "1x7:int64", "-i", "maks=1x7"],
        (
            "Masked.forward: missing a required argument: 'mask'.\n\n    takes  x, mask, seed=None\n"
            "    given  1 by position\n           maks by name\n\nDid you mean 'mask'?"
        ),
    ),
    "recipe_unknown": (
        ["plan", "net.py:sized", "-r", "xaver"],
        (
            "Unknown recipe 'xaver'.\n\nDid you mean 'xavier'?\n"
            "Give a name, a file that ends in .toml or .json, or, on the command line, FILE.py:NAME."
        ),
    ),
    "recipe_like_an_initializer": (
        ["plan", "net.py:sized", "-r", "zeros"],
        (
            "Unknown recipe 'zeros'.\n\nDid you mean 'Zeros'?\n"
            "Give a name, a file that ends in .toml or .json, or, on the command line, FILE.py:NAME."
        ),
    ),
    "recipe_missing": (
        ["plan", "net.py:sized", "-r", "no.toml"],
        "no.toml: the recipe cannot be read: No such file or directory.",
    ),
    "recipe_broken": (
        ["plan", "net.py:sized", "-r", "broken.toml"],
        "broken.toml: is not valid TOML.\n\n    at     line 2, column 15\n    found  Invalid value",
    ),
    "recipe_name_missing": (
        ["plan", "net.py:sized", "-r", "mine.py:mien"],
        "mine.py: has no name 'mien'.\n\nDid you mean 'mine'?",
    ),
    "recipe_not_one": (
        ["plan", "net.py:sized", "-r", "net.py:number"],
        (
            "A recipe cannot be made from int.\n\n"
            "Give a Recipe, a name, one initializer, a mapping {pattern: initializer}, or a path to a TOML file."
        ),
    ),
    "rule_unused": (
        ["plan", "net.py:sized", "-r", "unused.toml"],
        (
            "recipe 'recipe': the rule 'head' -> Zeros() decided no parameter.\n\n"
            "    1  'head'  Zeros()  decided 0  <- nothing\n    2  '*'     Zeros()  decided 4\n\n"
            "    The first parameters:\n    0.weight\n    0.bias\n    2.weight\n    2.bias\n\n"
            "Correct the rule, move it above the one that takes its parameters, or give it optional=True."
        ),
    ),
    "streams": (
        ["plan", "net.py:sized", "--streams", "positions"],
        "streams: must be a mapping of paths to names, or 'position', got 'positions'.\n\nWrite streams={path: name}.",
    ),
    "parts": (
        ["plan", "net.py:sized", "--parts", "net.py:number"],
        (
            "parts: must be a mapping of patterns to Parts, got 3.\n\n"
            "Write parts={'*.qkv.weight': seedbed.Parts(('*.q.weight', '*.k.weight', '*.v.weight'))}."
        ),
    ),
    "parts_not_named": (
        ["plan", "net.py:sized", "--parts", "qkv"],
        "'qkv': must be FILE.py:NAME or package.module:NAME.",
    ),
    "seed": (["plan", "net.py:sized", "-s", "-1"], "seed: must be a whole number from 0 to 2**64 - 1, got -1."),
    "sizes_unknown": (
        ["init", "net.py:net", "-o", "x.safetensors"],
        (
            "4 parameters wait for sizes that are still unknown.\n\n"
            "    0.weight  (8, ?)  no input given\n    0.bias    (8,)    no input given\n"
            "    2.weight  (2, ?)  no input given\n    2.bias    (2,)    no input given\n\n"
            "Give inputs that reach them, every size a number, such as\n"
            "    seedbed.plan(model, (batch, features), ...)"
        ),
    ),
    "values_computed": (
        ["init", "net.py:unwritten", "-o", "x.safetensors"],
        (
            "frequencies: the plan keeps its values, and it has none: the model was built without memory.\n\n"
            "    frequencies  Unwritten.__init__ (net.py:46): torch.empty, which nothing writes\n\n"
            "Give it a rule, or build the model with memory:\n    --real"
        ),
    ),
    "folder_missing": (
        ["init", "net.py:sized", "-q", "-o", "no/x.safetensors"],
        "no/x.safetensors: the folder 'no' does not exist.\n\nMake it first:\n    mkdir -p no",
    ),
    "target_a_file": (
        ["init", "net.py:sized", "-q", "-o", "mine.toml"],
        "mine.toml: is a file.\n\nGive a file that ends in .safetensors, or a folder.",
    ),
    "shard_size": (
        ["init", "net.py:sized", "-q", "-o", "out", "--shard-size", "many"],
        "shard_size: must be a number of bytes above 0, such as '5GB', got 'many'.",
    ),
    "checkpoint_missing": (["check", "no.safetensors", "net.py:sized"], "no.safetensors: there is no such file."),
    "checkpoint_cut": (
        ["check", "cut.safetensors", "net.py:sized"],
        (
            "cut.safetensors: is not a sound safetensors file.\n\n"
            "    it has 5 bytes, and the header's length alone takes 8\n\n"
            "Write it anew, or fetch it again from where it was written."
        ),
    ),
    "checkpoint_hostile": (
        ["check", "hostile.safetensors", "net.py:sized"],
        (
            "hostile.safetensors: is not a sound safetensors file.\n\n"
            "    its header is said to take 18,446,744,073,709,551,615 bytes, and the file has 16\n\n"
            "Write it anew, or fetch it again from where it was written."
        ),
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_in_a_sentence(case, run, monkeypatch):
    monkeypatch.setattr(frameworks, "NAMES", dict.fromkeys(frameworks.NAMES, "not imported") | {"torch": "torch"})
    Path("broken.toml").write_text("[[rule]]\ninitializer = = 3\n")
    Path("unused.toml").write_text(sb.Recipe.of({"head": Zeros(), "*": Zeros()}).to_toml())
    Path("cut.safetensors").write_bytes(b"\0" * 5)
    Path("hostile.safetensors").write_bytes(b"\xff" * 8 + b"\0" * 8)
    before = sorted(p.name for p in Path().iterdir())
    words, sentence = WRONG[case]
    assert run(*words) == (2, "", f"Error: {sentence}\n")
    assert sorted(p.name for p in Path().iterdir() if p.name != "__pycache__") == before


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["plan"], "MODEL"),
        (["init", "net.py:sized"], "--out"),
        (["plan", "net.py:sized", "--sed", "3"], "--sed"),
        (["plan", "net.py:sized", "-s", "one"], "--seed"),
        (["init", "net.py:sized", "-o", "x", "--threads", "0"], "--threads"),
        (["show", "net.py:sized"], "show"),
    ],
)
def test_words_that_are_no_command_are_told_how_to_write_one(words, named, run):
    """The sentence is typer's, and changes with its version."""
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert err.startswith("Usage: seedbed ")
    assert named in err.split("Error: ")[1]


@pytest.mark.parametrize(
    ("content", "name", "last", "frames"),
    [
        ("import torch\nraise RuntimeError('my own')\n", "broken.py:net", "RuntimeError: my own", ["broken.py"]),
        ("def net(:\n", "broken.py:net", "SyntaxError: ", ["broken.py"]),
        ("import no_such_module\n", "broken.py:net", "ModuleNotFoundError: No module named 'no_such_module'", ["broken.py"]),
        ("import no_such_module\n", "broken:net", "ModuleNotFoundError: No module named 'no_such_module'", ["broken.py"]),
        ("import sys\nsys.exit('usage: broken')\n", "broken.py:net", "SystemExit: usage: broken", ["broken.py"]),
        (NET, "broken.py:fails", "IndexError: list index out of range", ["broken.py"]),
    ],
)  # fmt: skip
def test_the_users_own_failure_shows_the_users_own_frames(content, name, last, frames, run):
    Path("broken.py").write_text(content)
    code, out, err = run("plan", name)
    assert (code, out) == (2, "")
    shown, sentence = err.rsplit("\n\n", 1)
    where = name if name.endswith("fails") else name.partition(":")[0]
    hint = " It was built without memory; if it reads values while it is built, add --real."
    ending = hint if name.endswith("fails") else ""
    assert sentence == f"Error: {where}: its own code failed, as shown above.{ending}\n"
    assert shown.split("\n")[-1].startswith(last)
    assert [Path(f).name for f in re.findall(r'File "(.*?)"', shown)] == frames


def test_a_constructor_that_reads_values_needs_memory(run):
    code, _, err = run("plan", "net.py:reads_values")
    assert code == 2
    assert err.endswith("if it reads values while it is built, add --real.\n")
    assert run("plan", "net.py:reads_values", "--real")[0] == 0


# The disk and the user interrupt.


def files():
    return {p.relative_to(".").as_posix(): p.read_bytes() for p in sorted(Path("disk").rglob("*")) if p.is_file()}


@pytest.fixture
def small_disk():
    """A file system of one megabyte where this may be made; else a limit that no file may pass."""
    Path("disk").mkdir()
    mounted = (
        shutil.which("mount")
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", "disk"], capture_output=True, check=False
        ).returncode
    )
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    if not mounted:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limit[1]))
    yield "No space left on device" if mounted else "File too large"
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    if mounted:
        subprocess.run(["umount", "disk"], check=True)


@pytest.mark.parametrize("target", ["disk/out", "disk/x.safetensors"])
@pytest.mark.parametrize("shard_size", ["5GB", "500kB"])
@pytest.mark.parametrize("earlier", [False, True])
def test_a_full_disk_leaves_what_was_there(target, shard_size, earlier, small_disk, run):
    Path("large.py").write_text(
        "from torch import nn\ndef net(): return nn.Sequential(*(nn.Linear(300, 300) for _ in range(6)))\n"
    )
    if earlier:
        assert run("init", "net.py:sized", "-q", "-o", target)[0] == 0
    before = files()
    code, out, err = run("init", "large.py:net", "-q", "-o", target, "--shard-size", shard_size, "--replace")
    if small_disk == "File too large" and shard_size != "5GB":
        pytest.skip("only a real disk is full of small files")
    assert (code, out) == (2, "")
    whole = shard_size != "5GB" and not earlier
    left = (
        "2 files are whole and stay: make room there, and the same call goes on from them.\n"
        if whole
        else "Nothing was left behind; what stood there before still does. Make room there, or give another place.\n"
    )
    assert err == f"Error: {target}: cannot be written: {small_disk}.\n\n{left}"
    if whole:
        stem = "disk/out/model" if target == "disk/out" else "disk/x"
        assert sorted(files()) == [f"{stem}-0000{n}-of-00006.safetensors" for n in (1, 2)]
        return
    assert files() == before
    assert Path("disk/out").exists() == (earlier and target == "disk/out")


@pytest.mark.parametrize("target", ["disk/out", "disk/x.safetensors"])
@pytest.mark.parametrize("earlier", [False, True])
def test_ctrl_c_leaves_what_was_there(target, earlier, run):
    Path("disk").mkdir()
    Path("slow.py").write_text(
        "from torch import nn\n"
        "import os, time\n"
        "from seedbed.initializers import Custom\n"
        "def net(): return nn.Sequential(*(nn.Linear(1000, 1000) for _ in range(200)))\n"
        "def slowly(draw, spec):\n"
        "    os.write(1, b'filling\\n')\n"
        "    time.sleep(0.05)\n"
        "    return draw.normal()\n"
        "slow = Custom(slowly)\n"
    )
    if earlier:
        assert run("init", "net.py:sized", "-q", "-o", target)[0] == 0
    before = files()
    words = ["init", "slow.py:net", "-q", "-o", target, "-r", "slow.py:slow", "--threads", "2", "--replace"]
    code = "from seedbed.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            for _ in range(12):
                assert process.stdout.readline() == "filling\n"
            assert any(p.suffix in (".partial", ".replacing") for p in Path("disk").rglob("*")), "it is in the middle"
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert err == "Interrupted; nothing was left half written.\n"
    assert process.returncode == 130
    assert files() == before
    assert Path("disk/out").exists() == (earlier and target == "disk/out")


def test_a_function_that_imports_its_framework_itself_builds_without_memory_too(tmp_path):
    """Ten gigabytes, in a process that may not have them."""
    (tmp_path / "late.py").write_text(
        "import importlib.util\nPROBED = importlib.util.find_spec('mxnet'), importlib.util.find_spec('keras')\n"
        "def net():\n    from torch import nn\n    return nn.Linear(50_000, 50_000)\n"
    )
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (9 << 30, 9 << 30)); from seedbed.cli import app;"
        "app(['plan', 'late.py:net'], standalone_mode=False); print(sorted({'keras', 'flax'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "10.0 GB" in done.stdout
    assert done.stdout.endswith("[]\n")


def test_a_function_that_survives_what_stops_it_is_called_again(tmp_path):
    (tmp_path / "bare.py").write_text(
        "def net():\n    try:\n        from torch import nn\n    except:\n        return None\n    return nn.Linear(3, 2)\n"
    )
    code = "from seedbed.cli import app; app(['plan', 'bare.py:net'], standalone_mode=False)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "8 values" in done.stdout
