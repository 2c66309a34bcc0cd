"""The command line: seedbed plan | init | check | recipes, in the words of the API."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import seedbed
from seedbed import engine, recipes
from seedbed.cli import loading
from seedbed.errors import InputError, PlanError, SeedbedError, columns, shown
from seedbed.frameworks import framework_of
from seedbed.mesh import mesh_of, placements_of
from seedbed.plan import Plan
from seedbed.spec import Input
from seedbed.table import size, table
from seedbed.verbs.asked import process_told


class _Commands(TyperGroup):
    """Ends every error of seedbed's in its sentence and exit code 2, and Ctrl-C in exit code 130."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except SeedbedError as error:
            typer.echo(f"Error: {error}", err=True)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            typer.echo("Interrupted; nothing was left half written.", err=True)
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=_Commands,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="How a model's parameters start: see it, make it, check it.",
)

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="FILE.py:NAME or package.module:NAME; a model, or a function or class that makes one."
    ),
]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        "-i",
        metavar="[NAME=]SHAPE[:DTYPE]",
        help="An input, such as 1x28x28, 1x128:int64, mask=1x128:bool; ? for a size that varies. Repeats.",
    ),
]
RecipeName = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        "-r",
        metavar="RECIPE",
        help="A name (see `seedbed recipes`), an initializer's name for all, a .toml or .json file, or FILE.py:NAME. "
        "Without it, as the framework starts.",
    ),
]
Seed = Annotated[int, typer.Option("--seed", "-s", help="From 0 to 2**64 - 1.")]
StreamNames = Annotated[
    str | None,
    typer.Option(
        "--streams",
        metavar="position",
        help="Key the numbers by the places of layers, and not by paths; or by a mapping of paths to names, FILE.py:NAME.",
    ),
]
PartsName = Annotated[
    str | None,
    typer.Option(
        "--parts",
        metavar="FILE.py:NAME",
        help="The logical parameters that arrays hold, such as packed q, k and v: a mapping of patterns to seedbed.Parts.",
    ),
]
Real = Annotated[
    bool, typer.Option("--real", help="Build the model with memory, so that values its constructor computes are there.")
]
Base = Annotated[
    Path | None,
    typer.Option(
        "--base",
        "-b",
        metavar="CHECKPOINT",
        help="Start what it holds from there: a .safetensors file, an index, or a folder.",
    ),
]
Leave = Annotated[
    list[str] | None,
    typer.Option(
        "--leave", metavar="PATTERN", help="Names in the base that are not for this model, such as 'head.*'. Repeats."
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No table, no bar.")]


@app.callback(invoke_without_command=True)
def options(
    version: Annotated[bool, typer.Option("--version", help="Show the version and the engine.")] = False,
) -> None:
    """How a model's parameters start: see it, make it, check it."""
    if version:
        name = engine.chosen()
        typer.echo(f"seedbed {seedbed.__version__} (engine: {name if name == 'numpy' else f'c, {name}'})")
        raise typer.Exit


@app.command("plan")
def plan_command(
    model: Model,
    inputs: Inputs = None,
    recipe: RecipeName = None,
    seed: Seed = 0,
    streams: StreamNames = None,
    parts: PartsName = None,
    real: Real = False,
    base: Base = None,
    leave: Leave = None,
    full: Annotated[bool, typer.Option("--full", help="Every parameter in a row of its own.")] = False,
    json: Annotated[bool, typer.Option("--json", help="The plan as JSON.")] = False,
    mesh: Annotated[
        str | None,
        typer.Option(metavar="AXIS=SIZE,...", help="What each device of such a mesh will hold, such as dp=8,tp=2."),
    ] = None,
    placements: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN=AXIS:N,...",
            help="Which axes of a parameter the mesh cuts, such as '*.up.weight=tp:0,dp:0'; the first match wins. Repeats.",
        ),
    ] = None,
) -> None:
    """Show how every parameter will start; nothing is computed."""
    if placements and not mesh:
        raise InputError(
            "--placements: there is no mesh to place anything on.", remedy="Say which:\n    --mesh dp=8,tp=2"
        )
    if mesh and json:
        raise InputError(
            "--json: the plan as JSON knows of no mesh.", remedy="Ask for one of the two: --mesh or --json"
        )
    _, made = _planned(model, inputs, recipe, seed, streams, parts, real, base, leave)
    if json:
        typer.echo(made.to_json())
        return
    if mesh:
        division = seedbed.divide(made, mesh_of(mesh), placements_of(placements) if placements else None)
        typer.echo(division.table(fold=False if full else None))
        typer.echo(division.devices_table())
        typer.echo(division.summary)
        return
    typer.echo(made.table(fold=False if full else None))
    typer.echo(made.summary)
    lost = [e.spec.path for e in made if e.spec.reached is False and e.spec.kind == "parameter"]
    if lost:
        typer.echo(f"Not reached by the input: {', '.join(shown(lost))}", err=True)


@app.command("init")
def init_command(
    model: Model,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="PATH",
            help="A file that ends in .safetensors, or a folder; files of the same start that are whole there stay.",
        ),
    ],
    inputs: Inputs = None,
    recipe: RecipeName = None,
    seed: Seed = 0,
    streams: StreamNames = None,
    parts: PartsName = None,
    real: Real = False,
    base: Base = None,
    leave: Leave = None,
    shard_size: Annotated[str, typer.Option(help="The most bytes in one file.")] = "5GB",
    process: Annotated[
        str | None,
        typer.Option(
            metavar="R/N",
            help="Write the files of process R, from 0, of N; as RANK and WORLD_SIZE say, which torchrun sets.",
        ),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Let it take the place of another model, all at once.")
    ] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="How many; all processors by default.")] = None,
    quiet: Quiet = False,
) -> None:
    """Write the started parameters as a safetensors checkpoint."""
    rank, of = process_told(process)
    built, made = _planned(model, inputs, recipe, seed, streams, parts, real, base, leave)
    made.require_known()
    kept = [e.spec.path for e in made if e.kept and e.spec.persistent]
    if kept and not real:
        raise PlanError(
            f"{kept[0]}: the plan keeps its values, and it has none: the model was built without memory.",
            facts=shown(columns([(e.spec.path, e.spec.origin) for e in made if e.spec.path in kept])),
            remedy="Give it a rule, or build the model with memory:\n    --real",
            paths=tuple(kept),
        )
    if not quiet and rank == 0:
        typer.echo(made.summary)
    bar = False if quiet or rank else sys.stderr.isatty() or None
    before = _inodes(out)
    files = seedbed.write(
        made,
        out,
        shard_size=shard_size,
        process=(rank, of),
        replace=replace,
        model=built if kept else None,
        threads=threads,
        progress=bar,
    )
    who = f"process {rank} of {of}: " if of > 1 else ""
    for file in files:
        there = file.stat()
        did = "found" if before.get(file.name) == there.st_ino else "wrote"
        typer.echo(f"{who}{did} {file} ({size(there.st_size)})")


def _inodes(out: Path) -> dict[str, int]:
    """What stands there, to tell later what was written."""
    folder = out.parent if out.suffix == ".safetensors" else out
    return {f.name: f.stat().st_ino for f in folder.glob("*.safetensors*") if f.is_file()}


@app.command("check")
def check_command(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="A .safetensors file, an index, or a folder.")
    ],
    model: Model,
    inputs: Inputs = None,
    recipe: RecipeName = None,
    seed: Seed = 0,
    streams: StreamNames = None,
    parts: PartsName = None,
    real: Real = False,
    base: Base = None,
    leave: Leave = None,
    fingerprint: Annotated[
        bool, typer.Option("--fingerprint", help="Show that of the values too, which is the same for every layout.")
    ] = False,
) -> None:
    """Compare a checkpoint with its plan, bit for bit; exit code 1 when it differs."""
    _, made = _planned(model, inputs, recipe, seed, streams, parts, real, base, leave)
    findings = seedbed.check(checkpoint, made, progress=sys.stderr.isatty() or None)
    typer.echo(str(findings))
    if fingerprint:
        typer.echo(f"fingerprint of the values: {seedbed.fingerprint(made, checkpoint)}")
    if not findings:
        raise typer.Exit(1)


@app.command("recipes")
def recipes_command() -> None:
    """List the recipes that have a name."""
    rows = [[name, f"{make.__module__}", _first_line(make)] for name, make in recipes.NAMED.items()]
    typer.echo(table(["recipe", "module", "source"], rows))


def _first_line(make: Callable[..., Any]) -> str:
    module = sys.modules[make.__module__]
    own = make.__doc__ if len([m for m in recipes.NAMED.values() if m.__module__ == make.__module__]) > 1 else None
    return (own or module.__doc__ or "").strip().split("\n")[0]


def _planned(
    model: str,
    inputs: list[str] | None,
    recipe: str | None,
    seed: int,
    streams: str | None,
    parts: str | None,
    real: bool,
    base: Path | None = None,
    leave: list[str] | None = None,
) -> tuple[Any, Plan]:
    positional, named = _inputs(inputs or [])
    with redirect_stdout(sys.stderr):  # what the user's own code prints is no part of a table or of JSON
        built = loading.model_of(model, real)
        chosen, names, held = _chosen(recipe), _chosen(streams), loading.named(parts) if parts else None
    specs = framework_of(built).trace(built, positional, named)  # by hand: an input may be called `seed` or `model`
    made = seedbed.plan(specs, recipe=chosen, seed=seed, streams=names, parts=held, checkpoint=base, leave=leave or ())
    return built, made


def _chosen(text: str | None) -> Any:
    """What an option says: something in a file of Python's, or the text itself."""
    return loading.named(text) if text and ":" in text and text.rpartition(":")[0].endswith(".py") else text


def _inputs(texts: list[str]) -> tuple[list[Input], dict[str, Any]]:
    positional, named = [], {}
    for text in texts:
        match = re.fullmatch(r"(?:(\w+)=)?((?:\d+|\?)(?:x(?:\d+|\?))*|scalar)(?::(\w+))?", text, re.ASCII)
        if not match:
            raise InputError(
                f"--input {text!r}: is not an input.",
                remedy="Write sizes with x between them, ? for one that varies, then the dtype if it is not the model's:\n"
                "    --input BATCHxCHANNELSx?x?  --input BATCHxLENGTH:int64  --input NAME=BATCHxLENGTH:bool",
            )
        sizes = [] if match[2] == "scalar" else [None if n == "?" else int(n) for n in match[2].split("x")]
        made = Input(tuple(sizes), match[3])
        if match[1] in named:
            raise InputError(f"--input {text!r}: {match[1]} is given twice.", remedy="Give each input once.")
        if match[1]:
            named[match[1]] = made
        else:
            positional.append(made)
    return positional, named


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a sign still shows the rest
    app(prog_name="seedbed")
