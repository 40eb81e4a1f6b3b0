"""Kukurasu: a naive rule checker, answers that are almost right, and rows in the published format."""

import json
from typing import Any

from pear.tasks import Problem


def naive(state: dict[str, Any], filled: list[list[str]]) -> bool:
    """The rules as the puzzle states them."""
    rows, columns = state["row_sums"], state["column_sums"]
    return all(
        sum(at + 1 for at in range(len(columns)) if filled[row][at] == "1") == rows[row] for row in range(len(rows))
    ) and all(
        sum(row + 1 for row in range(len(rows)) if filled[row][at] == "1") == columns[at] for at in range(len(columns))
    )


def near_misses(problem: Problem) -> list[str]:
    filled = json.loads(problem.answer)
    places = [(row, at) for row in range(len(filled)) for at in range(len(filled[0]))]

    def changed(place: tuple[int, int], cell: Any) -> list[list[Any]]:
        grid = [list(row) for row in filled]
        grid[place[0]][place[1]] = cell
        return grid

    flipped = [changed(place, "X" if filled[place[0]][place[1]] == "1" else "1") for place in places[:6]]
    numbers = [[1 if cell == "1" else "X" for cell in row] for row in filled]
    wrong: list[Any] = [
        *flipped,
        changed(places[-1], "0"),
        changed(places[-1], ""),
        changed(places[0], "x"),
        [[1] * len(filled[0]), *numbers[1:]],
        [[True if cell == "1" else "X" for cell in row] for row in filled] if "1" in filled[0] else [[True]],
        [["X" if cell == "1" else "1" for cell in row] for row in filled],
        [row for row in filled if row is not filled[0]],
        [*filled, filled[0]],
        [[*row, "X"] for row in filled],
        ["".join(row) for row in filled],
        [problem.state["row_sums"], problem.state["column_sums"]],
    ]
    mirrored = [row[::-1] for row in filled]
    if not naive(problem.state, mirrored):
        wrong.append(mirrored)
    return [json.dumps(value) for value in wrong]


def _game(row_sums: list[int], column_sums: list[int], solution: list[str] | None) -> dict[str, Any]:
    metadata = {
        "n": len(row_sums),
        "m": len(column_sums),
        "row_sums": row_sums,
        "col_sums": column_sums,
        "solution": None if solution is None else [list(row) for row in solution],
    }
    return {"question": "Kukurasu", "answer": "", "difficulty": 1, "metadata": metadata, "gpt_response": ""}


GAMES: list[dict[str, Any]] = [
    {
        # Two solutions: the row of sum 3 is 1 + 2 or 3.
        "game": _game([3, 3, 3], [3, 3, 3], ["11X", "11X", "XX1"]),
        "right": [
            '[["1", "1", "X"], ["1", "1", "X"], ["X", "X", "1"]]',
            '[["X", "X", "1"], ["X", "X", "1"], ["1", "1", "X"]]',
        ],
        "wrong": [
            '[["1", "1", "X"], ["X", "X", "1"], ["X", "X", "1"]]',
            '[["1", "1", "1"], ["1", "1", "1"], ["1", "1", "1"]]',
            '[["X", "X", "X"], ["X", "X", "X"], ["X", "X", "X"]]',
        ],
    },
    {
        "game": _game([3, 2], [1, 3, 0], ["11X", "X1X"]),
        "right": ['[["1", "1", "X"], ["X", "1", "X"]]', "```json\n[['1', '1', 'X'], ['X', '1', 'X']]\n```"],
        "wrong": [
            '[["1", "1", "X"], ["X", "X", "1"]]',
            '[["X", "X", "1"], ["X", "1", "X"]]',
            '[[1, 1, "X"], ["X", 1, "X"]]',
            '[["1", "1"], ["X", "1"]]',
            "11X\nX1X",
        ],
    },
]
