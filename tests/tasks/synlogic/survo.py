"""Survo: answers that are almost right."""

import json
from typing import Any

from pear.tasks import Problem


def near_misses(problem: Problem) -> list[str]:
    solution = json.loads(problem.answer)
    matrix = problem.state["matrix"]
    blanks = [(row, column) for row, line in enumerate(matrix) for column, value in enumerate(line) if value is None]
    (row, column), (other_row, other_column) = blanks[0], blanks[-1]
    first, last = solution[row][column], solution[other_row][other_column]

    def changed(changes: dict[tuple[int, int], Any]) -> str:
        copy = [list(line) for line in solution]
        for (at_row, at_column), value in changes.items():
            copy[at_row][at_column] = value
        return json.dumps(copy)

    given = next((at, line.index(value)) for at, line in enumerate(matrix) for value in line if value is not None)
    return [
        changed({(row, column): last, (other_row, other_column): first}),
        changed({(row, column): last}),
        changed({(row, column): first + 1}),
        changed({(row, column): float(first)}),
        changed({(row, column): str(first)}),
        changed({(row, column): None}),
        changed({(row, column): True}),
        changed({given: solution[given[0]][given[1]] + 1}),
        changed({(len(solution) - 1, len(solution[0]) - 1): 0}),
        json.dumps([line[:-1] for line in solution[:-1]]),
        json.dumps(solution[:-1]),
        json.dumps([[*line, 0] for line in solution]),
        json.dumps([list(line) for line in zip(*solution, strict=True)]),
        json.dumps([solution[1], solution[0], *solution[2:]]),
        json.dumps([solution]),
        problem.answer + " " + problem.answer,
        problem.answer.replace("[", "(").replace("]", ")"),
        problem.answer[:-1],
    ]


_SOLUTION = [[1, 2, 3], [4, 5, 9], [5, 7, 12]]
GAMES: list[dict[str, Any]] = [
    {
        "game": {
            "question": "Fill in the matrix.",
            "answer": json.dumps(_SOLUTION),
            "difficulty": 1,
            "metadata": {"original_matrix": [[1, 0, 3], [0, 5, 9], [5, 7, 12]], "candidate_numbers": [2, 4], "n": 3},
            "gpt_response": "",
        },
        "right": [json.dumps(_SOLUTION), f"```python\n{_SOLUTION}\n```"],
        "wrong": ["[[1, 4, 3], [2, 5, 9], [5, 7, 12]]", "[[1, 2, 3], [4, 5, 9]]", "[[1, 0, 3], [0, 5, 9], [5, 7, 12]]"],
    },
    {
        # Two solutions: the rows may change places.
        "game": {
            "question": "Fill in the matrix.",
            "answer": "",
            "difficulty": 1,
            "metadata": {"original_matrix": [[0, 0, 5], [0, 0, 5], [5, 5, 10]], "candidate_numbers": [1, 4, 4, 1]},
            "gpt_response": "",
        },
        "right": ["[[1, 4, 5], [4, 1, 5], [5, 5, 10]]", "[[4, 1, 5], [1, 4, 5], [5, 5, 10]]"],
        "wrong": ["[[2, 3, 5], [3, 2, 5], [5, 5, 10]]", "[[1, 4, 5], [1, 4, 5], [5, 5, 10]]"],
    },
]
