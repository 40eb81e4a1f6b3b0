"""Star placement: a naive rule checker, answers that are almost right, and rows in the published format."""

import ast
from typing import Any

from pear.tasks import Problem

Stars = list[tuple[int, int]]


def naive(regions: list[list[str]], k: int, stars: Stars) -> bool:
    """The rules as the puzzle states them; stars are (row, column), counted from 1."""
    size = range(1, len(regions) + 1)
    labels = {label for row in regions for label in row}
    return (
        len(set(stars)) == len(stars)
        and all(sum(row == line for row, _ in stars) == k for line in size)
        and all(sum(column == line for _, column in stars) == k for line in size)
        and all(sum(regions[row - 1][column - 1] == label for row, column in stars) == k for label in labels)
        and not any(
            one != other and max(abs(one[0] - other[0]), abs(one[1] - other[1])) == 1
            for one in stars
            for other in stars
        )
    )


def by_region(regions: list[list[str]], stars: Stars) -> dict[str, Stars]:
    found: dict[str, Stars] = {}
    for row, column in stars:
        found.setdefault(regions[row - 1][column - 1], []).append((row, column))
    return found


def near_misses(problem: Problem) -> list[str]:
    regions, k = problem.state["regions"], problem.state["k"]
    gold: dict[str, Stars] = ast.literal_eval(problem.answer)
    stars = [star for own in gold.values() for star in own]
    size = len(regions)
    label, (first, *rest) = next(iter(gold.items()))
    last = list(gold)[-1]
    moved = []
    for step in ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (2, 1)):
        star = (first[0] + step[0], first[1] + step[1])
        if 1 <= star[0] <= size and 1 <= star[1] <= size:
            others = [star, *(other for other in stars if other != first)]
            if not naive(regions, k, others):
                moved.append(repr(by_region(regions, others)))
    return [
        *moved,
        repr({**gold, label: rest}),
        repr({**gold, label: [first, first, *rest]}),
        repr({name: own for name, own in gold.items() if name != label}),
        repr({**gold, label: gold[last], last: gold[label]}),
        repr({**gold, label: [[str(number) for number in first], *rest]}),
        repr({**gold, label: [(first[0], float(first[1])), *rest]}),
        repr({**gold, label: [(0, first[1]), *rest]}),
        repr({**gold, label: [(first[0], size + 1), *rest]}),
        repr({**gold, "Z": [first]}),
        repr(stars),
        repr({name: [(row - 1, column - 1) for row, column in own] for name, own in gold.items()}),
        repr([list(row) for row in regions]),
        repr({**gold, label: first}),
    ]


def _game(rows: list[str], k: int) -> dict[str, Any]:
    metadata = {"n": len(rows), "k": k, "region_grid": [list(row) for row in rows]}
    return {"question": "Place stars.", "answer": "", "difficulty": 1, "metadata": metadata, "gpt_response": ""}


GAMES: list[dict[str, Any]] = [
    {
        "game": _game(["AABB", "ABBB", "CDDB", "CCDD"], 1),
        "right": [
            "{'A': [(1, 2)], 'B': [(2, 4)], 'C': [(3, 1)], 'D': [(4, 3)]}",
            "```python\nstars = 1\n```\n```python\n{'D': [(4, 3)], 'C': [(3, 1)], 'B': [(2, 4)], 'A': [(1, 2)]}\n```",
        ],
        "wrong": [
            "{'A': [(1, 1)], 'B': [(2, 4)], 'C': [(3, 1)], 'D': [(4, 3)]}",
            "{'B': [(1, 2)], 'A': [(2, 4)], 'C': [(3, 1)], 'D': [(4, 3)]}",
            "{'A': [(0, 1)], 'B': [(1, 3)], 'C': [(2, 0)], 'D': [(3, 2)]}",
            "{'A': [(1, 2), (2, 4), (3, 1), (4, 3)]}",
            "{'A': [(1, 2)], 'B': [(2, 4)], 'C': [(3, 1)]}",
        ],
    },
    {
        "game": _game(["A"], 1),
        "right": ["{'A': [(1, 1)]}", "{'A': [[1, 1]]}"],
        "wrong": ["{}", "{'A': []}", "{'A': [(1, 1), (1, 1)]}", "{'B': [(1, 1)]}", "[(1, 1)]"],
    },
]
