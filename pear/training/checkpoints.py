"""Checkpoints that a killed run can trust.

`transformers` writes a checkpoint file by file. One without `optimizer.pt` restarts Adam without a word, so a
`COMPLETE` file is written last, with the sha256 of each of the others, and only checkpoints whose files are those are
resumed from. They hold pickles (`optimizer.pt`, `rng_state.pth`), which `transformers` loads with `weights_only=True`;
resume only from the directory of the run itself.
"""

import shutil
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from pear.errors import UserError
from pear.runs import file_digest, flush, flush_tree, is_main_process, note, read_json, write_json

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
        """Runs on every process after its own files are written. A model alone (`save_only_model`) never counts."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.barrier()
        if state.is_world_process_zero and args.output_dir is not None and not args.save_only_model:
            mark_complete(checkpoint_path(Path(args.output_dir), state.global_step))


def checkpoint_path(directory: Path, step: int) -> Path:
    """Where `transformers` writes the checkpoint of a step."""
    return directory / f"{_PREFIX}{step}"


def checkpoint_step(checkpoint: Path) -> int:
    """The step of a checkpoint, by its name."""
    return int(checkpoint.name.removeprefix(_PREFIX))


def mark_complete(checkpoint: Path) -> None:
    """Writes `COMPLETE` into a checkpoint, after what is in it has reached the disk."""
    (checkpoint / COMPLETE).unlink(missing_ok=True)
    flush_tree(checkpoint)
    flush(checkpoint.parent)
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    write_json(checkpoint / COMPLETE, {path.relative_to(checkpoint).as_posix(): file_digest(path) for path in files})


def damage(checkpoint: Path, ignored: Sequence[str] = ()) -> str | None:
    """Why a checkpoint cannot be trusted; None where all its files are as they were saved.

    Args:
        checkpoint: a directory.
        ignored: patterns of names that need not be there.
    """
    if not (checkpoint / COMPLETE).is_file():
        return f"no {COMPLETE} in it, so it was not written to its end"
    try:
        digests = read_json(checkpoint / COMPLETE)
    except UserError:
        digests = None
    if not isinstance(digests, dict):
        return f"its {COMPLETE} names no files"
    for name, digest in digests.items():
        if any(fnmatch(name.split("/")[0], pattern) for pattern in ignored):
            continue
        path = checkpoint / name
        if not path.is_file() or file_digest(path) != digest:
            return f"its {name} is not the file that was saved"
    return None


def latest_complete_checkpoint(directory: Path) -> Path | None:
    """The `checkpoint-N` with the highest N in `directory` whose files are all as they were saved, or None.

    One that was written to its end and changed since then is left out with a note.
    """
    for _, path in sorted(_checkpoints(directory), reverse=True):
        reason = damage(path)
        if reason is None:
            return path
        if (path / COMPLETE).is_file() and is_main_process():
            note(f"{path}: left out, since {reason}.")
    return None


def remove_incomplete(directory: Path, latest: Path | None) -> None:
    """Removes the checkpoints beyond `latest`, or all: what a kill left of them would be mixed with what comes."""
    for step, path in _checkpoints(directory):
        if latest is None or step > checkpoint_step(latest):
            shutil.rmtree(path)


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
    if reason := damage(path):
        raise UserError(
            f"{path}: not a complete checkpoint ({reason}). "
            "Resume from an earlier one, or pass True for the latest complete one."
        )
    return path


def _checkpoints(directory: Path) -> list[tuple[int, Path]]:
    found = (path for path in directory.glob(f"{_PREFIX}*") if path.name.removeprefix(_PREFIX).isdigit())
    return [(checkpoint_step(path), path) for path in found if path.is_dir()]
