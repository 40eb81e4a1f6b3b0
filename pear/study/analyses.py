"""The `analyze` block of a study as nodes: the paper's analyses, and what RL would learn from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pear.analysis import ANALYSES, load_analysis
from pear.errors import UserError, unknown_name
from pear.runs import canonical_json
from pear.study.config import Analyze, Arm, StudyConfig, merged
from pear.study.graph import Use
from pear.study.nodes import Nodes, Problems, Source, Unit, derived_seed, external_buffer, external_model
from pear.tasks.problems import ProblemSet

BEHAVIOR = "behavior"
# Appendix A.1: 269 question-answer pairs, here of problems that nothing is trained on.
_CALIBRATION_PROBLEMS = 269
_CALIBRATION_SPLIT = "dev"
# What of `evaluate` holds on RL's prompts too; the sampling is RL's.
_EVALUATION_KEYS = ("seed", "shard_problems", "batch_tokens", "device", "dtype")


@dataclass(frozen=True, kw_only=True)
class Trained:
    """An arm on a unit: what SFT ended in, if there is one, the model that RL starts from, and RL's last.

    `start` is `sft`, that at another arm's update norm, or the base.
    """

    name: str
    arm: Arm | None
    unit: Unit
    sft: Source | None
    start: Source
    final: Source


@dataclass(frozen=True, kw_only=True)
class Offline:
    """What SFT reads, as far as the study knows it.

    Args:
        buffer: the trajectories.
        model: the behavior model, None where the buffer comes from elsewhere.
        sets: the problems that it was sampled on.
        trained_on: by block, the problems of SFT and of RL.
    """

    buffer: Source
    model: Source | None
    sets: Sequence[ProblemSet]
    trained_on: Mapping[str, Problems]


def plan_analyses(nodes: Nodes, config: StudyConfig, offline: Offline, runs: Sequence[Trained]) -> None:
    """Adds what `config.analyze` asks for: the calibration buffer, the analyses, the evaluations on RL's prompts.

    Args:
        nodes: the study's nodes; those of `runs` are among them.
        runs: every arm that goes through all of RL, on every unit.

    Raises:
        UserError: an unknown analysis, setting or key, or calibration problems that are trained on or that nothing
            reads.
    """
    analyze = config.analyze
    assert analyze is not None
    names = _names(analyze)
    offline_names = [name for name in names if any(run.arm is not None for run in runs)]
    buffer = None
    if any("buffer" in load_analysis(name).REQUIRES for name in offline_names):
        buffer = _calibration(nodes, config, analyze.calibration, offline)
    elif analyze.calibration:
        raise UserError("analyze.calibration: none of the analyses reads it. Leave it out.")
    for run in runs:
        for name in names:
            _add_analysis(nodes, config, name, run, buffer)
        if analyze.rl_signal_problems:
            _add_rl_signal(nodes, config, analyze.rl_signal_problems, run)


def _names(analyze: Analyze) -> list[str]:
    for name in [*analyze.analyses, *analyze.settings]:
        if name not in ANALYSES:
            block = "analyses" if name in analyze.analyses else "settings"
            raise UserError(f"analyze.{block}: {unknown_name('analysis', name, ANALYSES)}")
    for name in analyze.settings:
        if name not in analyze.analyses:
            raise UserError(f"analyze.settings.{name}: nothing reads this, since {name} is not in analyze.analyses.")
    return analyze.analyses


def _calibration(nodes: Nodes, config: StudyConfig, given: Mapping[str, Any], offline: Offline) -> Source:
    """The held-out trajectories: a buffer that is there, or the behavior model's."""
    block = "analyze.calibration"
    if "buffer" in given:
        if others := [key for key in given if key != "buffer"]:
            raise UserError(f"{block}.{others[0]}: nothing reads this beside `buffer`. Leave it out.")
        directory = Path(str(given["buffer"]))
        found, problems = external_buffer(directory), buffer_problems(directory)
    else:
        found = _collected(nodes, config, given, offline)
        problems = nodes.collected(block, nodes.config(found))
    trained_on = dict(offline.trained_on)
    if offline.model is None:
        trained_on["behavior.buffer"] = buffer_problems(Path(offline.buffer.path), correct_only=True)
    for other_block, trained in trained_on.items():
        problems.refuse_shared(block, trained, other_block)
    return found


def _collected(nodes: Nodes, config: StudyConfig, given: Mapping[str, Any], offline: Offline) -> Source:
    block = "analyze.calibration"
    model = offline.model
    if model is None:
        if "model" not in given or "problems" not in given:
            raise UserError(
                f"{block}: the study knows the buffer alone and not the model that made it. Give `buffer`, a directory "
                "with scored trajectories on other problems, or `model` and `problems`."
            )
        model = external_model(str(given["model"]))
    elif "model" in given:
        raise UserError(f"{block}.model: it is the behavior model. Leave it out.")
    own = {key: value for key, value in given.items() if key not in ("model", "samples")}
    sampling = own.get("sampling", {})
    if not isinstance(sampling, Mapping):
        raise UserError(f"{block}.sampling: expected a mapping of keys to values, got {sampling!r}.")
    if "samples" in sampling:
        raise UserError(f"{block}.sampling.samples: set {block}.samples instead.")
    inherited = {
        key: value for key, value in config.behavior.items() if key not in ("model", "problems", "size", "buffer")
    }
    problems = given["problems"] if "problems" in given else _held_out(nodes, offline.sets)
    ours = {"problems": problems, "sampling": {"samples": given.get("samples", 1)}, "model": model.path}
    values = merged(merged(inherited, own), ours)
    use = Use(arm=None, base=BEHAVIOR, seed=0, role="calibration")
    return nodes.add("collect", block, own, values, {"model": model}, "collect the calibration buffer", use)


def _held_out(nodes: Nodes, sets: Sequence[ProblemSet]) -> list[dict[str, Any]]:
    """The default problems: of each task and level in proportion to its part of SFT's."""
    if any(item.weight is not None for item in sets):
        raise UserError("analyze.calibration: SFT's problems are a mix by weight. Name the calibration's `problems`.")
    sizes: dict[str, int] = {}
    kinds: dict[str, dict[str, Any]] = {}
    for item in sets:
        kind = item.model_dump(mode="json", include={"task", "level", "path"}, exclude_none=True)
        name = canonical_json(kind)
        kinds[name] = kind
        sizes[name] = sizes.get(name, 0) + len(nodes.problems("tasks.sft", [item]).ids)
    parts = apportioned(list(sizes.values()), _CALIBRATION_PROBLEMS)
    found = [
        {**kinds[name], "split": _CALIBRATION_SPLIT, "size": part}
        for name, part in zip(sizes, parts, strict=True)
        if part
    ]
    nodes.problems("analyze.calibration.problems (by default)", [ProblemSet.model_validate(item) for item in found])
    return found


def _add_analysis(nodes: Nodes, config: StudyConfig, name: str, run: Trained, buffer: Source | None) -> None:
    """Adds an analysis of what SFT did, and for drift also of what RL did (Figure 8)."""
    drift = name == "weight_drift"
    if run.arm is not None:
        before, after = (run.unit.model, run.start) if name != "gradient_rotation" else (run.start, None)
        _add_one(nodes, config, name, run, 0, {"before": before, "after": after, "buffer": None if drift else buffer})
    if drift:
        steps = nodes.config(run.final).steps
        _add_one(nodes, config, name, run, steps, {"before": run.start, "after": run.final, "buffer": None})


def _add_one(
    nodes: Nodes, config: StudyConfig, name: str, run: Trained, rl_step: int, inputs: Mapping[str, Source | None]
) -> None:
    assert config.analyze is not None
    block = f"analyze.settings.{name}"
    given = config.analyze.settings.get(name, {})
    own = _gradient_settings(nodes, run) if name == "gradient_rotation" else {}
    if both := sorted(own.keys() & given.keys()):
        raise UserError(f"{block}.{both[0]}: is set by the study; leave it out.")
    settings = {**own, **given}
    load_analysis(name).Settings.parse(settings, source=block)
    found = {key: source for key, source in inputs.items() if source is not None}
    values = {**{key: source.path for key, source in found.items()}, "analysis": name, "settings": settings}
    of = f"{run.name} {run.unit.label}" + (f", RL to step {rl_step}" if rl_step else "")
    use = run.unit.use(run.name, "analysis", rl_step, name)
    nodes.add("analyze", block, {}, values, found, f"analyze {name} of {of}", use)


def _gradient_settings(nodes: Nodes, run: Trained) -> dict[str, Any]:
    """The arm's own SFT and the study's RL, whose gradients are compared."""
    assert run.sft is not None
    sft, rl = nodes.config(run.sft), nodes.config(run.final)
    # The pilots set these themselves: a longer RL does not change what its first steps push at.
    fields = {key: value for key, value in rl.hashed().items() if key not in ("steps", "checkpoint_steps", "seed")}
    return {
        "rl": {**fields, "problems": [item.model_dump(mode="json", exclude_unset=True) for item in rl.problems]},
        "objective": sft.objective,
        "objective_kwargs": sft.objective_kwargs,
        "sft": sft.hashed()["trainer"],
        "overflow": sft.overflow,
        "seed": derived_seed(run.unit.seed, "analyze"),
    }


def _add_rl_signal(nodes: Nodes, config: StudyConfig, count: int, run: Trained) -> None:
    """Adds an evaluation of RL's start on RL's first problems, sampled as RL samples."""
    rl = nodes.config(run.final)
    values = {
        **{key: value for key, value in config.evaluate.items() if key in _EVALUATION_KEYS},
        "model": run.start.path,
        "problems": _first(nodes, config.tasks.rl, count),
        "samples": rl.group_size,
        "k": [1],
        "temperature": rl.temperature,
        "top_p": rl.trainer.get("top_p", 1.0),
        "top_k": rl.trainer.get("top_k") or 0,
        "max_tokens": rl.max_completion_tokens,
    }
    label = f"evaluate {run.name} {run.unit.label} on RL's prompts"
    use = run.unit.use(run.name, "rl_signal", 0)
    nodes.add("evaluate", "analyze.rl_signal_problems", {}, values, {"model": run.start}, label, use)


def _first(nodes: Nodes, sets: Sequence[ProblemSet], count: int) -> list[dict[str, Any]]:
    """The first problems of every set, in proportion to their sizes, `count` together; all where there are fewer."""
    sizes = [len(nodes.problems("tasks.rl", [item]).ids) for item in sets]
    parts = apportioned(sizes, min(count, sum(sizes)))
    return [
        {**item.model_dump(mode="json", exclude_unset=True), "size": part}
        for item, part in zip(sets, parts, strict=True)
        if part
    ]


def apportioned(sizes: Sequence[int], total: int) -> list[int]:
    """`total` in whole parts in proportion to `sizes`, by the largest remainders; of equal ones the first.

    >>> apportioned([3, 1], 10), apportioned([1, 1, 1], 4), apportioned([1, 1000], 9)
    ([8, 2], [2, 1, 1], [0, 9])
    """
    whole = sum(sizes)
    parts = [total * size // whole for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda place: -(total * sizes[place] % whole))
    for place in by_remainder[: total - sum(parts)]:
        parts[place] += 1
    return parts


def buffer_problems(directory: Path, *, correct_only: bool = False) -> Problems:
    """The problems of a buffer, by prompt. Raises `UserError` where the directory is no buffer."""
    import pyarrow.parquet

    from pear.data.buffer import read_manifest

    ids = {}
    for record in read_manifest(directory).shards:
        path = directory / record.name
        if not path.is_file():
            raise UserError(f"{path}: missing; the buffer's manifest names it. Copy the whole directory.")
        table = pyarrow.parquet.read_table(path, columns=["prompt", "problem_id", "correct"])
        for row in table.to_pylist():
            if row["prompt"] is not None and (row["correct"] or not correct_only):
                ids[canonical_json(row["prompt"])] = str(row["problem_id"])
    return Problems(digest="", ids=ids)
