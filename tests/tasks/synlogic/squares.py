"""What the puzzles with one solution, a square of numbers, have in common: near misses, and a model of the rules."""

import json
from collections.abc import Callable
from typing import Any

from ortools.sat.python import cp_model

Grid = list[list[int]]
Cells = dict[tuple[int, int], cp_model.IntVar]


def broken_squares(solution: Grid, given: list[list[int | None]]) -> list[Grid]:
    """Other squares of that shape, of which many keep most of the rules. With one solution, none of them is right."""
    size = len(solution)
    blanks = [(row, column) for row in range(size) for column in range(size) if given[row][column] is None]
    squares = []
    for row, column in blanks[:3]:
        for value in (solution[row][column] % size + 1, 0, -solution[row][column], size + 1):
            squares.append([list(line) for line in solution])
            squares[-1][row][column] = value
    for row, column in blanks[:3]:
        squares.append([list(line) for line in solution])
        other = (column + 1) % size
        squares[-1][row][column], squares[-1][row][other] = solution[row][other], solution[row][column]
        squares.append([list(line) for line in solution])
        other = (row + 1) % size
        squares[-1][row][column], squares[-1][other][column] = solution[other][column], solution[row][column]
    squares += [
        [solution[1], solution[0], *solution[2:]],
        [[line[1], line[0], *line[2:]] for line in solution],
        [list(line) for line in zip(*solution, strict=True)],
        solution[::-1],
        [line[::-1] for line in solution],
        [[size + 1 - value for value in line] for line in solution],
        [[value % size + 1 for value in line] for line in solution],
        [[(row + column) % size + 1 for column in range(size)] for row in range(size)],
        [[1] * size] * size,
        [[value or 0 for value in line] for line in given],
    ]
    return [square for square in squares if square != solution]


def near_misses_of(solution: Grid, given: list[list[int | None]]) -> list[str]:
    """Texts of squares that are almost right, and of the right one in a shape or with types that are not asked for."""
    ones = [(row, line.index(1)) for row, line in enumerate(solution)]

    def changed(place: tuple[int, int], value: Any) -> str:
        copy: list[list[Any]] = [list(line) for line in solution]
        copy[place[0]][place[1]] = value
        return json.dumps(copy)

    return [
        *(json.dumps(square) for square in broken_squares(solution, given)),
        *(bare(square) for square in broken_squares(solution, given)),
        json.dumps([["X" if value is None else value for value in line] for line in given]),
        *(changed(ones[0], value) for value in (1.0, "1", True, None, [1], 10**12)),
        json.dumps(solution[:-1]),
        json.dumps([*solution, solution[-1]]),
        json.dumps([line[:-1] for line in solution]),
        json.dumps([[*line, 1] for line in solution]),
        json.dumps([solution]),
        json.dumps({"grid": solution}),
        json.dumps([value for line in solution for value in line]),
        json.dumps(["".join(map(str, line)) for line in solution]),
        f"{json.dumps(solution)} {json.dumps(solution)}",
        bare(solution).replace("1", "\N{FULLWIDTH DIGIT ONE}"),
        bare(solution).replace("1", "1.0"),
        bare(solution).replace("1", "+1"),
        bare(solution).replace(",", ";"),
        bare(solution)[:-1],
        bare(solution)[1:-1],
        json.dumps(solution)[:-1],
    ]


def bare(square: Grid) -> str:
    return "[[" + ",".join(" ".join(map(str, line)) for line in square) + "]]"


def latin_model(
    given: list[list[int | None]], more: Callable[[cp_model.CpModel, Cells], None]
) -> Callable[[], tuple[cp_model.CpModel, Cells]]:
    """Rows and columns of different numbers, the given numbers, and more rules, for `counting.another_solution`."""
    size = len(given)

    def build() -> tuple[cp_model.CpModel, Cells]:
        model = cp_model.CpModel()
        cells = {(i, j): model.new_int_var(1, size, f"{i},{j}") for i in range(size) for j in range(size)}
        for line in range(size):
            model.add_all_different([cells[line, other] for other in range(size)])
            model.add_all_different([cells[other, line] for other in range(size)])
        for (row, column), cell in cells.items():
            if given[row][column] is not None:
                model.add(cell == given[row][column])
        more(model, cells)
        return model, cells

    return build


def known(square: Grid) -> dict[tuple[int, int], int]:
    return {(row, column): value for row, line in enumerate(square) for column, value in enumerate(line)}
