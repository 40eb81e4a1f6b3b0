"""Buggy tables: a table was damaged in a known way; what is the answer to a question about the table as it was?"""

import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

from pear.tasks.extraction import INSTRUCTION, unwrap
from pear.tasks.levels import read_level
from pear.tasks.protocol import GeneratedTask, Problem

Table = list[list[str]]
_COLUMNS = ("name", "city", "age", "price", "rating")
_NUMBERS = {"age": 2, "price": 3, "rating": 4}
_NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gail", "Hugo", "Iris", "Jack", "Kate", "Leo", "Mona", "Ned")
_CITIES = ("Lima", "Oslo", "Quito", "Riga", "Sofia")
_VALUE = re.compile(r"-?[0-9]{1,15}(?:\.[0-9]{1,10})?")
_ANY = "any"


@dataclass(frozen=True, kw_only=True)
class _Knobs:
    rows: int
    bug: str
    bug_rate: float

    def __post_init__(self) -> None:
        if not 3 <= self.rows <= 60:
            raise ValueError("rows are from 3 to 60")
        if self.bug != _ANY and self.bug not in _BUGS:
            raise ValueError(f"bug is one of {_ANY}, {', '.join(_BUGS)}")
        if not 0 < self.bug_rate <= 0.5:
            raise ValueError("bug_rate is from above 0 to 0.5")


def from_game(game: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The state and the answer of a published row (`question`, and `answer` or `metadata.target_answer` as a number).
    Raises `ValueError` where one is missing or has another shape."""
    question, metadata = game.get("question"), game.get("metadata")
    if not isinstance(question, str) or not question:
        raise ValueError("question is missing")
    value = game.get("answer")
    if value in (None, "") and isinstance(metadata, Mapping):
        value = metadata.get("target_answer")
    text = str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not _VALUE.fullmatch(text.strip()):
        raise ValueError("answer is not a number")
    return {"text": question, "target": text.strip()}, text.strip()


def _question(state: Mapping[str, Any]) -> str:
    lines = [state["header"], ["---"] * len(state["header"]), *state["rows"]]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return (
        f"{INSTRUCTION}\n\n"
        f"A table of people had the columns {', '.join(_COLUMNS)}. It was damaged, and now looks like this:\n\n"
        f"{table}\n\n"
        f"What happened: {state['description']}\n\n"
        f"Restore the table in your mind. In the table as it was, {_asked(state['query'])}?\n\n"
        "The answer is a number rounded to two decimals, such as 12.34; if no row fulfills the condition, it is 0.00."
    )


def _asked(query: Mapping[str, Any]) -> str:
    condition = {
        "city": f"whose city is {query['value']}",
        "above": f"whose {query['by']} is greater than {query['value']}",
        "below": f"whose {query['by']} is less than {query['value']}",
    }[query["condition"]]
    if query["what"] == "count":
        return f"how many rows are there {condition}"
    names = {"sum": "sum", "mean": "mean", "median": "median", "min": "smallest value", "max": "greatest value"}
    return f"what is the {names[query['what']]} of {query['column']} over the rows {condition}"


def _draw_row(draw: random.Random) -> list[str]:
    return [
        draw.choice(_NAMES),
        draw.choice(_CITIES),
        str(draw.randint(18, 80)),
        f"{draw.randint(100, 9999) / 100:.2f}",
        f"{draw.randint(10, 50) / 10:.1f}",
    ]


def _draw_query(draw: random.Random) -> dict[str, Any]:
    condition = draw.choice(["city", "above", "below"])
    by = draw.choice(list(_NUMBERS))
    value = draw.choice(_CITIES) if condition == "city" else _draw_row(draw)[_NUMBERS[by]]
    what = draw.choice(["count", "sum", "mean", "median", "min", "max"])
    return {"what": what, "column": draw.choice(list(_NUMBERS)), "condition": condition, "by": by, "value": value}


def _answer(table: Table, query: Mapping[str, Any]) -> str | None:
    """The number with two decimals; None where it lies just between two, so that rounding is a matter of taste."""
    place, value = _NUMBERS[query["by"]], query["value"]
    keeps: dict[str, Callable[[list[str]], bool]] = {
        "city": lambda row: row[1] == value,
        "above": lambda row: Decimal(row[place]) > Decimal(value),
        "below": lambda row: Decimal(row[place]) < Decimal(value),
    }
    found = sorted(Fraction(row[_NUMBERS[query["column"]]]) for row in table if keeps[query["condition"]](row))
    if query["what"] == "count":
        return f"{len(found)}.00"
    if not found:
        return "0.00"
    half = len(found) // 2
    exact = {
        "sum": sum(found, Fraction(0)),
        "mean": sum(found, Fraction(0)) / len(found),
        "median": found[half] if len(found) % 2 else (found[half - 1] + found[half]) / 2,
        "min": found[0],
        "max": found[-1],
    }[query["what"]]
    hundredths = exact * 100
    if hundredths % 1 == Fraction(1, 2):
        return None
    rounded = round(hundredths)
    return f"{rounded // 100}.{rounded % 100:02d}"


# What has happened: the header, the damaged rows, and the words that tell how to undo it.
_Damage = tuple[list[str], Table, str]


def _error(draw: random.Random, table: Table, rate: float) -> _Damage:
    places = _some(draw, table, rate)
    return (
        list(_COLUMNS),
        _with(table, places, "ERROR"),
        (
            "Some cells were overwritten with ERROR. Row by row from the top, and in a row from left to right, they "
            f"held: {', '.join(table[row][column] for row, column in places)}."
        ),
    )


def _null(draw: random.Random, table: Table, rate: float) -> _Damage:
    places = _some(draw, table, rate)
    by_column = sorted(places, key=lambda place: (place[1], place[0]))
    return (
        list(_COLUMNS),
        _with(table, places, "null"),
        (
            "Some values were lost and are null now. Column by column from the left, and in a column from top to "
            f"bottom, they were: {', '.join(table[row][column] for row, column in by_column)}."
        ),
    )


def _merge_rows(_draw: random.Random, table: Table, _rate: float) -> _Damage:
    pairs = [table[start : start + 2] for start in range(0, len(table), 2)]
    merged = [[" / ".join(cells) for cells in zip(*pair, strict=True)] for pair in pairs]
    return (
        list(_COLUMNS),
        merged,
        (
            "Every two rows that follow each other were merged into one; in each cell, the value of the first of the "
            "two stands before the slash, and that of the second behind it. With an odd number of rows the last one "
            "was left."
        ),
    )


def _rotate_columns(_draw: random.Random, table: Table, _rate: float) -> _Damage:
    rotated = [_rotated(row, number) for number, row in enumerate(table, 1)]
    return (
        list(_COLUMNS),
        rotated,
        (
            "In every row the values were moved to the right, those that left the row coming in again at its left: by "
            f"one place in the first row, by two in the second, and so on, row number n by n of {len(_COLUMNS)} places."
        ),
    )


def _rotate_rows(_draw: random.Random, table: Table, _rate: float) -> _Damage:
    columns = [_rotated([row[place] for row in table], place + 1) for place in range(len(_COLUMNS))]
    return (
        list(_COLUMNS),
        [list(cells) for cells in zip(*columns, strict=True)],
        (
            "In every column the values were moved down, those that left the column coming in again at its top: by "
            "one place in the first column, by two in the second, and so on; the header stayed."
        ),
    )


def _add_end_row(draw: random.Random, table: Table, rate: float) -> _Damage:
    count = max(1, round(rate * len(table)))
    return (
        list(_COLUMNS),
        [*table, *(_draw_row(draw) for _ in range(count))],
        (f"{count} row(s) that do not belong to the table were added at its end."),
    )


def _add_end_column(draw: random.Random, table: Table, _rate: float) -> _Damage:
    name = draw.choice(list(_NUMBERS))
    place = _NUMBERS[name]
    mixed = draw.sample([row[place] for row in table], len(table))
    shown = [[*row[:place], other, *row[place + 1 :], row[place]] for row, other in zip(table, mixed, strict=True)]
    return (
        [*_COLUMNS, "extra"],
        shown,
        (
            f"The values of the column {name} were shuffled. The column extra was added at the end; it holds for "
            f"every row the value of {name} as it was."
        ),
    )


def _some(draw: random.Random, table: Table, rate: float) -> list[tuple[int, int]]:
    places = [(row, column) for row in range(len(table)) for column in range(len(_COLUMNS))]
    return sorted(draw.sample(places, max(1, round(rate * len(places)))))


def _with(table: Table, places: Sequence[tuple[int, int]], text: str) -> Table:
    return [
        [text if (row, column) in places else cell for column, cell in enumerate(line)]
        for row, line in enumerate(table)
    ]


def _rotated(cells: Sequence[str], places: int) -> list[str]:
    """Cells moved on by so many places.

    >>> _rotated(["a", "b", "c"], 1)
    ['c', 'a', 'b']
    """
    start = -places % len(cells)
    return [*cells[start:], *cells[:start]]


_BUGS: dict[str, Callable[[random.Random, Table, float], _Damage]] = {
    "error": _error,
    "null": _null,
    "merge_rows": _merge_rows,
    "rotate_columns": _rotate_columns,
    "rotate_rows": _rotate_rows,
    "add_end_row": _add_end_row,
    "add_end_column": _add_end_column,
}
_LEVELS = {
    "easy": _Knobs(rows=6, bug=_ANY, bug_rate=0.1),
    "medium": _Knobs(rows=12, bug=_ANY, bug_rate=0.2),
    "hard": _Knobs(rows=25, bug=_ANY, bug_rate=0.3),
}


class BuggyTables(GeneratedTask):
    """A table of people, what has happened to it, and a question about a count, sum, mean, median, least or greatest
    value of the rows that fulfill a condition.

    Levels differ in the number of rows and in the share of damaged cells or added rows, where the bug has one: easy 6,
    0.1; medium 12, 0.2; hard 25, 0.3. `bug` is the kind of damage: any of error, null, merge_rows, rotate_columns,
    rotate_rows, add_end_row and add_end_column.

    The answer is a number, rounded to two decimals; 0.00 where no row fulfills the condition.
    """

    name = "synlogic/buggy_tables"
    knobs = _LEVELS
    levels = tuple(knobs)
    source = "the rules of SynLogic's task `buggy_tables` (arXiv 2505.19641); tables, generator and verifier are ours"

    def generate(self, seed: int, level: str) -> Problem:
        knobs = read_level(level, _LEVELS)
        # A text seed goes through sha512, not through hash().
        draw = random.Random(f"{self.name}/{level}/{seed}")
        table = [_draw_row(draw) for _ in range(knobs.rows)]
        bug = draw.choice(list(_BUGS)) if knobs.bug == _ANY else knobs.bug
        header, shown, description = _BUGS[bug](draw, table, knobs.bug_rate)
        target = None
        while target is None:
            query = _draw_query(draw)
            target = _answer(table, query)
        state = {"header": header, "rows": shown, "description": description, "query": query, "target": target}
        return Problem(
            task=self.name,
            level=level,
            id=f"{self.name}/{level}/{seed}",
            prompt=({"role": "user", "content": _question(state)},),
            state=state,
            answer=target,
        )

    def check(self, problem: Problem, answer: str) -> tuple[str, str]:
        text = unwrap(answer)
        if not _VALUE.fullmatch(text):
            raise ValueError("the answer is not a number")
        value = Decimal(text)
        wrong = value != Decimal(problem.state["target"])
        return str(value.normalize() + 0), "it is another number" if wrong else ""

    def canonical(self, problem: Problem) -> str:
        """The damaged table, the damage and the question; of a published problem its text."""
        state = problem.state
        told = state["text"] if "text" in state else [state[key] for key in ("header", "rows", "description", "query")]
        return f"{self.name}:{json.dumps(told, ensure_ascii=False, sort_keys=True)}"
