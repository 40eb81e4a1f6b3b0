"""Number wall: a naive rule checker, answers that are almost right, and rows in the published format."""

import json
from typing import Any

from pear.tasks import Problem

Grid = list[list[Any]]


def naive(grid: Grid, filled: Grid) -> bool:
    """The rules as the puzzle states them; islands are found by joining labels."""
    size = range(len(grid))
    cells = [(row, column) for row in size for column in size]
    if any(
        (type(grid[row][column]) is int or type(filled[row][column]) is int)
        and grid[row][column] != filled[row][column]
        for row, column in cells
    ):
        return False
    label = {cell: cell for cell in cells if filled[cell[0]][cell[1]] != "A"}
    for _ in cells:
        for row, column in label:
            for near in ((row + 1, column), (row, column + 1), (row - 1, column), (row, column - 1)):
                if near in label:
                    label[row, column] = min(label[row, column], label[near])
    islands: dict[tuple[int, int], list[Any]] = {}
    for (row, column), name in label.items():
        islands.setdefault(name, []).append(filled[row][column])
    for members in islands.values():
        numbers = [member for member in members if member != "X"]
        if numbers != [len(members)]:
            return False
    touching = any(
        label[one] != label[other] and abs(one[0] - other[0]) <= 1 and abs(one[1] - other[1]) <= 1
        for one in label
        for other in label
    )
    squares = [
        {(row, column), (row + 1, column), (row, column + 1), (row + 1, column + 1)}
        for row in size[:-1]
        for column in size[:-1]
    ]
    return not touching and all(square & label.keys() for square in squares)


def near_misses(problem: Problem) -> list[str]:
    grid = problem.state["grid"]
    solution = json.loads(problem.answer)
    places = [(row, column) for row, line in enumerate(solution) for column, _ in enumerate(line)]
    numbers = [place for place in places if type(solution[place[0]][place[1]]) is int]
    walls = [place for place in places if solution[place[0]][place[1]] == "A"]
    land = [place for place in places if solution[place[0]][place[1]] == "X"]

    def changed(place: tuple[int, int], cell: Any) -> Grid:
        other = [list(row) for row in solution]
        other[place[0]][place[1]] = cell
        return other

    number = numbers[0]
    wrong: list[Grid] = [
        changed(number, "A"),
        changed(number, "X"),
        changed(number, solution[number[0]][number[1]] + 1),
        changed(number, str(solution[number[0]][number[1]])),
        changed(number, float(solution[number[0]][number[1]])),
        changed(walls[0], 1),
        changed(walls[-1], "B"),
        changed(walls[0], True),
        grid,
        solution[:-1],
        [*solution, solution[0]],
        [row[1:] for row in solution],
        *(changed(place, "X") for place in walls if not naive(grid, changed(place, "X"))),
        *(changed(place, "A") for place in land),
        [["A" if cell == "X" else "X" if cell == "A" else cell for cell in row] for row in solution],
    ]
    return ["\n".join(" ".join(map(str, row)) for row in solution), *[json.dumps(other) for other in wrong][:40]]


def _game(grid: list[str], solution: list[str] | None) -> dict[str, Any]:
    def read(rows: list[str]) -> Grid:
        return [[int(cell) if cell.isdigit() else cell for cell in row] for row in rows]

    metadata = {"n": len(grid), "grid": read(grid), "solution": None if solution is None else read(solution)}
    return {"question": "Number wall", "answer": "", "difficulty": 1, "metadata": metadata, "gpt_response": ""}


GAMES: list[dict[str, Any]] = [
    {
        "game": _game(["XXXX", "1X1X", "XXXX", "X3XX"], ["AAAA", "1A1A", "AAAA", "X3XA"]),
        "right": [
            '[["A", "A", "A", "A"], [1, "A", 1, "A"], ["A", "A", "A", "A"], ["X", 3, "X", "A"]]',
            '[["A", "A", "A", "A"], [1, "A", 1, "A"], ["A", "A", "A", "A"], ["A", 3, "X", "X"]]',
        ],
        "wrong": [
            '[["A", "A", "A", "A"], [1, "A", 1, "A"], ["A", "X", "A", "A"], ["A", 3, "X", "A"]]',
            '[["A", "A", "A", "A"], [1, "A", 1, "A"], ["A", "A", "A", "A"], ["X", 3, "A", "A"]]',
            '[["A", "A", "A", "A"], ["1", "A", "1", "A"], ["A", "A", "A", "A"], ["X", "3", "X", "A"]]',
        ],
    },
    {
        "game": _game(["1X1", "XXX", "1X1"], ["1A1", "AAA", "1A1"]),
        "right": [
            '[[1, "A", 1], ["A", "A", "A"], [1, "A", 1]]',
            "```json\n[[1, 'A', 1], ['A', 'A', 'A'], [1, 'A', 1]]\n```",
        ],
        "wrong": [
            '[[1, "A", 1], ["A", "X", "A"], [1, "A", 1]]',
            '[[1, "X", 1], ["X", "X", "X"], [1, "X", 1]]',
            "[[1, A, 1], [A, A, A], [1, A, 1]]",
        ],
    },
]
