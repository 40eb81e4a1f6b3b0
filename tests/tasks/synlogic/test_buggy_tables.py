"""Buggy tables: the damage undone and the question answered by a twin that reads the prompt; knobs; published rows."""

import re
import statistics
from fractions import Fraction
from typing import Any

import pytest

from pear.errors import UserError
from pear.tasks import Problem
from pear.tasks.synlogic.buggy_tables import _BUGS, BuggyTables, _answer, from_game
from tests.tasks.synlogic.buggy_tables import GAMES

TASK = BuggyTables()
COLUMNS = ["name", "city", "age", "price", "rating"]


def problem_of(state: dict[str, Any]) -> Problem:
    return Problem(task=TASK.name, level="easy", id="x", prompt=(), state=state, answer="")


def restored(prompt: str) -> list[list[str]]:
    """The table as it was, from the prompt's words."""
    lines = re.findall(r"^\| (.*) \|$", prompt, re.MULTILINE)
    header, rows = lines[0].split(" | "), [line.split(" | ") for line in lines[2:]]
    told = prompt.split("What happened: ")[1].split("\n\n")[0]
    places = [(row, at) for row in range(len(rows)) for at in range(len(header))]
    if "ERROR" in told or "null" in told:
        mark = "ERROR" if "ERROR" in told else "null"
        if mark == "null":
            places.sort(key=lambda place: place[1])
        values = iter(told.rpartition(": ")[2].rstrip(".").split(", "))
        for row, at in places:
            if rows[row][at] == mark:
                rows[row][at] = next(values)
        assert next(values, None) is None
    elif "merged" in told:
        rows = [list(cells) for row in rows for cells in zip(*(cell.split(" / ") for cell in row), strict=True)]
    elif "In every row" in told:
        rows = [[row[(at + number) % 5] for at in range(5)] for number, row in enumerate(rows, 1)]
    elif "In every column" in told:
        rows = [[rows[(row + at + 1) % len(rows)][at] for at in range(5)] for row in range(len(rows))]
    elif "do not belong" in told:
        rows = rows[: -int(told.split()[0])]
    else:
        at = header.index(re.search(r"the column (\w+) were shuffled", told)[1])
        rows = [[*row[:at], row[5], *row[at + 1 : 5]] for row in rows]
    return rows


def answered(rows: list[list[str]], prompt: str) -> Fraction:
    asked = prompt.split("In the table as it was, ")[1].split("?")[0]
    if match := re.search(r"whose city is (\w+)", asked):
        kept = [row for row in rows if row[1] == match[1]]
    else:
        by, how, value = re.search(r"whose (\w+) is (greater|less) than ([0-9.]+)", asked).groups()
        at = COLUMNS.index(by)
        kept = [
            row
            for row in rows
            if (float(row[at]) > float(value) if how == "greater" else float(row[at]) < float(value))
        ]
    if asked.startswith("how many"):
        return Fraction(len(kept))
    what, column = re.match(r"what is the ([a-z ]+) of (\w+)", asked).groups()
    values = [Fraction(row[COLUMNS.index(column)]) for row in kept]
    if not values:
        return Fraction(0)
    functions = {
        "sum": sum, "mean": statistics.mean, "median": statistics.median, "smallest value": min, "greatest value": max,
    }  # fmt: skip
    return Fraction(functions[what](values))


@pytest.mark.parametrize("bug", _BUGS)
@pytest.mark.parametrize("level", TASK.levels)
def test_the_answer_is_what_the_words_say(bug: str, level: str) -> None:
    for seed in range(25):
        problem = TASK.generate(seed, f"{level}(bug={bug})")
        prompt = problem.prompt[0]["content"]
        rows = restored(prompt)
        assert len(rows) == {"easy": 6, "medium": 12, "hard": 25}[level]
        assert all(row[1].isalpha() and row[2].isdigit() and re.fullmatch(r"\d+\.\d\d", row[3]) for row in rows)
        exact = answered(rows, prompt)
        assert abs(exact - Fraction(problem.answer)) < Fraction(1, 200)
        assert re.fullmatch(r"\d+\.\d\d", problem.answer)


def test_the_damage_matters() -> None:
    """Answering from the table as it is shown is often wrong."""
    for bug in ("error", "rotate_rows", "add_end_row", "add_end_column"):
        wrong = 0
        for seed in range(60):
            state = TASK.generate(seed, f"medium(bug={bug},bug_rate=0.3)").state
            shown = [[cell if cell != "ERROR" else "0" for cell in row] for row in state["rows"]]
            wrong += _answer(shown, state["query"]) != state["target"]
        assert wrong > 15, bug


def test_rounding_is_never_a_matter_of_taste() -> None:
    table = [["x", "Lima", "20", "1.00", "1.0"], ["y", "Lima", "30", "1.01", "1.0"]]
    query = {"what": "mean", "column": "price", "condition": "city", "by": "age", "value": "Lima"}
    assert _answer(table, query) is None
    assert _answer([*table, ["z", "Lima", "1", "1.00", "1.0"]], query) == "1.00"
    assert _answer(table, {**query, "value": "Oslo"}) == "0.00"


def test_canonical_forms() -> None:
    state = TASK.generate(3, "medium").state
    form = TASK.canonical(problem_of(state))
    assert TASK.canonical(problem_of({**state, "target": "0.00"})) == form
    assert TASK.canonical(problem_of({**state, "rows": state["rows"][::-1]})) != form
    assert TASK.canonical(problem_of(from_game(GAMES[0]["game"])[0])) != form


def test_knobs_are_honored_and_refused() -> None:
    state = TASK.generate(1, "easy(rows=10,bug=error,bug_rate=0.5)").state
    assert sum(cell == "ERROR" for row in state["rows"] for cell in row) == 25
    for level in ("easy(rows=2)", "easy(rows=61)", "easy(bug=fire)", "easy(bug_rate=0)", "easy(bug_rate=0.6)"):
        with pytest.raises(UserError, match=r"from|one of"):
            TASK.generate(1, level)


def test_published_rows() -> None:
    for row in GAMES:
        state, answer = from_game(row["game"])
        for text in (answer, *row["right"]):
            assert TASK.check(problem_of(state), text)[1] == ""
    for change in ({"question": ""}, {"answer": "many"}, {"answer": None}, {"answer": True}, {"answer": [1]}):
        with pytest.raises(ValueError, match=r"question|answer"):
            from_game({**GAMES[0]["game"], **change})
