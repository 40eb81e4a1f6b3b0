"""ARC-AGI: find the rule that turns grids of colors into others, and apply it. Tasks are given, not generated."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pear.errors import UserError
from pear.tasks.extraction import INSTRUCTION, parse_literal, unwrap
from pear.tasks.protocol import FileTask, Problem, Verdict, judge
from pear.tasks.synlogic.grids import Place, integer_grid, write_rows

Grid = list[list[int]]
_MOST = 30
_COLORS = range(10)


class ArcAgi(FileTask):
    """Rows in the form of the ARC data sets: `train` and `test`, lists of pairs `{"input": grid, "output": grid}`.

    Grids have 1 to 30 rows and columns of integers from 0 to 9. Every test pair is a problem of its own, shown with all
    train pairs. Rows with equal problems are one. The answer is the output grid as JSON, and has to be equal.
    """

    name = "synlogic/arc_agi"
    levels = ("file",)
    source = (
        "files of ARC-AGI tasks (arXiv 1911.01547), as in SynLogic's task `arc_agi`; the verifier is this package's"
    )

    def read(self, rows: Sequence[dict[str, Any]], *, origin: str) -> list[Problem]:
        problems: dict[str, Problem] = {}
        for number, row in enumerate(rows, 1):
            try:
                examples = [_pair(value) for value in _pairs(row, "train")]
                tests = [_pair(value) for value in _pairs(row, "test")]
            except ValueError as error:
                raise UserError(
                    f"{origin}, row {number}: {error}. Expected `train` and `test`, lists of "
                    '{"input": grid, "output": grid}, as in the ARC data sets.'
                ) from None
            for given, output in tests:
                problem = self._problem(examples, given, output)
                problems.setdefault(problem.id, problem)
        return list(problems.values())

    def verify(self, problem: Problem, completion: str) -> Verdict:
        return judge(completion, lambda answer: self.check(problem, answer))

    def check(self, problem: Problem, answer: str) -> tuple[str, str]:
        """As a generated task's: the grid's canonical text and, where it is another than the output, the reason."""
        output: Grid = problem.state["output"]
        found = _grid(parse_literal(unwrap(answer)))
        return json.dumps(found), _difference(found, output)

    def canonical(self, problem: Problem) -> str:
        """What the order of the examples and renaming the colors leave alone, as far as reading order tells colors
        apart."""
        state = problem.state
        if "examples" not in state:
            return f"{self.name}:{json.dumps(state['output'])}:{_digest(problem.prompt[-1]['content'])}"
        names: dict[int, int] = {}
        grids = [state["input"], state["output"], *(grid for pair in sorted(state["examples"]) for grid in pair)]
        renamed = [[[names.setdefault(color, len(names)) for color in row] for row in grid] for grid in grids]
        return f"{self.name}:{json.dumps(renamed)}"

    def _problem(self, examples: list[tuple[Grid, Grid]], given: Grid, output: Grid) -> Problem:
        state = {"examples": [list(pair) for pair in examples], "input": given, "output": output}
        digest = _digest(json.dumps(state))
        return Problem(
            task=self.name,
            level=self.levels[0],
            id=f"{self.name}/{self.levels[0]}/{digest}",
            prompt=({"role": "user", "content": _question(examples, given)},),
            state=state,
            answer=json.dumps(output),
        )


def from_game(game: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The state and the right answer of a published row, whose `answer` is the output grid (its examples stand in the
    prompt alone). Raises `ValueError` where it is none."""
    value = game.get("answer")
    output = _grid(parse_literal(value) if isinstance(value, str) else value)
    return {"output": output}, json.dumps(output)


def _question(examples: Sequence[tuple[Grid, Grid]], given: Grid) -> str:
    shown = "\n\n".join(
        f"Example {number}, input:\n{write_rows(before)}\nExample {number}, output:\n{write_rows(after)}"
        for number, (before, after) in enumerate(examples, 1)
    )
    return (
        f"{INSTRUCTION}\n\n"
        "One rule turns each input grid into its output grid. Every cell is a color, an integer from 0 to 9; an output "
        "may have another size than its input. Find the rule from the examples, and apply it to the last input.\n\n"
        f"{shown}\n\n"
        f"Input:\n{write_rows(given)}\n\n"
        "The answer is the output grid as JSON, a list of rows, like [[3, 0, 3], [1, 1, 1]]."
    )


def _pairs(row: Mapping[str, Any], key: str) -> list[Any]:
    value = row.get(key)
    if isinstance(value, str):
        value = parse_literal(value)
    if not isinstance(value, list) or not value:
        raise ValueError(f"the column '{key}' is missing or not a list of pairs")
    return value


def _pair(value: Any) -> tuple[Grid, Grid]:
    if not isinstance(value, Mapping) or not {"input", "output"} <= value.keys():
        raise ValueError("a pair lacks 'input' or 'output'")
    return _grid(value["input"]), _grid(value["output"])


def _grid(value: Any) -> Grid:
    rows = len(value) if isinstance(value, list | tuple) else 0
    columns = len(value[0]) if rows and isinstance(value[0], list | tuple) else 0
    if not (1 <= rows <= _MOST and 1 <= columns <= _MOST):
        raise ValueError(f"a grid has not from 1 to {_MOST} rows and columns")
    grid = integer_grid(value, rows, columns)
    if any(color not in _COLORS for row in grid for color in row):
        raise ValueError("a color is not an integer from 0 to 9")
    return grid


def _difference(found: Grid, output: Grid) -> str:
    if (len(found), len(found[0])) != (len(output), len(output[0])):
        return "the grid has another size than the output"
    wrong: list[Place] = [
        (row, column)
        for row, line in enumerate(output)
        for column, color in enumerate(line)
        if found[row][column] != color
    ]
    return f"{len(wrong)} cell(s) have another color" if wrong else ""


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]
