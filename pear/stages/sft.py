"""`pear sft`: one model trained on a buffer with one objective."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator

from pear.configuration import NotHashed, StrictModel
from pear.errors import UserError
from pear.models import check_model, resolve_model
from pear.runs import SCRATCH, Run, is_finished, is_main_process, note, open_run, replacing
from pear.stages.processes import (
    PROCESS_FIELDS,
    check_accelerate_config,
    hashed_processes,
    must_start,
    run_on_processes,
)

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from pear.objectives import Objective
    from pear.training.sft_config import PearConfig
    from pear.training.sft_trainer import PearTrainer

NAME = "sft"
VERSION = 1
METRICS = "metrics.jsonl"
ADAPTER = "adapter"
# Section 4.2: 1 epoch, learning rate 3e-5 on games (1e-5 on maths). A fifth of the run is what a kill can cost; two
# checkpoints are kept, so that one is complete at any time.
_DEFAULTS: dict[str, Any] = {
    "num_train_epochs": 1,
    "learning_rate": 3e-5,
    "save_steps": 0.2,
    "save_total_limit": 2,
    "hub_strategy": "end",
    "report_to": "none",
    "disable_tqdm": True,
}
# Ends of metric names that differ between a run and the same run again, or resumed.
_NOT_REPEATED = ("_runtime", "_per_second", "train_loss", "total_flos")
# `trainer` keys that are fields of the stage's own configuration, or the stage's business.
_OWNED = (
    "objective",
    "objective_kwargs",
    "overflow",
    "behavior",
    "max_negative_share",
    "ref_model",
    "teacher_model",
    "seed",
    "data_seed",
    "output_dir",
    "resume_from_checkpoint",
)
# Fields that came later: they are hashed where they are used, so that earlier runs are found again.
_HASHED_WHERE_USED = ("lora", "behavior", "max_negative_share")
# `trainer` keys that cannot be used here, and why.
_FIXED = {
    "ignore_data_skip": "a run that goes on sees the trajectories that an unbroken one would",
    "eval_strategy": "models are evaluated by `pear evaluate`",
    "load_best_model_at_end": "models are evaluated by `pear evaluate`",
    "hub_strategy": "a run is pushed at its end",
    "hub_token": "it would be written into the manifest; log in with `hf auth login`, or set HF_TOKEN",
}


class SftConfig(StrictModel):
    """SFT of a model on a buffer's correct trajectories, and on the wrong ones where the objective uses failures.

    Args:
        model: what is trained: a shipped model (`pear:affine_chain/base_1`), a directory, or a hub id.
        buffer: a directory made by `pear collect` or `pear score`.
        objective: a name in `pear.objectives.OBJECTIVES`.
        objective_kwargs: its fields; the paper's values by default.
        overflow: trajectories longer than `trainer.max_length` are an "error", or "drop" leaves them out.
        behavior: which log-probs of the buffer are the behavior policy's: "raw", or "processed" as they were sampled.
        max_negative_share: most failures, as a share of all trajectories, where the objective uses them (Section 4.5).
        ref_model: the reference, where the objective reads one; by default `model` itself.
        teacher_model: the live teacher, where the objective reads one.
        seed: decides the order of the data and which failures are left out, the same for every objective, and dropout.
        trainer: fields of `PearConfig`. By default 1 epoch and learning rate 3e-5 (Section 4.2, games; 1e-5 on maths).
        lora: fields of `peft.LoraConfig`: an adapter is trained and merged at the end; `{}` has peft's defaults.
        processes: how many train side by side on this machine, one GPU each; each takes `per_device_train_batch_size`
            trajectories at once.
        accelerate_config: with several processes, how: a configuration that TRL ships (fsdp2, zero2, ...) or a file;
            by default every process has the whole model (DDP).
        output_dir: where the model goes, and under `adapter/` the adapter.
    """

    model: Annotated[str, NotHashed()]
    buffer: Annotated[str, NotHashed()]
    objective: str = "pear_token"
    objective_kwargs: dict[str, Any] = {}
    overflow: Literal["error", "drop"] = "error"
    behavior: Literal["raw", "processed"] = "raw"
    max_negative_share: Annotated[float, Field(ge=0, lt=1)] = 0.5
    ref_model: Annotated[str | None, NotHashed()] = None
    teacher_model: Annotated[str | None, NotHashed()] = None
    seed: int = 0
    trainer: dict[str, Any] = {}
    lora: dict[str, Any] | None = None
    processes: Annotated[int, Field(gt=0)] = 1
    accelerate_config: str | None = None
    output_dir: Annotated[Path, NotHashed()]

    _accelerate_config = field_validator("accelerate_config")(check_accelerate_config)

    def hashed(self) -> dict[str, Any]:
        """Without what only changes how often the trainer logs and saves; later fields where they are used."""
        from pear.training.trainer_arguments import hashed_trainer_values

        values = {**super().hashed(), "trainer": hashed_trainer_values(self.trainer)}
        unused = {name for name in _HASHED_WHERE_USED if values[name] == type(self).model_fields[name].default}
        found = {name: value for name, value in values.items() if name not in {*unused, *PROCESS_FIELDS}}
        return {**found, **hashed_processes(self.processes, self.accelerate_config)}

    def own_values(self) -> dict[str, Any]:
        """The fields of `PearConfig` that only this stage has, for `training_arguments`."""
        models = {"ref_model": self.ref_model, "teacher_model": self.teacher_model}
        return {
            "behavior": self.behavior,
            "max_negative_share": self.max_negative_share,
            **{name: None if path is None else resolve_model(path) for name, path in models.items()},
        }


def run(config: SftConfig) -> Path:
    """Trains the model and writes it with its tokenizer and `metrics.jsonl`.

    Raises:
        UserError: an unknown key or name, a buffer that the model's tokenizer cannot read, an objective without its
            log-probs, trajectories that are too long; before anything is written.
    """
    from pear.data.buffer import read_manifest
    from pear.data.token_map import named, token_map
    from pear.objectives import make_objective

    model = resolve_model(config.model)
    objective = make_objective(config.objective, config.objective_kwargs)
    inputs = {"model": model, "buffer": config.buffer}
    for name, path in (("ref_model", config.ref_model), ("teacher_model", config.teacher_model)):
        if path is not None:
            inputs[name] = resolve_model(path)
    parts = {f"objective:{config.objective}": objective.version}
    if is_finished(config.output_dir):
        if is_main_process():
            with open_run(NAME, VERSION, config, config.output_dir, inputs=inputs, parts=parts) as run_dir:
                note(f"{config.output_dir}: complete, nothing to do.")
                return run_dir.output_dir
        return config.output_dir
    if must_start(config.processes):
        run_on_processes(NAME, config, processes=config.processes, accelerate_config=config.accelerate_config)
        return config.output_dir.absolute()

    tokenizer, dataset = checked_inputs(config, model, objective)
    if not is_main_process():
        # Only rank 0 may lock and write the directory; the others train beside it.
        _train(config, model, tokenizer, dataset, Run(config.output_dir.absolute(), {}))
        return config.output_dir
    with open_run(NAME, VERSION, config, config.output_dir, inputs=inputs, parts=parts) as run_dir:
        if run_dir.complete:
            return run_dir.output_dir
        results = _train(config, model, tokenizer, dataset, run_dir)
        manifest = read_manifest(config.buffer)
        if tokens := named(token_map(manifest, tokenizer), manifest, tokenizer):
            results["token_map"] = tokens
        if manifest.estimate is not None:
            results["estimate"] = manifest.estimate.sentence
            note(f"{config.buffer}: {manifest.estimate.sentence}")
        return run_dir.finish({**results, "update/norm": update_norm(model, run_dir.work)})


def checked_inputs(
    config: SftConfig, model: str, objective: "Objective"
) -> tuple["PreTrainedTokenizerBase", "Dataset"]:
    """Everything that can be wrong with what the user gave, before anything is written."""
    from pear.data.buffer import load_buffer, read_manifest
    from pear.data.rendering import load_tokenizer
    from pear.data.teacher_top import TOP_IDS
    from pear.data.token_map import fit_tokenizer, token_map
    from pear.training.other_models import check_other_model
    from pear.training.sft_data import NEGATIVE, DataNeeds, checked_trajectories
    from pear.training.token_fields import check_named_models, needed_columns

    args = training_arguments(
        config.output_dir / SCRATCH,
        objective=config.objective,
        objective_kwargs=config.objective_kwargs,
        overflow=config.overflow,
        seed=config.seed,
        trainer=config.trainer,
        own=config.own_values(),
    )
    check_named_models(objective, ref_model=args.ref_model, teacher_model=args.teacher_model)
    columns = needed_columns(objective, has_teacher=args.teacher_model is not None)
    manifest = read_manifest(config.buffer)
    check_model(model)
    if config.lora is not None:
        from pear.training.lora import check_lora

        check_lora(model, config.lora)
    tokenizer = load_tokenizer(model)
    token_map(manifest, tokenizer)
    for name, path in (("ref_model", args.ref_model), ("teacher_model", args.teacher_model)):
        if path is not None:
            check_other_model(path, tokenizer, name)
    dataset = load_buffer(config.buffer, correct_only=NEGATIVE not in columns, teacher_top=TOP_IDS in columns)
    stops = _taught_stop_ids(dataset)
    unknown = sorted(set(stops) - set(manifest.stop_token_ids))
    if unknown:
        raise UserError(
            f"{config.buffer}: completions with finish 'stop' end in the ids {unknown}, and its stop tokens are "
            f"{sorted(manifest.stop_token_ids)}. Make the buffer again."
        )
    dataset = fit_tokenizer(dataset, manifest, tokenizer)
    checked_trajectories(
        dataset,
        tokenizer,
        needs=DataNeeds(
            columns=columns,
            token_ratios=objective.token_ratios,
            behavior=config.behavior,
            max_negative_share=config.max_negative_share,
            seed=config.seed,
        ),
        max_length=args.max_length,
        overflow=config.overflow,
        name=config.buffer,
    )
    return tokenizer, dataset


def _train(
    config: SftConfig, model: str, tokenizer: "PreTrainedTokenizerBase", dataset: "Dataset", run_dir: Run
) -> dict[str, Any]:
    return train_and_save(
        model,
        tokenizer,
        dataset,
        run_dir,
        objective=config.objective,
        objective_kwargs=config.objective_kwargs,
        overflow=config.overflow,
        seed=config.seed,
        trainer=config.trainer,
        own=config.own_values(),
        lora=config.lora,
        buffer=config.buffer,
    )


def training_arguments(
    checkpoints: Path,
    *,
    objective: str,
    objective_kwargs: dict[str, Any],
    overflow: str = "error",
    seed: int,
    trainer: Mapping[str, Any],
    own: Mapping[str, Any] | None = None,
) -> "PearConfig":
    """The `PearConfig` of a stage: its defaults, the machine's, and the checked `trainer` mapping on top.

    `own` are further fields that the stage has checked itself (`SftConfig.own_values`).

    Raises:
        UserError: unknown or owned key, a value of the wrong type, or a combination that cannot be used.
    """
    from pear.training.sft_config import PearConfig
    from pear.training.trainer_arguments import checked_arguments, machine_defaults

    for name in _OWNED:
        if name in trainer:
            raise UserError(
                f"trainer.{name}: the stage sets it. Its own keys are objective, overflow, behavior, "
                "max_negative_share, ref_model, teacher_model, seed, output_dir."
            )
    for name in sorted(_FIXED.keys() & trainer.keys()):
        raise UserError(f"trainer.{name}: cannot be set here ({_FIXED[name]}). Leave it out.")
    values = checked_arguments(PearConfig, trainer, source="trainer")
    if values.get("save_total_limit") == 1:
        raise UserError(
            "trainer.save_total_limit: with 1 there is no complete checkpoint while the next is written. Use 2 or more."
        )
    if values.get("push_to_hub") and not values.get("hub_model_id"):
        raise UserError("trainer.push_to_hub: needs trainer.hub_model_id, the repository to push to.")
    try:
        return PearConfig(
            **{
                **_DEFAULTS,
                **machine_defaults(values),
                **values,
                **(own or {}),
                "output_dir": str(checkpoints),
                "objective": objective,
                "objective_kwargs": dict(objective_kwargs),
                "overflow": overflow,
                "seed": seed,
                "data_seed": seed,
            }
        )
    except ValueError as error:
        # `transformers` checks combinations of fields when its dataclass is made.
        raise UserError(f"trainer: {error}") from error


def train_and_save(
    model: "str | PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    dataset: "Dataset",
    run_dir: Run,
    *,
    objective: str,
    objective_kwargs: dict[str, Any],
    overflow: str = "error",
    seed: int,
    trainer: Mapping[str, Any],
    own: Mapping[str, Any] | None = None,
    lora: Mapping[str, Any] | None = None,
    buffer: str | None = None,
) -> dict[str, Any]:
    """Trains, from the last complete checkpoint if there is one, and writes model, tokenizer, model card and metrics.

    The model's generation configuration stops on the tokens that the data teaches: the last ids of its completions that
    `finish` calls "stop".

    Args:
        model: a path, a hub id or a model.
        tokenizer: the target's.
        dataset: what `PearTrainer` takes.
        run_dir: an open run, in whose `work` all is written; on other ranks than 0 one that only names the directory.
        objective, objective_kwargs, overflow, seed, trainer, lora: as in `SftConfig`.
        own: as in `training_arguments`.
        buffer: what `dataset` was read from, for the model card; without it there is no card.

    Returns:
        Counts for the manifest: steps, trajectories, failures among them where there are any, dropped trajectories,
        tokens, and the last logged loss.
    """
    import torch

    from pear.training.checkpoints import latest_complete_checkpoint, remove_incomplete
    from pear.training.lora import lora_config, merge_adapter
    from pear.training.model_card import describe_buffer
    from pear.training.progress import ReportProgress
    from pear.training.sft_trainer import PearTrainer
    from pear.training.trackers import keep_events

    checkpoint = latest_complete_checkpoint(run_dir.scratch)
    args = training_arguments(
        run_dir.scratch,
        objective=objective,
        objective_kwargs=objective_kwargs,
        overflow=overflow,
        seed=seed,
        trainer=trainer,
        own=own,
    )
    if lora is not None:
        # TRL draws the adapter before it seeds.
        torch.manual_seed(seed)
    pear_trainer = PearTrainer(
        model,
        args,
        train_dataset=dataset,
        processing_class=tokenizer,
        callbacks=[ReportProgress(run_dir)],
        peft_config=None if lora is None else lora_config(lora),
    )
    keep_events(pear_trainer, run_dir.work)
    if is_main_process():
        remove_incomplete(run_dir.scratch, checkpoint)
    pear_trainer.train(resume_from_checkpoint=checkpoint)
    if lora is not None:
        pear_trainer.model = merge_adapter(pear_trainer.model, run_dir.work / ADAPTER)
    stops = _taught_stop_ids(dataset)
    if stops:
        trained: Any = pear_trainer.model
        trained.generation_config.eos_token_id = stops[0] if len(stops) == 1 else stops
    if buffer is not None:
        pear_trainer.trained_on = describe_buffer(buffer)
    _write_model(pear_trainer, run_dir, None if buffer is None else f"{Path(str(model)).name}-{objective}")
    history = pear_trainer.state.log_history
    if is_main_process():
        _write_metrics(run_dir.work / METRICS, history)
    return {
        "steps": pear_trainer.state.global_step,
        "trajectories": pear_trainer.trajectories,
        **({"failures": pear_trainer.failures} if pear_trainer.failures else {}),
        "dropped": pear_trainer.dropped["train"],
        "tokens": next((entry["num_tokens"] for entry in reversed(history) if "num_tokens" in entry), None),
        "loss": next((entry["loss"] for entry in reversed(history) if "loss" in entry), None),
    }


def _write_model(trainer: "PearTrainer", run_dir: Run, card: str | None) -> None:
    """Writes model and tokenizer and, with a title for it, the model card."""
    trainer.save_model(str(run_dir.work))
    trainer.accelerator.wait_for_everyone()
    if not is_main_process():
        return
    # A pickle of paths and devices: it belongs to the checkpoints.
    (run_dir.work / "training_args.bin").unlink(missing_ok=True)
    if card is not None:
        # TRL writes it beside the checkpoints.
        trainer.create_model_card(model_name=card)
        os.replace(run_dir.scratch / "README.md", run_dir.work / "README.md")


def _taught_stop_ids(dataset: "Dataset") -> list[int]:
    if "finish" not in dataset.column_names:
        return []
    correct = dataset["correct"] if "correct" in dataset.column_names else [True] * len(dataset)
    finished = zip(dataset["completion_ids"], dataset["finish"], correct, strict=True)
    ends = {ids[-1] for ids, finish, taught in finished if finish == "stop" and taught}
    if not ends and is_main_process():
        note("No completion of the data ended by a stop token, so this model is not taught to stop.")
    return sorted(int(token) for token in ends)


def _write_metrics(path: Path, history: list[dict[str, Any]]) -> None:
    """One JSON object for each logging step, without times and without what counts from the last resume only."""
    lines = []
    for entry in history:
        kept = {name: value for name, value in entry.items() if not name.endswith(_NOT_REPEATED)}
        if kept.keys() - {"epoch", "step"}:
            lines.append(json.dumps(kept, sort_keys=True) + "\n")
    with replacing(path) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")


def update_norm(initial: str, final: Path) -> float | None:
    """||theta_final - theta_initial||_2 over all weights, from the two models' files, one tensor at a time.

    None, with a note, where the files do not hold the same tensors.
    """
    import torch
    from safetensors import safe_open
    from transformers.utils.hub import cached_file

    directory = Path(initial)
    if not directory.is_dir():
        found = cached_file(initial, "config.json")
        assert found is not None
        directory = Path(found).parent
    where = {}
    for file in sorted(directory.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            where.update(dict.fromkeys(tensors.keys(), file))
    total = 0.0
    for file in sorted(final.glob("*.safetensors")):
        with safe_open(file, framework="pt") as after:
            for name in after.keys():  # noqa: SIM118, because this is no mapping
                if name not in where:
                    note(f"update/norm: {directory} has no tensor '{name}', so the norm is left out.")
                    return None
                with safe_open(where[name], framework="pt") as before:
                    difference = after.get_tensor(name).double() - before.get_tensor(name).double()
                total += float(torch.sum(difference**2))
    return total**0.5
