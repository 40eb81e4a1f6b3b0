"""The pilot runs of `pear analyze --analysis gradient_rotation`: a few steps of SFT, and of GRPO twice, from one model.

They train as `pear sft` and `pear grpo` do; their mean gradients are kept and the trained models are not.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pear.analysis.gradient_rotation import GRADIENTS, GRPO, GRPO_AGAIN, OFFLINE, Settings
from pear.errors import UserError
from pear.models import resolve_model
from pear.runs import Files, partial_path
from pear.stages import grpo, sft
from pear.stages.grpo import GrpoConfig
from pear.stages.sft import SftConfig
from pear.tasks.problems import task_files, task_versions

if TYPE_CHECKING:
    from pear.stages.analyze import AnalyzeConfig
    from pear.training.gradients import StepProgress

_PILOT = "pilot"
# What a GRPO pilot has of its own, whatever the RL that it stands for has.
_OWN = ("model", "steps", "seed", "checkpoint_steps", "save_every", "output_dir")
_NO_GRADIENT = {
    OFFLINE: "Take another objective, or other settings of it.",
    GRPO: "All completions of every group got the same reward: take easier problems or larger groups.",
}


def check_gradients(config: "AnalyzeConfig", settings: Settings) -> None:
    """Raises `UserError` for what `pear sft` and `pear grpo` would refuse; trains and writes nothing."""
    _offline_inputs(_offline_config(config, settings, config.output_dir))
    grpo.prepare(_grpo_config(config, settings, GRPO, config.output_dir), resolve_model(config.before))


def gradient_inputs(config: "AnalyzeConfig", settings: Settings) -> dict[str, Path]:
    """The files that the pilots' problems come from, for a fingerprint."""
    return task_files(_grpo_config(config, settings, GRPO, config.output_dir).problems)


def gradient_parts(config: "AnalyzeConfig", settings: Settings) -> dict[str, int]:
    """The versions of what the pilots are made with, for a fingerprint."""
    from pear.objectives import make_objective

    return {
        f"stage:{sft.NAME}": sft.VERSION,
        f"stage:{grpo.NAME}": grpo.VERSION,
        f"objective:{settings.objective}": make_objective(settings.objective, settings.objective_kwargs).version,
        **task_versions(_grpo_config(config, settings, GRPO, config.output_dir).problems),
    }


def collect_gradients(
    config: "AnalyzeConfig", settings: Settings, scratch: Path, progress: Callable[[int, int, str], None]
) -> dict[str, Path]:
    """Runs the pilots whose gradients are not there yet, or not whole.

    Returns:
        "offline", "grpo" and "grpo_again" to safetensors of mean gradients under `scratch`.

    Raises:
        UserError: as `check_gradients`, or a run that had no gradient.
    """
    from pear.training.gradients import StepProgress

    directory = scratch / GRADIENTS
    directory.mkdir(parents=True, exist_ok=True)
    files = Files(directory, scratch / f"{GRADIENTS}.json")
    names = {name: f"{name}.safetensors" for name in (OFFLINE, GRPO, GRPO_AGAIN)}
    for number, (name, file) in enumerate(names.items()):
        if not files.has(file):
            counted = StepProgress(progress, done=number * settings.steps, total=len(names) * settings.steps)
            with files.writing(file) as temporary:
                _collect(config, settings, name, temporary, counted)
    return {name: directory / file for name, file in names.items()}


def _collect(config: "AnalyzeConfig", settings: Settings, name: str, path: Path, counted: "StepProgress") -> None:
    from transformers import PrinterCallback

    from pear.training.gradients import MeanGradients

    pilot = path.parent / _PILOT
    trainer = (
        _offline_trainer(_offline_config(config, settings, pilot))
        if name == OFFLINE
        else _grpo_trainer(_grpo_config(config, settings, name, pilot))
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(counted)
    gradients = MeanGradients(trainer)
    trainer.train()
    assert gradients.steps == settings.steps, (gradients.steps, settings.steps)
    for leftover in (pilot, partial_path(pilot)):
        shutil.rmtree(leftover, ignore_errors=True)
    if gradients.is_zero:
        advice = _NO_GRADIENT[OFFLINE if name == OFFLINE else GRPO]
        raise UserError(f"{config.before}: {settings.steps} steps of {name} from it had no gradient. {advice}")
    gradients.save(path)


def _offline_config(config: "AnalyzeConfig", settings: Settings, output_dir: Path) -> SftConfig:
    assert config.buffer is not None
    return SftConfig(
        model=config.before,
        buffer=config.buffer,
        objective=settings.objective,
        objective_kwargs=settings.objective_kwargs,
        overflow=settings.overflow,
        seed=settings.seed,
        trainer={**settings.sft, "max_steps": settings.steps, "save_strategy": "no"},
        output_dir=output_dir,
    )


def _offline_inputs(config: SftConfig) -> tuple[Any, Any]:
    """The tokenizer and the checked trajectories."""
    from pear.objectives import make_objective

    objective = make_objective(config.objective, config.objective_kwargs)
    return sft.checked_inputs(config, resolve_model(config.model), objective)


def _offline_trainer(config: SftConfig) -> Any:
    from pear.training.sft_trainer import PearTrainer

    tokenizer, dataset = _offline_inputs(config)
    return PearTrainer(
        resolve_model(config.model),
        sft.training_arguments(config, config.output_dir),
        train_dataset=dataset,
        processing_class=tokenizer,
    )


def _grpo_config(config: "AnalyzeConfig", settings: Settings, name: str, output_dir: Path) -> GrpoConfig:
    values = {
        **{key: value for key, value in settings.rl.items() if key not in _OWN},
        "model": config.before,
        "steps": settings.steps,
        "seed": settings.seed + (name == GRPO_AGAIN),
        "output_dir": output_dir,
    }
    return GrpoConfig.parse(values, source="settings.rl")


def _grpo_trainer(config: GrpoConfig) -> Any:
    from pear.training.grpo import make_trainer, prompt_dataset, prompt_order

    prepared = grpo.prepare(config, resolve_model(config.model))
    order = prompt_order(len(prepared.problems), config.prompts_per_step, config.steps, config.seed)
    dataset = prompt_dataset(prepared.problems, order)
    return make_trainer(prepared.model, prepared.tokenizer, prepared.stop_ids, dataset, prepared.args, tags=config.tags)
