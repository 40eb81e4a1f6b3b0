"""`pear pretrain`: a tiny language model from scratch, on a task's solver traces."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from pear.configuration import NotHashed, StrictModel
from pear.errors import UserError
from pear.runs import Run, note, open_run
from pear.tasks import TASKS, GeneratedTask, Problem
from pear.tasks.problems import ProblemSet, load_problems, task_versions

if TYPE_CHECKING:
    from pear.training.sft_config import PearConfig

NAME = "pretrain"
VERSION = 1


class PretrainConfig(StrictModel):
    """A Qwen3 of a given size, trained from scratch with NLL on solver traces.

    Args:
        problems: what it learns; the tasks need a solver and a vocabulary.
        shares: each set's share of the training data, one number per set; small sets are gone through several times.
            By default every problem occurs once.
        examples: size of the training data where `shares` are given.
        hidden_size: width; the feed-forward part is four times as wide.
        num_layers: transformer blocks.
        num_heads: attention heads.
        seed: decides the first weights and the order of the data.
        trainer: fields of `PearConfig`, such as max_steps and learning_rate.
        output_dir: where the model goes.
    """

    problems: Annotated[list[ProblemSet], Field(min_length=1)]
    shares: list[Annotated[float, Field(gt=0)]] | None = None
    examples: Annotated[int | None, Field(gt=0)] = None
    hidden_size: Annotated[int, Field(gt=0)] = 64
    num_layers: Annotated[int, Field(gt=0)] = 2
    num_heads: Annotated[int, Field(gt=0)] = 4
    seed: int = 0
    trainer: dict[str, Any] = {}
    output_dir: Annotated[Path, NotHashed()]


def run(config: PretrainConfig) -> Path:
    """Trains the model and writes it with its tokenizer. Raises `UserError` for a task without solver or vocabulary."""
    vocabulary = _vocabulary(config.problems)
    if config.hidden_size % config.num_heads:
        raise UserError(f"hidden_size: {config.hidden_size} is not a multiple of num_heads ({config.num_heads}).")
    if (config.shares is None) != (config.examples is None):
        raise UserError("shares and examples belong together: give both or neither.")
    if config.shares is not None and len(config.shares) != len(config.problems):
        raise UserError(f"shares: {len(config.shares)} numbers for {len(config.problems)} problem sets.")
    _training_arguments(config, config.output_dir)
    with open_run(NAME, VERSION, config, config.output_dir, parts=task_versions(config.problems)) as run_dir:
        if run_dir.complete:
            note(f"{config.output_dir}: complete, nothing to do.")
            return run_dir.output_dir
        return _train(config, vocabulary, run_dir)


def _vocabulary(sets: list[ProblemSet]) -> tuple[str, ...]:
    words: dict[str, None] = {}
    for name in task_versions(sets):
        task = TASKS[name.removeprefix("task:")]
        if not isinstance(task, GeneratedTask) or not task.vocabulary:
            raise UserError(f"{task.name}: has no vocabulary for a model from scratch. Use one of the tiny/ tasks.")
        words.update(dict.fromkeys(task.vocabulary))
    return tuple(words)


def _training_arguments(config: PretrainConfig, checkpoints: Path) -> "PearConfig":
    from pear.training.sft_run import sft_arguments

    return sft_arguments(checkpoints, objective="nll", objective_kwargs={}, seed=config.seed, trainer=config.trainer)


def _train(config: PretrainConfig, vocabulary: tuple[str, ...], run_dir: Run) -> Path:
    import torch
    from datasets import Dataset

    from pear.training.sft_run import train_and_save
    from pear.training.tiny_models import build_model, build_tokenizer

    tokenizer = build_tokenizer(vocabulary)
    torch.manual_seed(config.seed)
    model = build_model(
        tokenizer, hidden_size=config.hidden_size, num_layers=config.num_layers, num_heads=config.num_heads
    )
    problems = _training_problems(config)
    dataset = Dataset.from_dict(
        {
            "prompt": [list(problem.prompt) for problem in problems],
            "completion_ids": [_solution_ids(problem, tokenizer) for problem in problems],
        }
    )
    args = _training_arguments(config, run_dir.scratch)
    results = train_and_save(model, tokenizer, dataset, run_dir, args)
    return run_dir.finish({**results, "num_parameters": model.num_parameters()})


def _training_problems(config: PretrainConfig) -> list[Problem]:
    if config.shares is None or config.examples is None:
        return load_problems(config.problems)
    problems: list[Problem] = []
    for problem_set, share in zip(config.problems, config.shares, strict=True):
        of_set = load_problems([problem_set])
        wanted = round(config.examples * share / sum(config.shares))
        problems += [of_set[index % len(of_set)] for index in range(wanted)]
    return problems


def _solution_ids(problem: Problem, tokenizer: Any) -> list[int]:
    task = TASKS[problem.task]
    solution = task.solve(problem) if isinstance(task, GeneratedTask) else None
    if solution is None:
        raise UserError(f"{problem.task}: has no solver, so there is no trace to learn from.")
    return [*tokenizer(solution, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
