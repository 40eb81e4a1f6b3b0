"""Calcudoko: a naive rule checker, answers that are almost right, and rows in the published format."""

import functools
import json
import operator
from typing import Any

from pear.tasks import Problem
from pear.tasks.extraction import parse_literal
from tests.tasks.synlogic.squares import Grid, near_misses_of


def naive(regions: list[Any], square: Grid) -> bool:
    """The rules as the puzzle states them."""
    numbers = set(range(1, len(square) + 1))
    if any(set(line) != numbers for line in [*square, *map(list, zip(*square, strict=True))]):
        return False
    for cells, target, kind in regions:
        values = sorted((square[row][column] for row, column in cells), reverse=True)
        if len(set(values)) != len(values):
            return False
        if kind in "-÷" and len(values) > 2:
            return False
        apply = {"+": operator.add, "-": operator.sub, "*": operator.mul, "÷": operator.truediv}[kind]
        if functools.reduce(apply, values) != target:
            return False
    return True


def near_misses(problem: Problem) -> list[str]:
    text = problem.answer.replace(",", "],[").replace(" ", ",")
    solution = parse_literal(text)
    size = len(solution)
    targets = [[target for _, target, _ in problem.state["regions"]]]
    return [*near_misses_of(solution, [[None] * size for _ in range(size)]), json.dumps(targets)]


def _game(answer: Any, *regions: tuple[str, int, str]) -> dict[str, Any]:
    listed = [
        {"cells": [f"({cell[0]},{cell[1]})" for cell in cells.split()], "target": target, "operator": kind}
        for cells, target, kind in regions
    ]
    size = max(int(cell[1]) for cells, _, _ in regions for cell in cells.split())
    metadata = {"grid_size": size, "regions": listed}
    return {"question": "Calcudoko", "answer": answer, "difficulty": 1, "metadata": metadata, "gpt_response": ""}


GAMES: list[dict[str, Any]] = [
    {
        "game": _game("[[1 2,2 1]]", ("11 12", 3, "+"), ("21 22", 2, "÷")),
        "right": ["[[1 2,2 1]]", "[[2, 1], [1, 2]]", "```\n[[1 2,2 1]]\n```"],
        "wrong": ["[[1 2,1 2]]", "[[1 2]]", "[[1 2,2 1,1 2]]", "[[1 2 1,2 1 2]]", "[[1 2,2 1]] [[1 1,1 1]]", "1 2 2 1"],
    },
    {
        "game": _game(
            "[[1 2 3,2 3 1,3 1 2]]",
            ("11", 1, "+"),
            ("12 13", 6, "*"),
            ("21 22", 1, "-"),
            ("23 33", 2, "/"),
            ("31 32", 4, "+"),
        ),
        "right": ["[[1 2 3,2 3 1,3 1 2]]", "[[1,2,3],[2,3,1],[3,1,2]]"],
        "wrong": ["[[1 3 2,2 1 3,3 2 1]]", "[[1 2 3,2 3 1]]", "[[1 2 3,3 1 2,2 3 1]]"],
    },
]
