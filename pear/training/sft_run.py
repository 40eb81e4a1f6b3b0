"""SFT as stages run it: checked arguments, a run that goes on from its last checkpoint, and what it writes."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pear.errors import UserError
from pear.runs import Run, is_main_process, note, replacing

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from pear.training.sft_config import PearConfig
    from pear.training.sft_trainer import PearTrainer

_METRICS = "metrics.jsonl"
_ADAPTER = "adapter"
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
# `trainer` keys that cannot be used here, and why.
_FIXED = {
    "ignore_data_skip": "a run that goes on sees the trajectories that an unbroken one would",
    "eval_strategy": "models are evaluated by `pear evaluate`",
    "load_best_model_at_end": "models are evaluated by `pear evaluate`",
    "hub_strategy": "a run is pushed at its end",
    "hub_token": "it would be written into the manifest; log in with `hf auth login`, or set HF_TOKEN",
}


def sft_arguments(
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

    `checkpoints` is where they go; `own` are further fields, which the stage has checked itself.

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
    args: "PearConfig",
    *,
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
        args: what `sft_arguments` returned for the run's `scratch`.
        lora: as in `SftConfig`.
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
    if lora is not None:
        # TRL draws the adapter before it seeds.
        torch.manual_seed(args.seed)
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
        pear_trainer.model = merge_adapter(pear_trainer.model, run_dir.work / _ADAPTER)
    stops = taught_stop_ids(dataset)
    if stops:
        trained: Any = pear_trainer.model
        trained.generation_config.eos_token_id = stops[0] if len(stops) == 1 else stops
    if buffer is not None:
        pear_trainer.trained_on = describe_buffer(buffer)
    _write_model(pear_trainer, run_dir, None if buffer is None else f"{Path(str(model)).name}-{args.objective}")
    history = pear_trainer.state.log_history
    if is_main_process():
        _write_metrics(run_dir.work / _METRICS, history)
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


def taught_stop_ids(dataset: "Dataset") -> list[int]:
    """The last ids of the correct completions that `finish` calls "stop", in order; a note where there are none."""
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
