"""No behavior policy at hand: log-probs of an estimate of it, fitted to the trajectories themselves.

Trajectories are dealt to folds by problem. For each fold a model is trained by plain SFT on all the others, right and
wrong ones alike, since the policy that is estimated made both; then it scores the fold, of which it has seen nothing.
"""

import shutil
from array import array
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pear.errors import UserError
from pear.runs import SCRATCH, Files, Run, note, sha256

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from pear.engines import Engine
    from pear.training.sft_config import PearConfig

_JOURNAL = "scores.json"
_SHARD = 1024
Rows = Sequence[Mapping[str, Any]]


def deal(problem_ids: Sequence[str], folds: int, seed: int) -> list[int]:
    """The fold of each trajectory: problems in the order of a seeded hash, dealt one by one.

    >>> deal(["a", "b", "a", "c"], 2, seed=0)
    [0, 1, 0, 0]
    """
    problems = sorted(set(problem_ids), key=lambda problem: sha256(f"{seed}/{problem}"))
    place = {problem: number % folds for number, problem in enumerate(problems)}
    return [place[problem] for problem in problem_ids]


def check_fit(
    rows: Rows, tokenizer: "PreTrainedTokenizerBase", *, folds: int, fit: Mapping[str, Any], seed: int, where: Path
) -> None:
    """Everything about fitting that can be wrong with what the user gave.

    Raises:
        UserError: an unknown key of `fit`, fewer problems than folds, or a trajectory that is too long.
    """
    from pear.training.sft_data import DataNeeds, checked_trajectories

    args = _arguments(where / SCRATCH, fit, seed)
    problems = len({row["problem_id"] for row in rows})
    if problems < folds:
        raise UserError(f"folds: {folds} of them, and the trajectories are of {problems} problems. Use fewer folds.")
    checked_trajectories(
        _dataset(rows), tokenizer, needs=DataNeeds(), max_length=args.max_length, overflow="error", name="inputs"
    )


def cross_fitted_log_probs(
    rows: Rows,
    model: str,
    tokenizer: "PreTrainedTokenizerBase",
    run_dir: Run,
    *,
    folds: int,
    fit: Mapping[str, Any],
    seed: int,
    open_model: Callable[[str], "Engine"],
) -> list["array[float]"]:
    """Log-probs of each row's completion under the model that was fitted to the other folds.

    A killed run goes on in the fold where it was: with the scores that are there, or from the last checkpoint.

    Args:
        rows: with `problem_id`, `behavior_prompt_ids` and `completion_ids`.
        model: what is fitted, and `tokenizer`, its own.
        run_dir: an open run; everything is written to its scratch.
        folds, fit, seed: as in `ScoreConfig`.
        open_model: opens the engine that scores with a model's directory.
    """
    import pyarrow
    import pyarrow.parquet

    from pear.engines.protocol import derive_seed
    from pear.training.sft_run import train_and_save

    files = Files(run_dir.scratch, run_dir.scratch / _JOURNAL)
    fold_of = deal([row["problem_id"] for row in rows], folds, seed)
    found: list[array[float]] = [array("f")] * len(rows)
    for fold in range(folds):
        run_dir.progress(fold, folds, "folds")
        inside = [number for number, own in enumerate(fold_of) if own == fold]
        names = {start: f"fold-{fold:03d}-{start:08d}.parquet" for start in range(0, len(inside), _SHARD)}
        fitted = Run(run_dir.scratch / f"fold-{fold:03d}", {})
        if missing := [start for start, name in names.items() if not files.has(name)]:
            note(f"Fold {fold + 1} of {folds}: fitting to {len(rows) - len(inside)} trajectories.")
            fitted.scratch.mkdir(parents=True, exist_ok=True)
            others = [row for row, own in zip(rows, fold_of, strict=True) if own != fold]
            args = _arguments(fitted.scratch, fit, derive_seed(seed, "fold", fold) >> 32)
            train_and_save(model, tokenizer, _dataset(others), fitted, args)
            with closing(open_model(str(fitted.work))) as engine:
                for start in missing:
                    chosen = [rows[number] for number in inside[start : start + _SHARD]]
                    prompts = [row["behavior_prompt_ids"] for row in chosen]
                    log_probs = engine.score(prompts, [row["completion_ids"] for row in chosen])
                    with files.writing(names[start]) as temporary:
                        column = pyarrow.array(log_probs, type=pyarrow.list_(pyarrow.float32()))
                        pyarrow.parquet.write_table(pyarrow.table({"log_probs": column}), temporary)
        if fitted.work.is_dir():
            shutil.rmtree(fitted.work)
        for start, name in names.items():
            column = pyarrow.parquet.read_table(run_dir.scratch / name)["log_probs"]
            for number, values in zip(inside[start : start + _SHARD], column, strict=True):
                found[number] = array("f", values.values.to_numpy())
    return found


def _arguments(checkpoints: Path, fit: Mapping[str, Any], seed: int) -> "PearConfig":
    from pear.training.sft_run import sft_arguments

    trainer = {"max_length": None, **fit}  # no trajectory is too long unless the user says so
    try:
        return sft_arguments(checkpoints, objective="nll", objective_kwargs={}, seed=seed, trainer=trainer)
    except UserError as error:
        raise UserError(f"fit: {error}") from None


def _dataset(rows: Rows) -> "Dataset":
    from datasets import Dataset

    return Dataset.from_dict(
        {
            "prompt_ids": [list(row["behavior_prompt_ids"]) for row in rows],
            "completion_ids": [list(row["completion_ids"]) for row in rows],
        }
    )
