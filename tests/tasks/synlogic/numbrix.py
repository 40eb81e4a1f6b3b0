"""Numbrix: a naive rule checker, answers that are almost right, and rows in the published format."""

import json
from typing import Any

from pear.tasks import Problem

Grid = list[list[Any]]


def naive(grid: Grid, filled: Grid) -> bool:
    """The rules as the puzzle states them."""
    size = len(grid)
    cells = [(row, column) for row in range(size) for column in range(size)]
    if sorted(filled[row][column] for row, column in cells) != list(range(1, size * size + 1)):
        return False
    if any(grid[row][column] != "X" and grid[row][column] != filled[row][column] for row, column in cells):
        return False
    steps = [
        abs(row - other_row) + abs(column - other_column)
        for row, column in cells
        for other_row, other_column in cells
        if filled[other_row][other_column] - filled[row][column] == 1
    ]
    return steps == [1] * (size * size - 1)


def near_misses(problem: Problem) -> list[str]:
    grid, solution = problem.state["grid"], json.loads(problem.answer)
    size = len(grid)
    places = [(row, column) for row in range(size) for column in range(size)]
    blanks = [(row, column) for row, column in places if grid[row][column] == "X"]

    def changed(changes: dict[tuple[int, int], Any]) -> Grid:
        copy = [list(line) for line in solution]
        for (row, column), value in changes.items():
            copy[row][column] = value
        return copy

    def value(place: tuple[int, int]) -> int:
        return solution[place[0]][place[1]]

    first, last = blanks[0], blanks[-1]
    almost = [
        *(
            changed({one: value(other), other: value(one)})
            for one in blanks[:2]
            for other in places[::3]
            if one != other
        ),
        *(changed({place: value(place) + 1}) for place in places[::3]),
        [[size * size + 1 - number for number in line] for line in solution],
        [list(line) for line in zip(*solution, strict=True)],
        solution[::-1],
        [[number - 1 for number in line] for line in solution],
        [list(range(1 + size * row, 1 + size + size * row)) for row in range(size)],
    ]
    shapes = [
        changed({first: float(value(first))}),
        changed({first: str(value(first))}),
        changed({last: None}),
        changed({last: [value(last)]}),
        changed({place: True for place in places if value(place) == 1}),
        solution[:-1],
        [*solution, solution[-1]],
        [[*line, 0] for line in solution],
        [solution],
        [number for line in solution for number in line],
        grid,
    ]
    return [
        *(json.dumps(filled) for filled in almost if not naive(grid, filled)),
        *map(json.dumps, shapes),
        "\n".join(" ".join(map(str, line)) for line in solution),
        f"{problem.answer} {problem.answer}",
        problem.answer[:-1],
    ]


_SNAKE = [[1, 2, 3], [6, 5, 4], [7, 8, 9]]
_SPIRAL = [[1, 2, 3], [8, 9, 4], [7, 6, 5]]


def _game(grid: Grid, solution: Grid) -> dict[str, Any]:
    metadata = {"trace_id": "3c2c", "grid": grid, "solution": solution, "n": 3, "fill_rate": 0.3}
    return {"question": f"Numbrix:\n{grid}", "answer": "", "difficulty": 1, "metadata": metadata, "gpt_response": ""}


GAMES: list[dict[str, Any]] = [
    {
        "game": _game([[1, "X", "X"], ["X", "X", "X"], ["X", "X", 9]], _SNAKE),
        # Not only the stored solution is right.
        "right": [
            json.dumps(_SNAKE),
            f"```python\n{_SNAKE}\n```",
            json.dumps([[1, 6, 7], [2, 5, 8], [3, 4, 9]]),
        ],
        "wrong": [json.dumps(_SPIRAL), json.dumps([[1, 2, 3], [4, 5, 6], [7, 8, 9]]), json.dumps(_SNAKE[:2])],
    },
    {
        "game": _game([[1, "X", "X"], [8, 9, "X"], ["X", "X", "X"]], _SPIRAL),
        "right": [json.dumps(_SPIRAL)],
        "wrong": [json.dumps(_SNAKE), '[["1", "2", "3"], ["8", "9", "4"], ["7", "6", "5"]]', "[]"],
    },
]
