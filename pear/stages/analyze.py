"""`pear analyze`: what training did to a model: its weights, its distribution, its gradients."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

from pear.analysis import load_analysis
from pear.analysis.request import Request
from pear.configuration import NotHashed, StrictModel
from pear.errors import UserError
from pear.models import Dtype, resolve_model
from pear.runs import Run, is_finished, note, open_run, partial_path, write_json

NAME = "analyze"
VERSION = 1
METRICS = "metrics.json"
_SECONDS_BETWEEN_NOTES = 10.0


class AnalyzeConfig(StrictModel):
    """Analyzes a trained model against the one it was trained from.

    Args:
        analysis: weight_drift: share of the weights left alone, shift of the singular values, norm of the update;
            divergence: KL(before || after) and NLL on calibration trajectories; token_weights: PEAR's weight of a
            token against how far training moved it; gradient_rotation: angles between offline and GRPO gradients of
            one model, with noise floors.
        before: the base model, or the one that training started from: a shipped model, a directory, or a hub id. For
            gradient_rotation the one whose gradients are compared.
        after: the trained model, likewise; not for gradient_rotation.
        buffer: calibration trajectories: a buffer directory; not for weight_drift.
        settings: the analysis' own settings, such as '{epsilon: 1e-5}' for weight_drift (docs/analyses.md).
        device: auto (the first CUDA device, or the CPU), cpu, cuda or cuda:N.
        dtype: of the models that are loaded; auto is float32 on a CPU and bfloat16 elsewhere. weight_drift loads none.
        output_dir: where metrics.json and the tables go.
    """

    analysis: Literal["weight_drift", "divergence", "token_weights", "gradient_rotation"]
    before: Annotated[str, NotHashed()]
    after: Annotated[str | None, NotHashed()] = None
    buffer: Annotated[str | None, NotHashed()] = None
    settings: dict[str, Any] = {}
    device: str = "auto"
    dtype: Dtype = "auto"
    output_dir: Annotated[Path, NotHashed()]


def run(config: AnalyzeConfig) -> Path:
    """Writes `metrics.json` and the analysis' tables. A killed run goes on where it was.

    Raises:
        UserError: an input that the analysis needs is missing, one that it does not need is given, an input cannot be
            used, or an unknown setting; before anything is written.
    """
    analysis = load_analysis(config.analysis)
    inputs = _inputs(config, analysis)
    request = _request(config, analysis, inputs)
    if not is_finished(config.output_dir):
        _check(config, analysis, request)
    inputs, parts = {**inputs, **problem_files(config)}, versions(config)
    with open_run(NAME, VERSION, config, config.output_dir, inputs=inputs, parts=parts) as run_dir:
        if run_dir.complete:
            note(f"{config.output_dir}: complete, nothing to do.")
            return run_dir.output_dir
        progress = _progress(config.analysis, run_dir)
        request = dataclasses.replace(request, work=run_dir.work, progress=progress)
        if "gradients" in analysis.REQUIRES:
            from pear.stages.gradients import collect_gradients

            gradients = collect_gradients(config, request.settings, run_dir.scratch, progress)
            request = dataclasses.replace(request, gradients=gradients)
        metrics = analysis.analyze(request)
        write_json(run_dir.work / METRICS, metrics)
        return run_dir.finish(metrics)


def versions(config: AnalyzeConfig) -> dict[str, int]:
    """The versions of all that decides the numbers, for a fingerprint."""
    analysis = load_analysis(config.analysis)
    parts: dict[str, int] = {f"analysis:{config.analysis}": analysis.VERSION}
    if "gradients" in analysis.REQUIRES:
        from pear.stages.gradients import gradient_parts

        parts.update(gradient_parts(config, _settings(config, analysis)))
    return parts


def problem_files(config: AnalyzeConfig) -> dict[str, Path]:
    """The files that the settings name, as inputs for a fingerprint."""
    analysis = load_analysis(config.analysis)
    if "gradients" not in analysis.REQUIRES:
        return {}
    from pear.stages.gradients import gradient_inputs

    return gradient_inputs(config, _settings(config, analysis))


def _settings(config: AnalyzeConfig, analysis: ModuleType) -> Any:
    return analysis.Settings.parse(config.settings, source=f"settings of {config.analysis}")


def _inputs(config: AnalyzeConfig, analysis: ModuleType) -> dict[str, str | Path]:
    """The inputs that the analysis takes, resolved; raises for one that is missing and one too many."""
    from pear.data.buffer import read_manifest

    inputs: dict[str, str | Path] = {"before": resolve_model(config.before)}
    for name, given in (("after", config.after), ("buffer", config.buffer)):
        if (name in analysis.REQUIRES) == (given is not None):
            continue
        if given is None:
            raise UserError(f"{config.analysis} needs `{name}`. Give --{name}.")
        raise UserError(f"{config.analysis} does not use `{name}` (given: {given}). Leave it out.")
    if config.after is not None:
        inputs["after"] = resolve_model(config.after)
        if _same(str(inputs["before"]), str(inputs["after"])):
            raise UserError(f"before and after are the same model ({config.after}). Give two models to compare.")
    if config.buffer is not None:
        read_manifest(config.buffer)
        inputs["buffer"] = config.buffer
    return inputs


def _same(before: str, after: str) -> bool:
    return before == after or (Path(before).is_dir() and Path(before).resolve() == Path(after).resolve())


def _request(config: AnalyzeConfig, analysis: ModuleType, inputs: dict[str, str | Path]) -> Request:
    from pear.engines.transformers_engine import resolve_device

    return Request(
        before=str(inputs["before"]),
        after=str(inputs["after"]) if "after" in inputs else None,
        buffer=config.buffer,
        settings=_settings(config, analysis),
        work=partial_path(config.output_dir.absolute()),
        progress=lambda done, total, unit: None,
        device=str(resolve_device(config.device)),
        dtype=config.dtype,
    )


def _check(config: AnalyzeConfig, analysis: ModuleType, request: Request) -> None:
    """What the analysis itself refuses, and what the trainers that it needs refuse."""
    if "gradients" in analysis.REQUIRES:
        from pear.stages.gradients import check_gradients

        check_gradients(config, request.settings)
    analysis.check(request)


def _progress(analysis: str, run_dir: Run) -> Callable[[int, int, str], None]:
    """Writes progress for whoever watches the directory, and now and then a line for whoever watches the terminal."""
    last = time.monotonic()

    def progress(done: int, total: int, unit: str) -> None:
        nonlocal last
        run_dir.progress(done, total, unit)
        if time.monotonic() - last >= _SECONDS_BETWEEN_NOTES:
            last = time.monotonic()
            note(f"{analysis}: {done} of {total} {unit}")

    return progress
