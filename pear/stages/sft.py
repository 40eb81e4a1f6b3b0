"""`pear sft`: one model trained on a buffer with one objective."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator

from pear.configuration import NotHashed, StrictModel
from pear.errors import UserError
from pear.models import check_model, resolve_model
from pear.runs import SCRATCH, Run, is_finished, is_main_process, note, open_run
from pear.stages.processes import (
    PROCESS_FIELDS,
    check_accelerate_config,
    hashed_processes,
    must_start,
    run_on_processes,
)

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from pear.objectives import Objective
    from pear.training.sft_config import PearConfig

NAME = "sft"
VERSION = 1
# Fields that came later: they are hashed where they are used, so that earlier runs are found again.
_HASHED_WHERE_USED = ("lora", "behavior", "max_negative_share")


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
    from pear.training.sft_run import taught_stop_ids
    from pear.training.token_fields import check_named_models, needed_columns

    args = training_arguments(config, config.output_dir / SCRATCH)
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
    stops = taught_stop_ids(dataset)
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
    from pear.training.sft_run import train_and_save

    args = training_arguments(config, run_dir.scratch)
    return train_and_save(model, tokenizer, dataset, run_dir, args, lora=config.lora, buffer=config.buffer)


def training_arguments(config: SftConfig, checkpoints: Path) -> "PearConfig":
    """The trainer's arguments, with `checkpoints` for a directory. Raises `UserError` for what cannot be used."""
    from pear.training.sft_run import sft_arguments

    others = {"ref_model": config.ref_model, "teacher_model": config.teacher_model}
    return sft_arguments(
        checkpoints,
        objective=config.objective,
        objective_kwargs=config.objective_kwargs,
        overflow=config.overflow,
        seed=config.seed,
        trainer=config.trainer,
        own={
            "behavior": config.behavior,
            "max_negative_share": config.max_negative_share,
            **{name: None if path is None else resolve_model(path) for name, path in others.items()},
        },
    )


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
