"""Runs that were not one study, brought together as one.

Which base, SFT and RL a model comes from stands in the manifests. Runs are compared that had the same RL and were
evaluated in the same way; where they were not, that is an error, or, if it is allowed, a note on the page.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pear.errors import UserError, unknown_name
from pear.report.sources.budgets import differences, rl_budget
from pear.report.sources.loose_arms import DIRECT, Placed, chains_of, place
from pear.report.sources.loose_nodes import Evaluation, evaluations_of, make_nodes, one_each
from pear.report.sources.loose_notes import confound_notes
from pear.report.sources.rows import Study, read_study
from pear.report.sources.run_chains import Library
from pear.runs import MANIFEST, canonical_json, sha256

_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class _Given:
    """The runs that were named; of studies, their finished runs with roles by fingerprint, and the studies' seeds."""

    directories: list[Path]
    name: str
    roles: Mapping[str, frozenset[str]]
    seeds: Mapping[tuple[str, int], int]


def gather(runs: Sequence[Path], output_dir: Path, *, allow_different: bool, reference: str | None) -> Study:
    """Brings runs together as a study whose report goes to `output_dir`. Writes nothing.

    Args:
        runs: directories of finished runs, or of studies, whose finished runs are taken.
        output_dir: where the report goes.
        allow_different: compare runs of different RL or evaluations too; `comparison_notes` then say what differs.
        reference: the arm that the others are compared with; by default one of plain SFT, or else the first.

    Raises:
        UserError: a directory that holds no finished run, a run whose inputs are gone, runs that differ in their RL or
            in their evaluation, two runs in the place of one, or an unknown reference.
    """
    given = _given(runs)
    library = Library(given.directories)
    probes = frozenset(name for name, roles in given.roles.items() if roles == {"probe"})
    chains = chains_of(library, probes)
    everything = evaluations_of(library, given.roles, probes)
    evaluations, left_out = one_each(everything)
    budgets = [(str(run.directory), rl_budget(run.manifest)) for run in (chain.grpo for chain in chains) if run]
    if not allow_different:
        _refuse(differences(budgets), "the RL that they had")
        _refuse(differences(_settings(everything)), "how they were evaluated")
    settings = _settings(evaluations)
    placed = place(library, chains, given.seeds)
    arms = list(dict.fromkeys(item.arm for item in placed))
    nodes, unplaced = make_nodes(library, placed, evaluations)
    return Study(
        directory=output_dir.absolute(),
        name=given.name,
        config=_config(runs, placed, budgets, settings),
        digests={**_digests("rl", budgets), **_digests("evaluation", settings)},
        nodes=nodes,
        reference=_reference(placed, arms, reference),
        comparison=True,
        comparison_notes=(
            *_note(differences(budgets), "the RL that they had"),
            *_note(differences(settings), "how they were evaluated"),
            *confound_notes(placed, nodes),
            *left_out,
            *unplaced,
        ),
    )


def _given(runs: Sequence[Path]) -> _Given:
    directories: list[Path] = []
    names: list[str] = []
    roles: dict[str, frozenset[str]] = {}
    seeds: dict[tuple[str, int], int] = {}
    for path in runs:
        if (path / "plan.json").is_file():
            study = read_study(path)
            names.append(study.name)
            for node in study.nodes:
                if node.manifest is None:
                    continue
                directories.append(node.directory)
                roles[str(node.manifest.get("fingerprint"))] = frozenset(use.role for use in node.uses)
                made_with = (node.manifest.get("config") or {}).get("seed")
                planned = {use.seed for use in node.uses if use.seed is not None}
                if node.stage in ("sft", "grpo") and made_with is not None and len(planned) == 1:
                    seeds[node.stage, int(made_with)] = planned.pop()
        elif (path / MANIFEST).is_file():
            directories.append(path)
        else:
            raise UserError(
                f"{path}: neither a finished run (no {MANIFEST} in it) nor a study (no plan.json). Give directories "
                "that pear sft, grpo, evaluate, analyze or study wrote."
            )
    name = " and ".join(names) if len(names) == len(runs) else f"{len(directories)} runs"
    return _Given(directories=directories, name=name, roles=roles, seeds=seeds)


def _settings(evaluations: Sequence[Evaluation]) -> list[tuple[str, Mapping[str, Any]]]:
    return [(str(one.record.directory), one.settings) for one in evaluations if one.role == "eval"]


def _refuse(found: Sequence[str], what: str) -> None:
    if found:
        raise UserError(
            f"These runs differ in {what}: {_shown(found)}. Leave some of them out, or give --allow-different to "
            "compare them all the same; the page then says so."
        )


def _note(found: Sequence[str], what: str) -> list[str]:
    if not found:
        return []
    return [f"The runs differ in {what}: {_shown(found)}. A difference between arms may come from that alone."]


def _shown(found: Sequence[str]) -> str:
    more = f"; and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return "; ".join(found[:_NAMED]) + more


def _config(
    runs: Sequence[Path],
    placed: Sequence[Placed],
    budgets: Sequence[tuple[str, Mapping[str, Any]]],
    settings: Sequence[tuple[str, Mapping[str, Any]]],
) -> dict[str, Any]:
    """What the page shows as configuration: the arms, and what all runs have in common."""
    arms = {item.arm: None if item.chain.sft is None else _arm(item) for item in placed}
    config: dict[str, Any] = {"runs": [str(path) for path in runs], "arms": arms}
    for name, found in (("rl", budgets), ("evaluate", settings)):
        if len({canonical_json(values) for _, values in found}) == 1:
            config[name] = dict(found[0][1])
    return config


def _arm(item: Placed) -> dict[str, Any]:
    sft = item.chain.sft
    assert sft is not None
    keys = ("objective", "objective_kwargs", "overflow", "trainer")
    matched = {} if item.matched is None else {"match_update_norm": item.matched}
    return {**{key: sft.config[key] for key in keys if key in sft.config}, **matched}


def _digests(name: str, found: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, str]:
    values = list(dict.fromkeys(sha256(canonical_json(settings)) for _, settings in found))
    if len(values) == 1:
        return {name: values[0]}
    return {f"{name}, {place} of {len(values)}": value for place, value in enumerate(values, start=1)}


def _reference(placed: Sequence[Placed], arms: Sequence[str], wanted: str | None) -> str:
    if wanted is not None:
        if wanted not in arms:
            raise UserError(f"--reference: {unknown_name('arm', wanted, arms)}")
        return wanted
    as_trained = [item for item in placed if item.chain.rescaled is None]
    plain = [item.arm for item in as_trained if item.chain.sft and item.chain.sft.config.get("objective") == "nll"]
    trained = [arm for arm in arms if arm != DIRECT]
    return next(iter([*plain, *trained, *arms]), "nll")
