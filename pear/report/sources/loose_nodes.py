"""The files of runs that were not one study as the nodes of one: what each run is for."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pear.report.sources.budgets import evaluation_settings
from pear.report.sources.loose_arms import Placed
from pear.report.sources.rows import Node, Unit, Use
from pear.report.sources.run_chains import Library, Origin, Record
from pear.runs import canonical_json, read_json

_RL_SPLIT = "rl"
_INPUTS = ("model", "norm_of", "buffer", "before", "after")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """An evaluation with the model that it is of; `rl_signal` are those on RL's own prompts."""

    record: Record
    origin: Origin
    settings: Mapping[str, Any]
    role: Literal["eval", "rl_signal"]


def evaluations_of(library: Library, roles: Mapping[str, frozenset[str]], probes: frozenset[str]) -> list[Evaluation]:
    """Every evaluation but those of a probe's models, which had less RL.

    Args:
        library: the runs.
        roles: fingerprint to the roles that a study's plan gives a run. Without a plan, evaluations on the problems of
            RL's split are the RL signal, where there are others.
        probes: fingerprints of a probe's runs.
    """
    found: list[tuple[Record, Origin]] = []
    for record in library.of_stage("evaluate"):
        origin = library.origin("model", record)
        if record.fingerprint not in probes and (origin.grpo is None or origin.grpo.fingerprint not in probes):
            found.append((record, origin))
    others = any(not _on_rl_prompts(record) for record, _ in found)
    evaluations = []
    for record, origin in found:
        planned = roles.get(record.fingerprint)
        signal = planned == {"rl_signal"} if planned else others and _on_rl_prompts(record)
        settings = evaluation_settings(record.manifest, read_json(record.directory / "metrics.json"))
        evaluations.append(
            Evaluation(record=record, origin=origin, settings=settings, role="rl_signal" if signal else "eval")
        )
    return evaluations


def _on_rl_prompts(record: Record) -> bool:
    problems = record.config.get("problems") or []
    return bool(problems) and all(item.get("split") == _RL_SPLIT for item in problems)


def one_each(evaluations: Sequence[Evaluation]) -> tuple[list[Evaluation], list[str]]:
    """One evaluation of each model and role, and notes on those that are left out.

    Where a model was evaluated in several ways, the way is taken that most evaluations have; then the lowest seed.
    """
    common = Counter(canonical_json([one.role, one.settings]) for one in evaluations)
    ranked = sorted(evaluations, key=lambda one: (-common[canonical_json([one.role, one.settings])], one.record.seed))
    taken: dict[tuple[str, Origin], Evaluation] = {}
    for one in ranked:
        taken.setdefault((one.role, one.origin), one)
    chosen, left_out = [], []
    for one in evaluations:
        best = taken[one.role, one.origin]
        if best is one:
            chosen.append(one)
        else:
            left_out.append(f"Left out: {one.record.directory}. {best.record.directory} evaluates the same model.")
    return chosen, left_out


def make_nodes(
    library: Library, placed: Sequence[Placed], evaluations: Sequence[Evaluation]
) -> tuple[tuple[Node, ...], list[str]]:
    """Every run as a node with its uses, unit by unit, and notes on what has no place in a comparison.

    Where runs of RL differ in their number of steps, the model that each ends in counts as after the largest number.
    """
    uses: dict[Record, list[Use]] = {}
    for record, use in _uses(library, placed, evaluations):
        uses.setdefault(record, []).append(use)
    nodes = [_node(library, record, found) for record, found in uses.items()]
    unplaced = [
        f"Left out: {record.directory}, which is about no model of these arms."
        for record in library.of_stage("analyze")
        if record not in uses
    ]
    return tuple(nodes), [*_relabeled(placed), *unplaced]


def _uses(
    library: Library, placed: Sequence[Placed], evaluations: Sequence[Evaluation]
) -> Iterator[tuple[Record, Use]]:
    ordered = sorted(placed, key=lambda item: item.unit)
    for record, role in _buffers(library, ordered):
        yield record, Use(arm=None, base=None, seed=None, role=role, rl_step=None)
    last = max((_steps(item) for item in placed), default=0)
    for item in ordered:
        for stage, run in (("sft", item.chain.sft), ("rescale", item.chain.rescaled), ("grpo", item.chain.grpo)):
            if run is not None:
                yield run, _use(item, stage, None)
    units = list(dict.fromkeys(item.unit for item in ordered))
    for one in evaluations:
        origin = one.origin
        for item in ordered:
            if _is_of(item, origin):
                step = origin.rl_step or 0
                final = origin.grpo is not None and step == _steps(item)
                yield one.record, _use(item, one.role, last if final else step)
        if origin.rl_step is None:
            bases = {item.unit.base for item in ordered if item.chain.base == origin.base}
            for unit in units:
                if unit.base in bases:
                    yield one.record, Use(arm=None, base=unit.base, seed=unit.seed, role=one.role, rl_step=None)
            if not bases:
                yield one.record, Use(arm=None, base=origin.base_path, seed=0, role=one.role, rl_step=None)
    yield from _analyses(library, ordered, last)


def _analyses(library: Library, placed: Sequence[Placed], last: int) -> Iterator[tuple[Record, Use]]:
    """An analysis belongs to the arm whose model it is about, where it compares it with what it started from."""
    for record in library.of_stage("analyze"):
        about = library.origin("after" if record.source("after") else "before", record)
        before = library.origin("before", record)
        for item in placed:
            if not _is_of(item, about) or about.rl_step is None:
                continue
            start = (item.chain.sft, item.chain.rescaled) if about.grpo is not None else (None, None)
            fits = before.grpo is None and (before.start == start or before == about)
            if fits:
                step = last if about.grpo is not None and about.rl_step == _steps(item) else about.rl_step
                yield record, _use(item, "analysis", step, str(record.config.get("analysis")))


def _is_of(item: Placed, origin: Origin) -> bool:
    """Whether a model is one of this chain's: its SFT checkpoint, or one of its RL. A base is nobody's."""
    if origin.rl_step is None:
        return False
    if origin.grpo is not None:
        return item.chain.grpo == origin.grpo
    return (item.chain.sft, item.chain.rescaled) == origin.start


def _buffers(library: Library, placed: Sequence[Placed]) -> Iterator[tuple[Record, str]]:
    """What SFT read, and what analyses read and no SFT did."""
    trained = [item.chain.sft for item in placed if item.chain.sft is not None]
    found: dict[Record, str] = {}
    for readers, role in ((trained, "collect"), (library.of_stage("analyze"), "calibration")):
        for reader in readers:
            source = reader.source("buffer")
            made = None if source is None else library.maker(source, reader)
            if made is not None:
                found.setdefault(made, role)
    yield from found.items()


def _steps(item: Placed) -> int:
    return 0 if item.chain.grpo is None else int(item.chain.grpo.config.get("steps") or 0)


def _relabeled(placed: Sequence[Placed]) -> list[str]:
    steps = {_steps(item): item.arm for item in placed if item.chain.grpo is not None}
    if len(steps) < 2:
        return []
    text = ", ".join(f"{count} in {arm}" for count, arm in sorted(steps.items()))
    return [
        f"RL had different numbers of steps ({text}, for instance): what stands under RL {max(steps)} is the last "
        "model of every arm."
    ]


def _use(item: Placed, role: str, rl_step: int | None, analysis: str | None = None) -> Use:
    return Use(arm=item.arm, base=item.unit.base, seed=item.unit.seed, role=role, rl_step=rl_step, analysis=analysis)


def _node(library: Library, record: Record, uses: Sequence[Use]) -> Node:
    made = [library.maker(source, record) for name in _INPUTS if (source := record.source(name)) is not None]
    first = uses[0]
    unit = None if first.base is None else Unit(base=first.base, seed=first.seed or 0).name
    parts = (record.stage, first.analysis, first.arm, unit)
    when = "" if first.rl_step is None or first.role == "rl_signal" else f", RL step {first.rl_step}"
    return Node(
        id=record.id,
        stage=record.stage,
        label=" ".join(part for part in parts if part) + when,
        directory=record.directory,
        depends=tuple(run.id for run in made if run is not None),
        uses=tuple(dict.fromkeys(uses)),
        status="complete",
        error=None,
        log=None,
        manifest=record.manifest,
    )
