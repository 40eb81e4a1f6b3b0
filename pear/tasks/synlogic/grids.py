"""Grids: reading them from answers, writing them, and what is the same up to turning and mirroring."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pear.tasks.extraction import parse_literal, unwrap

Cell = TypeVar("Cell")
Place = tuple[int, int]
_MAX_BARE = 20_000
_TOO_LARGE = 10**9
_BARE = re.compile(r"\[\s*\[(?P<cells>[^\[\]]*)\]\s*\]")


def integer_grid(value: Any, rows: int, columns: int) -> list[list[int]]:
    """A value as a grid of ints of that shape. Raises `ValueError` on any other; bools and floats are no ints.

    >>> integer_grid([[1, 2], (3, 4)], 2, 2)
    [[1, 2], [3, 4]]
    """
    grid = _of_shape(value, rows, columns)
    if any(type(cell) is not int for row in grid for cell in row):
        raise ValueError("an entry of the grid is not an integer")
    if any(abs(cell) >= _TOO_LARGE for row in grid for cell in row):
        raise ValueError("an entry of the grid has more than nine digits")
    return grid


def text_grid(value: Any, rows: int, columns: int) -> list[list[str]]:
    """A value as a grid of texts of that shape. Raises `ValueError` on any other.

    >>> text_grid([["a", "b"]], 1, 2)
    [['a', 'b']]
    """
    grid = _of_shape(value, rows, columns)
    if any(type(cell) is not str for row in grid for cell in row):
        raise ValueError("an entry of the grid is not a text")
    return grid


def mixed_grid(value: Any, rows: int, columns: int) -> list[list[Any]]:
    """A value as a grid of ints and texts of that shape. Raises `ValueError` on any other.

    >>> mixed_grid([["X", 1]], 1, 2)
    [['X', 1]]
    """
    grid = _of_shape(value, rows, columns)
    if any(type(cell) not in (int, str) for row in grid for cell in row):
        raise ValueError("an entry of the grid is neither an integer nor a text")
    return grid


def read_integer_grid(answer: str, rows: int, columns: int) -> list[list[int]]:
    """The text of an answer, in a code block or a box or bare, as a grid of ints. Raises `ValueError` on any other.

    >>> read_integer_grid("```python\\n[[1, 2]]\\n```", 1, 2)
    [[1, 2]]
    """
    return integer_grid(parse_literal(unwrap(answer)), rows, columns)


def read_text_grid(answer: str, rows: int, columns: int) -> list[list[str]]:
    """The text of an answer, in a code block or a box or bare, as a grid of texts. Raises `ValueError` on any other.

    >>> read_text_grid('[["C", "X"]]', 1, 2)
    [['C', 'X']]
    """
    return text_grid(parse_literal(unwrap(answer)), rows, columns)


def read_bare_grid(answer: str, rows: int, columns: int) -> list[list[int]]:
    """The text of an answer like `[[1 2,2 1]]`, whose rows are apart by commas and whose numbers by spaces, as a grid
    of ints; a grid written as a JSON or Python literal is read too. Raises `ValueError` on any other.

    >>> read_bare_grid("[[1 2,2 1]]", 2, 2), read_bare_grid("[[1, 2], [2, 1]]", 2, 2)
    ([[1, 2], [2, 1]], [[1, 2], [2, 1]])
    """
    text = unwrap(answer)
    if len(text) > _MAX_BARE:
        raise ValueError(f"the answer is longer than {_MAX_BARE:,} characters")
    match = _BARE.fullmatch(text)
    if match is None or not re.search(r"[0-9]\s+[0-9]", match["cells"]):
        return integer_grid(parse_literal(text), rows, columns)
    cells = [line.split() for line in match["cells"].split(",")]
    return [[digits(cell) for cell in row] for row in text_grid(cells, rows, columns)]


def digits(text: str) -> int:
    """A text of one to nine ASCII digits as an int. Raises `ValueError` on any other.

    >>> digits("12")
    12
    """
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise ValueError("an entry is not a number in digits")
    return int(text)


def game_metadata(game: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a published row knows of its puzzle. Raises `ValueError` where it has none."""
    found = game.get("metadata")
    if not isinstance(found, Mapping):
        raise ValueError("metadata is missing")
    return found


def game_integers(metadata: Mapping[str, Any], key: str, length: int | None = None) -> list[int]:
    """A list of ints that a published row names. Raises `ValueError` where it is missing or has another shape.

    >>> game_integers({"row_sums": [1, 2]}, "row_sums", 2)
    [1, 2]
    """
    found = metadata.get(key)
    if not isinstance(found, list) or not found or any(type(item) is not int for item in found):
        raise ValueError(f"metadata: {key} is not a list of integers")
    if length is not None and len(found) != length:
        raise ValueError(f"metadata: {key} does not have {length} integers")
    return found


def game_size(metadata: Mapping[str, Any], key: str, *, least: int = 1, most: int = 50) -> int:
    """A size that a published row names. Raises `ValueError` where it is missing or out of range.

    >>> game_size({"n": 4}, "n")
    4
    """
    found = metadata.get(key)
    if type(found) is not int or not least <= found <= most:
        raise ValueError(f"metadata: {key} is not an integer from {least} to {most}")
    return found


def transposed(grid: Sequence[Sequence[Cell]]) -> list[list[Cell]]:
    """Rows as columns.

    >>> transposed([[1, 2], [3, 4]])
    [[1, 3], [2, 4]]
    """
    return [list(column) for column in zip(*grid, strict=True)]


def turned_and_mirrored(grid: Sequence[Sequence[Cell]]) -> list[list[list[Cell]]]:
    """The eight grids that a rectangle is when it is turned and mirrored, the grid itself first.

    >>> turned_and_mirrored([[1, 2]])[:3]
    [[[1, 2]], [[2, 1]], [[1, 2]]]
    """
    grids = []
    for base in ([list(row) for row in grid], transposed(grid)):
        for lines in (base, base[::-1]):
            grids += [lines, [row[::-1] for row in lines]]
    return grids


def neighbors(place: Place, rows: int, columns: int, *, diagonal: bool = False) -> Iterator[Place]:
    """The cells that touch a cell by a side, and by a corner too if `diagonal`, in reading order.

    >>> list(neighbors((0, 0), 2, 2)), list(neighbors((0, 0), 2, 2, diagonal=True))
    ([(0, 1), (1, 0)], [(0, 1), (1, 0), (1, 1)])
    """
    row, column = place
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            near = diagonal or not (down and right)
            if near and (down or right) and 0 <= row + down < rows and 0 <= column + right < columns:
                yield row + down, column + right


def write_rows(grid: Sequence[Sequence[Any]], separator: str = " ") -> str:
    """A grid for people, one line a row.

    >>> write_rows([[1, "X"], [3, 4]])
    '1 X\\n3 4'
    """
    return "\n".join(separator.join(map(str, row)) for row in grid)


def _of_shape(value: Any, rows: int, columns: int) -> list[list[Any]]:
    if not isinstance(value, list | tuple) or len(value) != rows:
        raise ValueError(f"the answer is not a list of {rows} rows")
    if any(not isinstance(row, list | tuple) or len(row) != columns for row in value):
        raise ValueError(f"a row is not a list of {columns} entries")
    return [list(row) for row in value]
