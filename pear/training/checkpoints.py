"""Checkpoints that a killed run can trust.

`transformers` writes a checkpoint file by file. One without `optimizer.pt` restarts Adam without a word, so a
`COMPLETE` file is written last and only checkpoints that have it are resumed from. They hold pickles
(`optimizer.pt`, `rng_state.pth`), which `transformers` loads with `weights_only=True`; resume only from the
directory of the run itself.
"""

import os
from pathlib import Path

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from pear.errors import UserError

COMPLETE = "COMPLETE"
_PREFIX = "checkpoint-"


class CompleteCheckpoint(TrainerCallback):
    """Writes `COMPLETE` into a checkpoint when every process has written its files."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Distrusts checkpoints beyond the step where training starts: they will be overwritten file by file."""
        if state.is_world_process_zero and args.output_dir is not None:
            for step, path in _checkpoints(Path(args.output_dir)):
                if step > state.global_step:
                    (path / COMPLETE).unlink(missing_ok=True)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        """Runs on every process after its own files are written."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.barrier()
        if state.is_world_process_zero and args.output_dir is not None:
            mark_complete(Path(args.output_dir) / f"{_PREFIX}{state.global_step}")


def mark_complete(checkpoint: Path) -> None:
    """Writes `COMPLETE` into a checkpoint, after what is in it has reached the disk."""
    for file in checkpoint.rglob("*"):
        if file.is_file():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
    temporary = checkpoint / f"{COMPLETE}.tmp"
    temporary.write_text("All files of this checkpoint were written before this one.\n", encoding="utf-8")
    temporary.rename(checkpoint / COMPLETE)


def latest_complete_checkpoint(directory: Path) -> Path | None:
    """The `checkpoint-N` with the highest N in `directory` that has a `COMPLETE` file, or None."""
    complete = [(step, path) for step, path in _checkpoints(directory) if (path / COMPLETE).is_file()]
    return max(complete)[1] if complete else None


def checkpoint_to_resume(resume: str | Path | bool | None, output_dir: Path) -> Path | None:
    """What `resume_from_checkpoint` means: None or False nothing, True the latest complete one, a path itself.

    Raises:
        UserError: no complete checkpoint in `output_dir`, or the path is not a complete checkpoint.
    """
    if resume is None or resume is False:
        return None
    if resume is True:
        latest = latest_complete_checkpoint(output_dir)
        if latest is None:
            raise UserError(f"{output_dir}: no complete checkpoint to resume from. Leave resume_from_checkpoint out.")
        return latest
    path = Path(resume)
    if not (path / COMPLETE).is_file():
        raise UserError(
            f"{path}: not a complete checkpoint (no {COMPLETE} in it), so its optimizer state may be missing. "
            "Resume from an earlier one, or pass True for the latest complete one."
        )
    return path


def _checkpoints(directory: Path) -> list[tuple[int, Path]]:
    found = []
    for path in directory.glob(f"{_PREFIX}*"):
        number = path.name.removeprefix(_PREFIX)
        if path.is_dir() and number.isdigit():
            found.append((int(number), path))
    return found
