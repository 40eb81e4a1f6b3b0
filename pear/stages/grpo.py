"""`pear grpo`: RL with the tasks' verifiers as reward, the same for every model that is given to it."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, field_validator

from pear.configuration import NotHashed, StrictModel
from pear.errors import UserError
from pear.models import check_model, resolve_model
from pear.runs import SCRATCH, Run, is_finished, is_main_process, note, open_run, partial_path, replacing
from pear.stages.processes import (
    PROCESS_FIELDS,
    check_accelerate_config,
    hashed_processes,
    must_start,
    run_on_processes,
)
from pear.stages.sft import update_norm
from pear.tasks.problems import ProblemSet, load_problems, task_files, task_versions
from pear.tasks.protocol import Problem, Tags
from pear.training.trainer_arguments import hashed_trainer_values

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
    from trl.trainer.grpo_config import GRPOConfig

NAME = "grpo"
VERSION = 1
METRICS = "metrics.jsonl"


class GrpoConfig(StrictModel):
    """GRPO from a checkpoint. Two configurations with equal `hashed()` are the same RL, whatever they start from.

    The defaults are the paper's (Section 4.2) where it names a value; group size, lengths and the number of steps are
    ours, because it does not.

    Args:
        model: the checkpoint to start from, and what the KL is taken to.
        problems: what the prompts are drawn from, in an order that `seed` alone decides.
        steps: optimizer steps; each samples anew.
        max_completion_tokens: most tokens of a completion, EOS included.
        prompts_per_step: the paper's batch of 128, read as 128 prompts.
        group_size: completions per prompt.
        micro_batch: completions in one forward pass of a process; times `processes` it must divide prompts_per_step x
            group_size.
        learning_rate: constant.
        beta: coefficient of the KL; 0 leaves it, and the model that it is taken to, out.
        temperature: of the sampling.
        tags: strict rewards right answers in the format alone; lenient, right answers wherever they are found.
        checkpoint_steps: steps whose model is kept as `checkpoint-N`.
        save_every: how often a checkpoint to resume from is written; it changes no number.
        seed: decides the prompts' order and every draw.
        trainer: further fields of `trl.GRPOConfig`, such as max_grad_norm or use_vllm.
        processes: how many train and sample side by side on this machine, one GPU each; a step has the same prompts.
        accelerate_config: with several processes, how: a configuration that TRL ships (fsdp2, zero2, ...) or a file;
            by default every process has the whole model (DDP).
        output_dir: where the model, its checkpoints and `metrics.jsonl` go.
    """

    model: Annotated[str, NotHashed()]
    problems: Annotated[list[ProblemSet], Field(min_length=1)]
    steps: Annotated[int, Field(gt=0)]
    max_completion_tokens: Annotated[int, Field(gt=0)]
    prompts_per_step: Annotated[int, Field(gt=0)] = 128
    group_size: Annotated[int, Field(ge=2)] = 8
    micro_batch: Annotated[int, Field(gt=0)] = 8
    learning_rate: Annotated[float, Field(gt=0)] = 1e-6
    beta: Annotated[float, Field(ge=0)] = 0.01
    temperature: Annotated[float, Field(gt=0)] = 1.0
    tags: Tags = "strict"
    checkpoint_steps: list[Annotated[int, Field(gt=0)]] = []
    save_every: Annotated[int, Field(gt=0), NotHashed()] = 50
    seed: int = 0
    trainer: dict[str, Any] = {}
    processes: Annotated[int, Field(gt=0)] = 1
    accelerate_config: str | None = None
    output_dir: Annotated[Path, NotHashed()]

    _accelerate_config = field_validator("accelerate_config")(check_accelerate_config)

    def hashed(self) -> dict[str, Any]:
        """As every stage's, without those of the trainer's arguments that only change what is logged, and without
        `tags` where they are strict, as before there was a choice."""
        values = {**super().hashed(), "trainer": hashed_trainer_values(self.trainer)}
        found = {name: value for name, value in values.items() if name not in PROCESS_FIELDS}
        if found["tags"] == "strict":
            del found["tags"]
        return {**found, **hashed_processes(self.processes, self.accelerate_config)}


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What is known to be usable before anything is written."""

    model: str
    tokenizer: "PreTrainedTokenizerBase"
    stop_ids: list[int]
    problems: list[Problem]
    args: "GRPOConfig"


def run(config: GrpoConfig) -> Path:
    """Trains by GRPO and writes the model, its checkpoints and its log.

    A killed run goes on from its last complete checkpoint, to the same bytes (on one thread of a CPU).

    Raises:
        UserError: a model, problem set or trainer argument that cannot be used, or another run's output.
    """
    model = resolve_model(config.model)
    inputs: dict[str, str | Path] = {"model": model, **task_files(config.problems)}
    parts = task_versions(config.problems)
    if not is_finished(config.output_dir) and must_start(config.processes):
        run_on_processes(NAME, config, processes=config.processes, accelerate_config=config.accelerate_config)
        return config.output_dir.absolute()
    # A complete run needs no checks, and answers at once.
    prepared = None if is_finished(config.output_dir) else prepare(config, model)
    if not is_main_process():
        # Only rank 0 may lock and write the directory; the others train beside it.
        if prepared is not None:
            _train(config, prepared, Run(config.output_dir.absolute(), {}))
        return config.output_dir
    with open_run(NAME, VERSION, config, config.output_dir, inputs=inputs, parts=parts) as run:
        if run.complete or prepared is None:
            note(f"{config.output_dir}: complete, nothing to do.")
            return run.output_dir
        results = _train(config, prepared, run)
        return run.finish({**results, "update/norm": update_norm(model, run.work)})


def prepare(config: GrpoConfig, model: str) -> Prepared:
    """Everything that can be wrong with what the user gave, before anything is written; raises `UserError` as `run`."""
    from pear.data.rendering import load_tokenizer, stop_token_ids

    if late := [step for step in config.checkpoint_steps if step > config.steps]:
        raise UserError(f"checkpoint_steps: {late[0]} is after the last of {config.steps} steps.")
    problems = load_problems(config.problems)
    if len(problems) < config.prompts_per_step:
        raise UserError(
            f"problems: {len(problems)} are too few for prompts_per_step = {config.prompts_per_step}, since a step has "
            "no problem twice. Give more problems, or make the step smaller."
        )
    check_model(model)
    tokenizer = load_tokenizer(model)
    _check_length(config, model, tokenizer, problems)
    args = training_arguments(config, partial_path(config.output_dir.absolute()) / SCRATCH)
    stop_ids = stop_token_ids(tokenizer, model)
    return Prepared(model=model, tokenizer=tokenizer, stop_ids=stop_ids, problems=problems, args=args)


def training_arguments(config: GrpoConfig, output_dir: Path) -> "GRPOConfig":
    """TRL's arguments for a configuration. Raises `UserError` for what TRL or the stage refuses."""
    from pear.training.grpo import grpo_arguments

    return grpo_arguments(
        output_dir=output_dir,
        prompts_per_step=config.prompts_per_step,
        group_size=config.group_size,
        micro_batch=config.micro_batch,
        steps=config.steps,
        max_completion_tokens=config.max_completion_tokens,
        temperature=config.temperature,
        beta=config.beta,
        learning_rate=config.learning_rate,
        seed=config.seed,
        trainer=config.trainer,
        processes=config.processes,
    )


def _check_length(
    config: GrpoConfig, model: str, tokenizer: "PreTrainedTokenizerBase", problems: list[Problem]
) -> None:
    """Renders the problem with the longest text; TRL neither counts nor cuts."""
    from transformers import AutoConfig

    from pear.data.rendering import render_prompt

    longest = max(problems, key=lambda problem: sum(len(message["content"]) for message in problem.prompt))
    prompt_tokens = len(render_prompt(tokenizer, longest.prompt))
    positions = getattr(AutoConfig.from_pretrained(model).get_text_config(), "max_position_embeddings", None)
    if positions is not None and prompt_tokens + config.max_completion_tokens > positions:
        raise UserError(
            f"max_completion_tokens: {config.max_completion_tokens} and a prompt of {prompt_tokens} tokens "
            f"('{longest.id}') are more than the model's {positions} positions. Ask for fewer."
        )


def _train(config: GrpoConfig, prepared: Prepared, run: Run) -> dict[str, Any]:
    """Trains and writes under `run.work`, on rank 0; the others train beside it."""
    from pear.training.checkpoints import remove_incomplete
    from pear.training.grpo import check_reference, make_trainer, prompt_dataset, prompt_order
    from pear.training.grpo_callbacks import checkpoint_callbacks
    from pear.training.grpo_log import grpo_log, write_metrics
    from pear.training.progress import ReportProgress
    from pear.training.trackers import keep_events

    training = Path(str(prepared.args.output_dir))
    checkpoint = _checkpoint(training, config.checkpoint_steps)
    if checkpoint is not None and is_main_process():
        note(f"{config.output_dir}: goes on from {checkpoint.name} of {config.steps} steps.")
    order = prompt_order(len(prepared.problems), config.prompts_per_step, config.steps, config.seed)
    trainer = make_trainer(
        prepared.model,
        prepared.tokenizer,
        prepared.stop_ids,
        prompt_dataset(prepared.problems, order),
        prepared.args,
        [*checkpoint_callbacks(config.checkpoint_steps, config.save_every), ReportProgress(run)],
        config.tags,
    )
    keep_events(trainer, run.work)
    reference = check_reference(trainer)
    if is_main_process():
        remove_incomplete(training, checkpoint)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    trainer.save_model(str(run.work))
    trainer.accelerator.wait_for_everyone()
    lines = grpo_log(trainer.state.log_history, config.prompts_per_step * config.group_size)
    if is_main_process():
        with replacing(run.work / METRICS) as temporary:
            write_metrics(temporary, lines)
        _collect(run.work, training, config.checkpoint_steps)
    return {
        "steps": config.steps,
        "kl_reference": reference,
        "stop_token_ids": prepared.stop_ids,
        "rl/generated_tokens": lines[-1]["rl/generated_tokens"],
        "rl/reward/first": lines[0]["rl/reward"],
        "rl/reward/last": lines[-1]["rl/reward"],
    }


def _checkpoint(training: Path, wanted: Sequence[int]) -> Path | None:
    """The checkpoint to go on from: the latest complete one, if the models to be kept from before it are whole too."""
    from pear.training.checkpoints import checkpoint_path, checkpoint_step, damage, latest_complete_checkpoint
    from pear.training.grpo_callbacks import TRAINING_STATE

    latest = latest_complete_checkpoint(training)
    if latest is None:
        return None
    for step in wanted:
        kept = checkpoint_path(training, step)
        reason = damage(kept, TRAINING_STATE) if step < checkpoint_step(latest) else None
        if reason is not None:
            if is_main_process():
                note(f"{kept}: is to be kept, but {reason}. Training begins again.")
            return None
    return latest


def _collect(work: Path, training: Path, checkpoint_steps: list[int]) -> None:
    """Puts the wanted checkpoints, models alone, beside the final model. The training keeps its own until the end."""
    from pear.training.checkpoints import COMPLETE, checkpoint_path
    from pear.training.grpo_callbacks import TRAINING_STATE, remove_training_state

    remove_training_state(work)
    for step in sorted(set(checkpoint_steps)):
        source, target = checkpoint_path(training, step), checkpoint_path(work, step)
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target, ignore=shutil.ignore_patterns(COMPLETE, *TRAINING_STATE), copy_function=_link)


def _link(source: str, target: str) -> None:
    """A second name for a file, or a copy where the file system has no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
