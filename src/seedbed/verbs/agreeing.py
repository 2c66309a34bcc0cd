"""Processes that hold one model together, before they start it: they are to have one plan, one mesh, one seed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from seedbed import table
from seedbed.errors import PlanError, SeedbedError, columns, shown
from seedbed.frameworks import Framework, Ranks
from seedbed.plan import Entry, Plan

REMEDY = "Make the model, its layout and the plan on every rank from the same code, with the same seed."


def agree(framework: Framework, plan: Plan, model: Any, *, replace: bool, collective: bool) -> None:
    """Raise unless all ranks that hold a model are about to start it alike.

    Args:
        framework: The model's.
        plan: What this rank is about to do.
        model: The model; where this process holds all of it there is nothing to ask.
        replace: Whether values that stand beside parameters without any are to be replaced.
        collective: Whether to ask the others: some bytes each, and where they differ some more.

    Raises:
        ModelError: This rank cannot start its part.
        PlanError: They differ in their mesh, their seed or in what some parameter is to be; or some
            parameters have values already, others none, and `replace` is not said.
    """
    ranks = framework.ranks(model)
    if ranks is None:
        return
    problem = ranks.failed or (None if replace else _real(plan, ranks))
    if collective:
        _compare(plan, ranks, problem)
    if problem is not None:
        raise problem


def one_by_one(ranks: Ranks | None, act: Callable[[], str]) -> Mapping[int, str]:
    """What all ranks say at the end of something; where one of them fails, all do.

    Raises:
        SeedbedError: It failed here.
        PlanError: It failed on another rank.
    """
    if ranks is None:
        return {0: act()}
    try:
        mine = act()
    except SeedbedError as error:
        ranks.gather(f"!{error.sentence}")
        raise
    said = ranks.gather(f"={mine}")
    failed = {rank: text[1:] for rank, text in said.items() if text.startswith("!")}
    if failed:
        raise _elsewhere(failed)
    return {rank: text[1:] for rank, text in said.items()}


def _elsewhere(failed: Mapping[int, str]) -> PlanError:
    return PlanError(
        f"Rank {min(failed)} cannot do its part, so no rank does.",
        facts=_told(failed),
        remedy="See what that rank says itself.",
    )


def _real(plan: Plan, ranks: Ranks) -> PlanError | None:
    real = [e.spec.path for e in plan if not e.kept and any(p in ranks.real for p in e.spec.paths)]
    if not real:
        return None
    return PlanError(
        f"{real[0]}: has values already, where other parameters have none; they would be replaced."
        if len(real) == 1
        else f"{len(real)} parameters have values already, where others have none; they would be replaced.",
        facts=shown(real),
        remedy="Keep them with a rule, Rule(path, Keep(values=True)), or say that they go:\n    replace=True",
        paths=tuple(real),
    )


def _compare(plan: Plan, ranks: Ranks, problem: SeedbedError | None) -> None:
    layouts = sorted(ranks.layouts.items())
    digest = hashlib.blake2b(json.dumps([plan.fingerprint(), layouts]).encode(), digest_size=16).hexdigest()
    mine = [problem.sentence if problem else "", ranks.mesh, ranks.place, plan.seed, digest]
    said = {rank: json.loads(text) for rank, text in ranks.gather(json.dumps(mine)).items()}
    failed = {rank: sentence for rank, (sentence, *_) in said.items() if sentence}
    if failed:
        raise problem or _elsewhere(failed)
    meshes = {rank: f"{mesh}, at {tuple(place)}" for rank, (_, mesh, place, *_) in said.items()}
    twice = len(said) == ranks.size and len(set(meshes.values())) < ranks.size
    if twice or len({mesh for _, mesh, *_ in said.values()}) > 1:
        raise PlanError("The ranks disagree on the mesh.", facts=_told(meshes), remedy=REMEDY)
    seeds = {rank: str(seed) for rank, (*_, seed, _) in said.items()}
    if len(set(seeds.values())) > 1:
        raise PlanError("seed: the ranks have different ones.", facts=_told(seeds), remedy=REMEDY)
    if len({digest for *_, digest in said.values()}) > 1:
        _compare_paths(plan, ranks)


def _compare_paths(plan: Plan, ranks: Ranks) -> None:
    """Ranks may hold different parts of a model, as the stages of a pipeline are; what two of them hold is to be one."""
    words = {e.spec.path: _words(e, ranks) for e in plan}
    alone = {e.spec.path: Plan((e,), plan.seed).fingerprint() for e in plan}
    digests = {p: hashlib.blake2b((text + alone[p]).encode(), digest_size=8).hexdigest() for p, text in words.items()}
    theirs: dict[str, set[str]] = {}
    for text in ranks.gather(json.dumps(digests)).values():
        for path, digest in json.loads(text).items():
            theirs.setdefault(path, set()).add(digest)
    differing = [path for path, found in theirs.items() if len(found) > 1]
    if not differing:
        return
    first = differing[0]
    rows = {rank: json.loads(text) for rank, text in ranks.gather(json.dumps(words.get(first, ""))).items()}
    raise PlanError(
        f"{first}: the ranks are about to start it differently."
        if len(differing) == 1
        else f"The ranks are about to start {len(differing)} parameters differently, the first of them {first}.",
        facts=_told({rank: text for rank, text in rows.items() if text}),
        remedy=REMEDY,
        paths=tuple(differing),
    )


def _words(entry: Entry, ranks: Ranks) -> str:
    spec = entry.spec
    layout = next((ranks.layouts[p] for p in spec.paths if p in ranks.layouts), "not sharded")
    parts = [
        f"{spec.dtype}{spec.shown_shape}",
        repr(entry.start) if entry.start is not None else entry.shown_start,
        f"stream {entry.stream}",
        layout,
    ]
    return ", ".join([*parts, *(f"also {path}" for path in spec.paths[1:])])


def _told(said: Mapping[int, str]) -> list[str]:
    """What ranks said, those that said the same together."""
    groups: dict[str, list[int]] = {}
    for rank, text in said.items():
        groups.setdefault(text, []).append(rank)
    return shown(columns([(f"rank{'s' * (len(who) > 1)} {table.numbers(who)}", text) for text, who in groups.items()]))
