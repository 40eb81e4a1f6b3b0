"""`pear tasks`: what can be trained and evaluated on, and what a problem of it looks like."""

import dataclasses
import inspect

from pear.errors import UserError, unknown_name
from pear.tasks import TASKS, FileTask, GeneratedTask
from pear.tasks.levels import read_level


def task_list() -> str:
    """All tasks, one a line: name, levels, whether problems have many solutions, whether there is a solver, source."""
    rows = [
        (
            name,
            "reads a file" if isinstance(task, FileTask) else ", ".join(task.levels),
            "many solutions" if task.many_solutions else "",
            "solver" if _has_solver(task) else "",
            task.source,
        )
        for name, task in TASKS.items()
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join("  ".join([*map(str.ljust, row[:4], widths), row[4]]).rstrip() for row in rows)


def task_page(name: str, *, level: str | None = None, seed: int = 0) -> str:
    """One task: what it is, its levels with their knobs, and for a generated one a problem with a right answer.

    Args:
        name: in `TASKS`.
        level: one of the task's, also with knobs set otherwise (`easy(rows=4)`); the first by default.
        seed: of the problem.

    Raises:
        UserError: no such task, level or knob, or a level or seed for a task that reads files.
    """
    if name not in TASKS:
        raise unknown_name("task", name, TASKS)
    task = TASKS[name]
    parts = [f"{name}\n{inspect.getdoc(task)}", f"Source: {task.source}"]
    if isinstance(task, FileTask):
        if level is not None or seed:
            raise UserError(f"{name}: reads a file, and has no levels and seeds; leave them out.")
        return "\n\n".join([*parts, "Problems are the rows of a file: task=" + name + ",path=FILE"])
    chosen = task.levels[0] if level is None else level
    if task.knobs:
        read_level(chosen, task.knobs)
    elif chosen not in task.levels:
        raise unknown_name(f"level of {name}", chosen, task.levels)
    problem = task.generate(seed, chosen)
    parts += [
        "Levels:\n" + "\n".join(f"  {text}" for text in _levels(task)),
        f"Many solutions: {_yes(task.many_solutions)}. Solver: {_yes(_has_solver(task))}.",
        f"A problem ({problem.id}):\n\n{problem.prompt[0]['content']}",
        f"A right answer:\n\n{problem.answer}",
    ]
    return "\n\n".join(parts)


def task_markdown() -> str:
    """The page `docs/tasks.md`."""
    parts = [
        "# Tasks",
        "Made by `pear tasks --markdown`. A problem set names a task, and of a generated one the level and, where they "
        "differ from the level's, the knobs: `{task: synlogic/survo, level: easy, knobs: {missing: 5}, split: sft, "
        "size: 100}`. Problems of a task that reads a file come from its rows: `{task: maths/math500, path: "
        "test.jsonl}`. `pear tasks NAME --level LEVEL --seed N` shows any problem.",
        "| task | levels | many solutions | solver | source |\n|---|---|---|---|---|\n"
        + "\n".join(
            f"| `{name}` | {'a file' if isinstance(task, FileTask) else ', '.join(task.levels)} | "
            f"{_yes(task.many_solutions)} | {_yes(_has_solver(task))} | {task.source} |"
            for name, task in TASKS.items()
        ),
    ]
    for name, task in TASKS.items():
        parts += [f"## {name}", inspect.getdoc(task) or ""]
        if isinstance(task, GeneratedTask):
            problem = task.generate(0, task.levels[0])
            parts += [
                "\n".join(f"- `{text}`" for text in _levels(task)),
                f"A problem, seed 0 of `{problem.level}`:",
                _block(problem.prompt[0]["content"]),
                "A right answer:",
                _block(problem.answer),
            ]
    return "\n\n".join(parts) + "\n"


def _levels(task: GeneratedTask) -> list[str]:
    """Each level with its knobs, as a level's text is written."""
    if not task.knobs:
        return list(task.levels)
    return [
        f"{level}({', '.join(f'{key}={value}' for key, value in dataclasses.asdict(task.knobs[level]).items())})"
        for level in task.levels
    ]


def _has_solver(task: GeneratedTask | FileTask) -> bool:
    return isinstance(task, GeneratedTask) and type(task).solve is not GeneratedTask.solve


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _block(text: str) -> str:
    """A code block whose fence is longer than any in the text."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}text\n{text}\n{fence}"
