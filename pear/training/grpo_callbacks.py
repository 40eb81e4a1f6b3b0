"""What a GRPO run does along the way: its seeds and its checkpoints."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from pear.runs import sha256
from pear.training.checkpoints import COMPLETE, CompleteCheckpoint

# What a checkpoint has beside the model. Without it, the checkpoint is no longer what its COMPLETE says.
TRAINING_STATE = (
    "optimizer*",
    "scheduler.pt",
    "scaler.pt",
    "rng_state*",
    "trainer_state.json",
    "training_args.bin",
    "global_step*",
    "latest",
    "zero_to_fp32.py",
)


class StepSeed(TrainerCallback):
    """Seeds every step by (seed, step), so that what one step draws does not hang on how much the others drew."""

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Runs before the step's completions are sampled."""
        text = f"{args.seed}/grpo/step/{state.global_step}/{args.process_index}"
        torch.manual_seed(int(sha256(text)[:15], 16))


def checkpoint_callbacks(checkpoint_steps: Sequence[int], save_every: int) -> list[TrainerCallback]:
    """Checkpoints at the steps that are wanted, and every so often one to resume from, until there is a later one."""
    # In this order: a checkpoint is complete before older ones are removed.
    return [_SaveAt(checkpoint_steps, save_every), CompleteCheckpoint(), _RemoveOld(checkpoint_steps)]


class _SaveAt(TrainerCallback):
    """Asks for a checkpoint at the steps that are wanted, and every so often."""

    def __init__(self, checkpoint_steps: Sequence[int], save_every: int) -> None:
        self._steps = frozenset(checkpoint_steps)
        self._every = save_every

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        if state.global_step in self._steps or state.global_step % self._every == 0:
            control.should_save = True


class _RemoveOld(TrainerCallback):
    """Once a checkpoint is complete, older ones lose what is only there to resume from, or go altogether."""

    def __init__(self, checkpoint_steps: Sequence[int]) -> None:
        self._steps = frozenset(checkpoint_steps)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        if not state.is_world_process_zero or args.output_dir is None:
            return
        for path in Path(args.output_dir).glob("checkpoint-*"):
            step = int(path.name.removeprefix("checkpoint-"))
            if step in self._steps and step < state.global_step:
                remove_training_state(path)
            elif step < state.global_step:
                (path / COMPLETE).unlink(missing_ok=True)
                shutil.rmtree(path)


def remove_training_state(checkpoint: Path) -> None:
    """Leaves the model and its tokenizer: optimizer, scheduler and random states go, and with them every pickle."""
    for pattern in TRAINING_STATE:
        for path in checkpoint.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
