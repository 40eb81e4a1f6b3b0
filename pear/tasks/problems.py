"""Sets of problems: which task, level and split, how many; splits never overlap."""

import csv
import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from pear.configuration import NotHashed, StrictModel
from pear.errors import UserError, unknown_name
from pear.tasks import TASKS
from pear.tasks.levels import read_level, write_level
from pear.tasks.protocol import FileTask, GeneratedTask, Problem

Split = Literal["sft", "rl", "dev", "eval"]
_LATER = ("knobs", "problem_column", "answer_column", "weight")

# A split owns a range of seeds and a range of the canonical form's hash, so that no problem, nor one that is equal up
# to the task's symmetries, can be in two of them.
_SEEDS_PER_SPLIT = 1 << 40
_BUCKETS: dict[str, range] = {"sft": range(0, 10), "rl": range(10, 13), "dev": range(13, 14), "eval": range(14, 16)}
# Seeds in a row without a new problem of the split before the level counts as exhausted.
_TRIES_PER_PROBLEM = 5_000


class ProblemSet(StrictModel):
    """Problems of one task.

    Args:
        task: a name in `TASKS`.
        level: one of the task's levels; the first by default.
        knobs: settings of difficulty that differ from the level's, for tasks that have such.
        split: sft, rl, dev or eval; disjoint by seed and by canonical form. Required for generated tasks; for files,
            none takes every row.
        size: how many distinct problems. Required for generated tasks; for files, the first `size` of them.
        weight: of a mix (`pear collect` with its own `size`), in place of `size`: this set's part, in proportion to the
            other sets' weights.
        offset: how many problems of the split to leave out first.
        path: the file of a file task (.jsonl, .json, .csv or .parquet).
        problem_column: the column of a file that holds the problem, for tasks that read any column (`maths/file`).
        answer_column: the column that holds the final answer, likewise.
    """

    task: str
    level: str | None = None
    knobs: dict[str, bool | int | float | str] = {}
    split: Split | None = None
    size: Annotated[int | None, Field(gt=0)] = None
    weight: Annotated[float | None, Field(gt=0)] = None
    offset: Annotated[int, Field(ge=0)] = 0
    path: Annotated[Path | None, NotHashed()] = None
    problem_column: str | None = None
    answer_column: str | None = None

    def hashed(self) -> dict[str, Any]:
        """Without knobs, columns and weight where none is set, as before there were any."""
        return {name: value for name, value in super().hashed().items() if name not in _LATER or value}


def task_versions(sets: Sequence[ProblemSet]) -> dict[str, int]:
    """The version of every task that the sets name, for fingerprints."""
    return {f"task:{item.task}": _task(item.task).version for item in sets}


def task_files(sets: Sequence[ProblemSet], name: str = "problems") -> dict[str, Path]:
    """The files that the sets of a configuration's key name, as inputs of a stage."""
    return {f"{name}_{index}": item.path for index, item in enumerate(sets) if item.path is not None}


def load_problems(sets: Sequence[ProblemSet]) -> list[Problem]:
    """The problems of all sets, in order. Raises `UserError` on what cannot be had, and where nothing is left."""
    if not sets:
        raise UserError("problems: no set of problems is given.")
    problems = [problem for item in sets for problem in _load(item)]
    seen: set[str] = set()
    for problem in problems:
        if problem.id in seen:
            raise UserError(f"problems: '{problem.id}' is in two sets. Use an offset, another split or another level.")
        seen.add(problem.id)
    return problems


def _task(name: str) -> GeneratedTask | FileTask:
    if name not in TASKS:
        raise unknown_name("task", name, TASKS)
    return TASKS[name]


def _load(item: ProblemSet) -> list[Problem]:
    if item.weight is not None:
        raise UserError(f"{item.task}: `weight` is for the mixes of `pear collect`; set `size` and leave it out.")
    if item.size is None and isinstance(_task(item.task), GeneratedTask):
        raise _needs_size(item)
    return list(itertools.islice(open_set(item), item.size))


def open_set(item: ProblemSet) -> Iterator[Problem]:
    """The problems of a set after its offset, in order, as many as there are; the first `size` of them are the set.

    Raises `UserError`: at once where the set cannot be had, and at the end where more were asked for: by `size`, by
    `weight`, or because a generated set has no end of its own.
    """
    task = _task(item.task)
    return _generated(task, item) if isinstance(task, GeneratedTask) else _read(task, item)


def _read(task: FileTask, item: ProblemSet) -> Iterator[Problem]:
    if item.path is None:
        raise UserError(f"{item.task}: reads a file; set `path`.")
    if item.level is not None or item.knobs:
        raise UserError(f"{item.task}: a file has no levels; leave `level` and `knobs` out.")
    if item.problem_column is not None or item.answer_column is not None:
        task = task.with_columns(item.problem_column, item.answer_column)
    found = task.read(read_rows(item.path), origin=str(item.path))
    if item.split is not None:
        found = [problem for problem in found if _bucket(task, problem) in _BUCKETS[item.split]]
    of_split = "" if item.split is None else f" in split '{item.split}'"
    asked = f"size {item.size or 'all'}" if item.weight is None else "the mix"
    too_few = UserError(
        f"{item.path}: has {len(found)} distinct problems{of_split}; offset {item.offset} and {asked} ask for more. "
        "Make them smaller."
    )
    if item.offset + (item.size or 1) > len(found):
        raise too_few
    return _then(found[item.offset :], None if item.size is None and item.weight is None else too_few)


def _then(problems: Sequence[Problem], too_few: UserError | None) -> Iterator[Problem]:
    yield from problems
    if too_few is not None:
        raise too_few


def _generated(task: GeneratedTask, item: ProblemSet) -> Iterator[Problem]:
    level = _level(task, item)
    if item.split is None:
        raise _needs_size(item)
    if item.path is not None:
        raise UserError(f"{task.name}: problems are generated; leave `path` out.")
    if item.problem_column is not None or item.answer_column is not None:
        raise UserError(f"{task.name}: problems are generated; leave `problem_column` and `answer_column` out.")
    return itertools.islice(_generate(task, level, item), item.offset, None)


def _needs_size(item: ProblemSet) -> UserError:
    return UserError(f"{item.task}: problems are generated; set `split` and `size`.")


def _generate(task: GeneratedTask, level: str, item: ProblemSet) -> Iterator[Problem]:
    assert item.split is not None
    seen: set[bytes] = set()
    seed = last = list(_BUCKETS).index(item.split) * _SEEDS_PER_SPLIT
    while seed - last < _TRIES_PER_PROBLEM:
        problem = task.generate(seed, level)
        digest = _digest(task.canonical(problem))
        if digest not in seen and digest[0] % 16 in _BUCKETS[item.split]:
            seen.add(digest)
            yield problem
            last = seed
        seed += 1
    wanted = "more are" if item.size is None else item.offset + item.size
    raise UserError(
        f"{task.name}/{level}: only {len(seen)} distinct problems found for split '{item.split}', {wanted} wanted. "
        "Ask for fewer, or for a level with more."
    )


def _level(task: GeneratedTask, item: ProblemSet) -> str:
    name = task.levels[0] if item.level is None else item.level
    if name not in task.levels:
        raise unknown_name(f"level of {task.name}", name, task.levels)
    if not item.knobs:
        return name
    if not task.knobs:
        raise UserError(f"{task.name}: has no knobs, only the levels {', '.join(task.levels)}.")
    level = write_level(name, item.knobs)
    read_level(level, task.knobs)
    return level


def _bucket(task: GeneratedTask | FileTask, problem: Problem) -> int:
    return _digest(task.canonical(problem))[0] % 16


def _digest(canonical: str) -> bytes:
    return hashlib.sha256(canonical.encode()).digest()


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a .jsonl, .json (a list), .csv or .parquet file. Raises `UserError` naming the file and line."""
    if not path.is_file():
        raise UserError(f"{path}: no such file.")
    if path.suffix == ".parquet":
        return _read_parquet(path)
    try:
        # -sig: spreadsheets put a byte-order mark first.
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix == ".jsonl":
                return list(_json_lines(file, path))
            if path.suffix == ".csv":
                return list(csv.DictReader(file))
            if path.suffix == ".json":
                rows = json.load(file)
                if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                    raise UserError(f"{path}: expected a list of objects.")
                return rows
    except (ValueError, RecursionError, csv.Error) as error:
        raise UserError(f"{path}: not readable as {path.suffix[1:]} ({error}).") from None
    raise UserError(f"{path}: unknown file type '{path.suffix}'. Known: .jsonl, .json, .csv, .parquet.")


def _json_lines(file: Any, path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: not valid JSON ({error}).") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}: expected an object, got {type(row).__name__}.")
        yield row


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: not readable as Parquet ({error}).") from None
    return rows
