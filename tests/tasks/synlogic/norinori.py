"""Norinori: a naive rule checker, answers that are almost right, and rows in the published format."""

import ast
import json
from collections import Counter
from typing import Any

from pear.tasks import Problem

Dominoes = list[list[tuple[int, int]]]


def naive(regions: list[list[str]], dominoes: Dominoes) -> bool:
    """The rules as the puzzle states them: dominoes as cells counted from 1."""
    cells = [tuple(cell) for domino in dominoes for cell in domino]
    if any(abs(one[0] - other[0]) + abs(one[1] - other[1]) != 1 for one, other in dominoes):
        return False
    if len(set(cells)) != len(cells):
        return False
    for number, domino in enumerate(dominoes):
        for other in dominoes[number + 1 :]:
            if any(abs(one[0] - two[0]) + abs(one[1] - two[1]) == 1 for one in domino for two in other):
                return False
    count = Counter(regions[row - 1][column - 1] for row, column in cells)
    size = Counter(label for row in regions for label in row)
    return all(count[label] == (size[label] if label == "X" else 2) for label in size)


def near_misses(problem: Problem) -> list[str]:
    regions = problem.state["regions"]
    solution: Dominoes = ast.literal_eval(problem.answer)
    size = len(regions)
    covered = {cell for domino in solution for cell in domino}
    changed: list[Dominoes] = [
        solution[:-1],
        solution[1:],
        [*solution, solution[0]],
        [*solution, solution[0][::-1]],
        [[solution[0][0], solution[1][0]], [solution[0][1], solution[1][1]], *solution[2:]],
        [[(column, row) for row, column in domino] for domino in solution],
        [[(row - 1, column - 1) for row, column in domino] for domino in solution],
    ]
    for row in range(1, size + 1):
        for column in range(1, size):
            domino = [(row, column), (row, column + 1)]
            if not covered.intersection(domino):
                changed += [[*solution, domino], [domino, *solution[1:]]]
    inside = [
        dominoes
        for dominoes in changed
        if any(not (1 <= number <= size) for domino in dominoes for cell in domino for number in cell)
        or not naive(regions, dominoes)
    ]
    (row, column), other = solution[0]
    flat = [cell for domino in solution for cell in domino]
    marked = [["#" if (at + 1, to + 1) in covered else "." for to in range(size)] for at in range(size)]
    return [
        *map(str, inside),
        "[]",
        "[[]]",
        str([[(float(row), column), other], *solution[1:]]),
        str([[(str(row), column), other], *solution[1:]]),
        str([[(row, column, 1), other], *solution[1:]]),
        str([[(row, column)], *solution[1:]]),
        str([[(row, column), other, other], *solution[1:]]),
        str([[(row - size, column), other], *solution[1:]]),
        str([[(True, True), (True, 2)], *solution[1:]])
        if row + column > 2
        else str([[(True, True), other], *solution]),
        str(flat),
        str({"dominoes": solution}),
        json.dumps(marked),
        json.dumps(regions),
        problem.answer[:-1],
    ]


_FIRST = [list(line) for line in ("AAABB", "AACBB", "ACCXB", "BBBBB", "XBBBB")]
_SECOND = [list("AABB"), list("AABB"), list("CCXX"), list("CCCC")]

GAMES: list[dict[str, Any]] = [
    {
        "game": {
            "question": "A Norinori of 5 x 5 cells.\n\n" + "\n".join("  ".join(line) for line in _FIRST),
            "answer": "",
            "difficulty": 1,
            "metadata": {
                "trace_id": "77f3a3f6-9d43-4aa5-8a6f-4f7f4d1c1b01",
                "region_grid": _FIRST,
                "solution": [[[1, 3], [2, 3]], [[3, 1], [3, 2]], [[3, 4], [3, 5]], [[5, 1], [5, 2]]],
                "n": 5,
                "region_nums": 3,
                "shadow_ratio": 0.08,
            },
            "gpt_response": "",
        },
        "right": [
            "[[(1, 3), (2, 3)], [(3, 1), (3, 2)], [(3, 4), (3, 5)], [(5, 1), (5, 2)]]",
            "[[(5, 2), (5, 1)], [(3, 4), (4, 4)], [(3, 1), (3, 2)], [(1, 3), (2, 3)]]",
        ],
        "wrong": [
            "[]",
            "[[(3, 4), (3, 5)], [(5, 1), (5, 2)]]",
            "[[(3, 1), (2, 3)], [(1, 3), (3, 2)], [(3, 4), (3, 5)], [(5, 1), (5, 2)]]",
            "[[(1, 3), (2, 3)], [(2, 1), (2, 2)], [(3, 4), (3, 5)], [(5, 1), (5, 2)]]",
            "[[(1, 3), (2, 3)], [(3, 1), (3, 2)], [(2, 4), (3, 4)], [(5, 1), (5, 2)]]",
        ],
    },
    {
        "game": {
            "question": "A Norinori of 4 x 4 cells.\n\nA  A  B  B\nA  A  B  B\nC  C  X  X\nC  C  C  C",
            "answer": "",
            "difficulty": 1,
            "metadata": {
                "trace_id": "77f3a3f6-9d43-4aa5-8a6f-4f7f4d1c1b02",
                "region_grid": _SECOND,
                "solution": [[[1, 1], [2, 1]], [[1, 3], [1, 4]], [[3, 3], [3, 4]], [[4, 1], [4, 2]]],
                "n": 4,
                "region_nums": 3,
                "shadow_ratio": 0.1,
            },
            "gpt_response": "",
        },
        "right": [
            "[[(1, 1), (2, 1)], [(1, 3), (1, 4)], [(3, 3), (3, 4)], [(4, 1), (4, 2)]]",
            "[(2,1),(1,1)], [(1,4),(1,3)], [(3,3),(3,4)], [(4,1),(4,2)]",
            "[[[4, 2], [4, 1]], [[3, 4], [3, 3]], [[1, 1], [2, 1]], [[1, 4], [1, 3]]]",
            "```python\n[[(2, 2), (2, 1)], [(1, 3), (1, 4)], [(3, 3), (3, 4)], [(4, 1), (4, 2)]]\n```",
        ],
        "wrong": [
            "[]",
            "[[(3, 3), (3, 4)]]",
            "[[(1, 1), (2, 1)], [(1, 3), (1, 4)], [(3, 3), (3, 4)]]",
            "[[(1, 1), (2, 1)], [(1, 3), (1, 4)], [(3, 3), (3, 4)], [(4, 3), (4, 4)]]",
            "[[(1, 1), (2, 1)], [(1, 3), (1, 4)], [(4, 1), (4, 2)]]",
            "[[(0, 0), (1, 0)], [(0, 2), (0, 3)], [(2, 2), (2, 3)], [(3, 0), (3, 1)]]",
        ],
    },
]
