"""Arrow maze: a naive rule checker, answers that are almost right, and rows in the published format."""

import json
from typing import Any

from pear.tasks import Problem

Grid = list[list[str]]
DIRECTIONS = dict(zip("↖↑↗←→↙↓↘", [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if a or b], strict=True))


def naive(maze: Grid, filled: Grid) -> bool:
    """The rules as the puzzle states them: each arrow is followed back to where its line starts."""
    cells = {(row, at): cell for row, line in enumerate(filled) for at, cell in enumerate(line)}
    for place, cell in cells.items():
        given = maze[place[0]][place[1]]
        if cell != given if given != "X" else cell not in DIRECTIONS:
            return False
    counts = {place: 0 for place, cell in cells.items() if cell not in DIRECTIONS}
    for place, arrow in cells.items():
        if arrow in DIRECTIONS:
            down, right = DIRECTIONS[arrow]
            start = place
            while cells.get(start) == arrow:
                start = (start[0] - down, start[1] - right)
            if start not in counts:
                return False
            counts[start] += 1
    return all(count == int(cells[place]) for place, count in counts.items())


def near_misses(problem: Problem) -> list[str]:
    maze = problem.state["maze"]
    filled = json.loads(problem.answer)
    places = [(row, at) for row, line in enumerate(filled) for at, _ in enumerate(line)]
    arrows = [place for place in places if filled[place[0]][place[1]] in DIRECTIONS]
    number = next(place for place in places if place not in arrows)

    def changed(place: tuple[int, int], cell: Any) -> list[list[Any]]:
        grid = [list(row) for row in filled]
        grid[place[0]][place[1]] = cell
        return grid

    turned = [
        changed(place, arrow)
        for place in arrows[:3]
        for arrow in DIRECTIONS
        if arrow != filled[place[0]][place[1]] and not naive(maze, changed(place, arrow))
    ]
    value = filled[number[0]][number[1]]
    wrong: list[Any] = [
        *turned,
        changed(number, str(int(value) + 1)),
        changed(number, int(value)),
        changed(number, "↑"),
        changed(number, f"0{value}"),
        changed(arrows[0], "X"),
        changed(arrows[0], "^"),
        changed(arrows[0], ""),
        changed(arrows[-1], "0"),
        changed(arrows[-1], "1"),
        filled[:-1],
        [*filled, filled[0]],
        [row[1:] for row in filled],
        ["".join(row) for row in filled],
    ]
    if maze != filled:
        wrong.append(maze)
    return [json.dumps(value, ensure_ascii=False) for value in wrong]


def _game(maze: list[str], solution: list[str] | None) -> dict[str, Any]:
    metadata = {
        "maze": [list(row) for row in maze],
        "solution": None if solution is None else [list(row) for row in solution],
    }
    return {"question": "Arrows", "answer": "", "difficulty": 1, "metadata": metadata, "gpt_response": ""}


GAMES: list[dict[str, Any]] = [
    {
        "game": _game(["X2X"], ["←2→"]),
        "right": ['[["←", "2", "→"]]', '```json\n[["←", "2", "→"]]\n```'],
        "wrong": ['[["→", "2", "←"]]', '[["←", "2", "↑"]]', '[["←", 2, "→"]]', '[["X", "2", "X"]]', "←2→"],
    },
    {
        "game": _game(["3XX", "↓X1"], ["3→→", "↓←1"]),
        "right": ['[["3", "→", "→"], ["↓", "←", "1"]]', '[["3", "→", "↑"], ["↓", "↘", "1"]]'],
        "wrong": [
            '[["3", "→", "→"], ["↓", "↘", "1"]]',
            '[["3", "→", "→"], ["→", "←", "1"]]',
            '[["3", "→", "↑"], ["↓", "↑", "1"]]',
            '[["3", "→", "→"], ["↓", "←", "2"]]',
        ],
    },
]
