"""Zebra puzzle: one solution, by an independent solver; the clues against a naive twin; the answer's forms."""

import itertools
import json
import random
from typing import Any

import pytest
from ortools.sat.python import cp_model

from pear.errors import UserError
from pear.tasks import Problem
from pear.tasks.synlogic.zebra_puzzle import ZebraPuzzle, _another, _holds, from_game
from tests.tasks.synlogic.zebra_puzzle import GAMES

TASK = ZebraPuzzle()


def problem_of(state: dict[str, Any]) -> Problem:
    return Problem(task=TASK.name, level="easy", id="x", prompt=(), state=state, answer="")


def naive(clue: list[Any], places: list[int]) -> bool:
    kind, one, other = clue
    first = places[one]
    if kind in ("at", "not_at"):
        return (first == other) == (kind == "at")
    second = places[other]
    return {
        "same": first == second,
        "different": first != second,
        "left": first + 1 == second,
        "next": abs(first - second) == 1,
        "before": first < second,
    }[kind]


def solutions(state: dict[str, Any], most: int) -> list[list[int]]:
    """Up to `most` ways to place all things, by OR-tools."""
    houses = state["houses"]
    model = cp_model.CpModel()
    places = [
        model.new_int_var(0, houses - 1, f"thing {number}") for number in range(houses * len(state["categories"]))
    ]
    for start in range(0, len(places), houses):
        model.add_all_different(places[start : start + houses])
    for kind, one, other in state["clues"]:
        if kind in ("at", "not_at"):
            model.add(places[one] == other if kind == "at" else places[one] != other)
        elif kind == "next":
            pairs = [pair for pair in itertools.product(range(houses), repeat=2) if abs(pair[0] - pair[1]) == 1]
            model.add_allowed_assignments([places[one], places[other]], pairs)
        else:
            first, second = places[one], places[other]
            model.add(
                {
                    "same": first == second,
                    "different": first != second,
                    "left": first + 1 == second,
                    "before": first < second,
                }[kind]
            )
    found: list[list[int]] = []

    class Collect(cp_model.CpSolverSolutionCallback):
        def on_solution_callback(self) -> None:
            found.append([self.value(place) for place in places])
            if len(found) == most:
                self.stop_search()

    solver = cp_model.CpSolver()
    solver.parameters.enumerate_all_solutions = True
    solver.solve(model, Collect())
    return found


@pytest.mark.parametrize("level", TASK.levels)
def test_there_is_one_solution(level: str) -> None:
    for seed in range(10):
        problem = TASK.generate(seed, level)
        (places,) = solutions(problem.state, 2)
        table = json.loads(problem.answer)
        for category, (name, *items) in enumerate(problem.state["categories"]):
            column = table["header"].index(name)
            for item, text in enumerate(items):
                house = places[category * problem.state["houses"] + item]
                assert table["rows"][house][column] == text


def test_another_solution_is_found_where_there_is_one() -> None:
    draw = random.Random(2)
    several = 0
    for seed in range(40):
        state = TASK.generate(seed, "medium").state
        (whole,) = solutions(state, 2)
        state["clues"] = draw.sample(state["clues"], len(state["clues"]) - draw.randrange(3))
        found = _another(state["houses"], whole, state["clues"])
        every = solutions(state, 500)
        assert (found is None) == (len(every) == 1)
        assert found is None or (found in every and found != whole)
        several += found is not None
    assert 5 < several < 40


def test_clues_hold_as_their_words_say() -> None:
    kinds = ["at", "not_at", "same", "different", "left", "next", "before"]
    for kind in kinds:
        for places in itertools.product(range(5), repeat=2):
            for other in range(5) if kind in ("at", "not_at") else [1]:
                assert _holds([kind, 0, other], list(places)) == naive([kind, 0, other], list(places))


def test_columns_and_rows_may_stand_in_any_order_and_every_broken_clue_is_counted() -> None:
    problem = TASK.generate(4, "hard")
    table = json.loads(problem.answer)
    turned = {"header": table["header"][::-1], "rows": [row[::-1] for row in table["rows"][::-1]]}
    text = {"header": table["header"], "rows": [[str(row[0]), *row[1:]] for row in table["rows"]]}
    for value in (turned, text):
        assert TASK.check(problem, json.dumps(value)) == (problem.answer, "")
    rows = table["rows"]
    exchanged = {
        "header": table["header"],
        "rows": [[rows[0][0], *rows[1][1:]], [rows[1][0], *rows[0][1:]], *rows[2:]],
    }
    places = []
    for category, (name, *items) in enumerate(problem.state["categories"]):
        assert category + 1 == table["header"].index(name)
        places += [
            next(house for house, row in enumerate(exchanged["rows"]) if row[category + 1] == item) for item in items
        ]
    broken = sum(not naive(clue, places) for clue in problem.state["clues"])
    assert TASK.check(problem, json.dumps(exchanged))[1] == f"it breaks {broken} of {len(problem.state['clues'])} clues"


def test_every_clue_is_in_the_prompt_in_words() -> None:
    problem = TASK.generate(3, "hard(houses=6,categories=6)")
    state, prompt = problem.state, problem.prompt[0]["content"]
    things = [item for _, *items in state["categories"] for item in items]
    words = {
        "at": " is number ", "not_at": " is not number ", "same": " is also ", "different": " is not ",
        "left": " directly to the left of ", "next": " next to ", "before": " somewhere to the left of ",
    }  # fmt: skip
    for number, (kind, one, other) in enumerate(state["clues"], 1):
        line = next(line for line in prompt.splitlines() if line.startswith(f"{number}. "))
        before, after = line.split(words[kind])
        assert things[one] in before
        assert after == f"{other + 1}." if kind in ("at", "not_at") else things[other] in after


def test_canonical_forms() -> None:
    state = TASK.generate(2, "medium").state
    form = TASK.canonical(problem_of(state))
    assert TASK.canonical(problem_of({**state, "clues": state["clues"][::-1]})) == form
    assert TASK.canonical(problem_of({**state, "clues": state["clues"][:-1]})) != form
    assert TASK.canonical(problem_of(from_game(GAMES[0]["game"])[0])) != form


def test_knobs_are_honored_and_refused() -> None:
    state = TASK.generate(1, "easy(houses=2,categories=6)").state
    assert state["houses"] == 2
    assert [len(category) for category in state["categories"]] == [3] * 6
    for level in ("easy(houses=1)", "easy(houses=7)", "easy(categories=1)", "easy(categories=7)"):
        with pytest.raises(UserError, match="from"):
            TASK.generate(1, level)


def test_published_rows() -> None:
    for row in GAMES:
        state, answer = from_game(row["game"])
        for text in (answer, *row["right"]):
            assert TASK.check(problem_of(state), text)[1] == ""
    for change in ({"question": None}, {"answer": None}, {"answer": "Japanese"}, {"answer": []}, {"answer": {}}):
        with pytest.raises(ValueError, match=r"question|answer"):
            from_game({**GAMES[0]["game"], **change})
