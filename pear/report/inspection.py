"""Pages to look at: trajectories with each token tinted by its weight, and problems with what a model answered."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import jinja2

import pear
from pear.errors import UserError
from pear.report.export import write_file
from pear.report.figures.svg import theme_css
from pear.report.sources.reading import OUTCOMES, check_digest, read_rows
from pear.runs import read_manifest
from pear.tasks.problems import ProblemSet, load_problems

Order = Literal["effective_sample_size", "clipped", "buffer"]
ORDERS: tuple[str, ...] = get_args(Order)
_CURVE_POINTS = 400
_FULL_TINT = 0.85


@dataclass(frozen=True, kw_only=True)
class Token:
    """One token as it is shown: `tint` from 0 (weight 1) to 1, `marks` the bounds that it hits."""

    text: str
    title: str
    side: Literal["up", "down"]
    tint: float
    marks: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """One trajectory as it is shown; `curve` is the path of log G in a box of 100 x 24."""

    problem_id: str
    task: str
    prompt: str
    tokens: list[Token]
    curve: str
    zero: float
    lowest: float
    highest: float
    mean_weight: float
    effective_sample_size: float
    clipped: float


def write_weight_page(run_dir: Path, *, order: str = "effective_sample_size", shown: int = 50) -> Path:
    """Writes RUN/inspection.html from what `pear inspect` measured.

    Args:
        run_dir: the directory of a finished `pear inspect`.
        order: "effective_sample_size" (lowest first), "clipped" (most first) or "buffer".
        shown: most trajectories on the page.

    Raises:
        UserError: no such run, or no such order.
    """
    if order not in ORDERS:
        raise UserError(f"sort: expected one of {', '.join(ORDERS)}. Got '{order}'.")
    manifest = read_manifest(run_dir)
    rows = read_rows(run_dir / "weights.parquet")
    if order == "effective_sample_size":
        rows.sort(key=lambda row: row["effective_sample_size"])
    elif order == "clipped":
        rows.sort(key=lambda row: -row["clipped"])
    bounds = {name: manifest["results"].get(name) for name in ("log_ratio_clip", "log_weight_clip")}
    page = (
        _environment()
        .get_template("weights.html.j2")
        .render(
            title=f"Weights of {manifest['config']['objective']}",
            trajectories=[_trajectory(row, bounds) for row in rows[:shown]],
            total=len(rows),
            estimate=manifest["results"].get("estimate"),
            order=order,
            config=manifest["config"],
            bounds=bounds,
            fingerprint=manifest["fingerprint"],
            **_theme(),
        )
    )
    path = run_dir / "inspection.html"
    write_file(path, page.encode())
    return path


def _trajectory(row: Mapping[str, Any], bounds: Mapping[str, Sequence[float] | None]) -> Trajectory:
    log_weights = [math.log(weight) if weight > 0 else -math.inf for weight in row["weights"]]
    finite = [value for value in log_weights if math.isfinite(value)]
    lowest, highest = min([*finite, 0.0]), max([*finite, 0.0])
    reach = max(abs(lowest), abs(highest), 1e-9)
    values = zip(row["tokens"], row["log_probs"], row["behavior_log_probs"], row["weights"], log_weights, strict=True)
    return Trajectory(
        problem_id=row["problem_id"],
        task=row["task"],
        prompt=row["prompt"],
        tokens=[_token(*value, reach=reach, bounds=bounds) for value in values],
        curve=_curve(log_weights, lowest, highest),
        zero=_height(0.0, lowest, highest),
        lowest=lowest,
        highest=highest,
        mean_weight=sum(row["weights"]) / len(row["weights"]),
        effective_sample_size=row["effective_sample_size"],
        clipped=row["clipped"],
    )


def _token(
    text: str,
    log_prob: float,
    behavior: float,
    weight: float,
    log_weight: float,
    *,
    reach: float,
    bounds: Mapping[str, Sequence[float] | None],
) -> Token:
    marks = []
    for name, value in (("log_ratio_clip", log_prob - behavior), ("log_weight_clip", log_weight)):
        clip = bounds[name]
        # A weight is stored after its clip, a ratio before.
        if clip is not None and not clip[0] + 1e-9 < value < clip[1] - 1e-9:
            marks.append("ratio" if name == "log_ratio_clip" else "weight")
    title = (
        f"log pi_theta {log_prob:.3f}\nlog pi_beta {behavior:.3f}\nlog ratio {log_prob - behavior:+.3f}"
        f"\nweight {weight:.4g} (log {log_weight:+.3f})"
    )
    if marks:
        title += "\nat a bound: " + " and ".join(f"log {mark}" for mark in marks)
    tint = _FULL_TINT * min(1.0, abs(log_weight) / reach)
    return Token(
        text=text, title=title, side="up" if log_weight > 0 else "down", tint=round(tint, 3), marks=tuple(marks)
    )


def _curve(values: Sequence[float], lowest: float, highest: float) -> str:
    step = max(1, len(values) // _CURVE_POINTS)
    kept = [(index, value) for index, value in enumerate(values) if index % step == 0 or index == len(values) - 1]
    last = max(1, len(values) - 1)
    return " ".join(
        f"{100 * index / last:.2f},{_height(max(value, lowest), lowest, highest):.2f}" for index, value in kept
    )


def _height(value: float, lowest: float, highest: float) -> float:
    return 23.0 - 22.0 * (value - lowest) / max(highest - lowest, 1e-9)


@dataclass(frozen=True, kw_only=True)
class AskedProblem:
    """One problem with its outcomes; `prompt` and `answer` are None where the problem cannot be made again."""

    id: str
    task: str
    level: str
    prompt: str | None
    answer: str | None
    right: int
    outcomes: list[Mapping[str, Any]]


def write_outcome_page(run_dir: Path, output_dir: Path, *, shown: int = 50) -> Path:
    """Writes OUTPUT/outcomes.html: the problems of a `pear evaluate` run, hardest first, with every completion.

    Args:
        run_dir: the directory of a finished `pear evaluate`.
        output_dir: where the page goes; made if needed.
        shown: most problems on the page.

    Raises:
        UserError: no such run, outcomes that are not what it wrote, or the directory cannot be written.
    """
    manifest = read_manifest(run_dir)
    asked: dict[str, list[Mapping[str, Any]]] = {}
    check_digest(run_dir / OUTCOMES, manifest)
    for row in read_rows(run_dir / OUTCOMES):
        asked.setdefault(row["problem_id"], []).append(row)
    known = _problems(manifest["config"]["problems"])
    problems = [
        AskedProblem(
            id=name,
            task=rows[0]["task"],
            level=rows[0]["level"],
            prompt=known[name].prompt[-1]["content"] if name in known else None,
            answer=known[name].answer if name in known else None,
            right=sum(row["correct"] for row in rows),
            outcomes=rows,
        )
        for name, rows in asked.items()
    ]
    problems.sort(key=lambda problem: problem.right / len(problem.outcomes))
    page = (
        _environment()
        .get_template("outcomes.html.j2")
        .render(
            title="Outcomes",
            problems=problems[:shown],
            total=len(problems),
            config=manifest["config"],
            results=manifest["results"],
            model=manifest["inputs"]["model"]["path"],
            fingerprint=manifest["fingerprint"],
            **_theme(),
        )
    )
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{output_dir}: cannot be written ({error.strerror}).") from None
    path = output_dir / "outcomes.html"
    write_file(path, page.encode())
    return path


def _problems(sets: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The problems by id; none where the file that they came from is gone."""
    try:
        found = load_problems([ProblemSet.parse(dict(values), source="problems") for values in sets])
    except UserError:
        return {}
    return {problem.id: problem for problem in found}


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("pear.report", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )


def _theme() -> dict[str, str]:
    return {"light_css": theme_css(dark=False), "dark_css": theme_css(dark=True), "pear_version": pear.__version__}
