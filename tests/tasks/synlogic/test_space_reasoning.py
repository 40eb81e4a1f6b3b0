"""Space reasoning: the answer against a twin that walks by the prompt's words; shapes; knobs; published rows."""

import cmath
import re
from typing import Any

import pytest

from pear.errors import UserError
from pear.tasks import Problem
from pear.tasks.synlogic.space_reasoning import SpaceReasoning, from_game
from tests.tasks.synlogic.space_reasoning import GAMES

TASK = SpaceReasoning()
SHAPES = ("square", "hexagon", "ring")


def problem_of(state: dict[str, Any]) -> Problem:
    return Problem(task=TASK.name, level="easy", id="x", prompt=(), state=state, answer="")


def from_words(prompt: str) -> tuple[str, set[complex], complex]:
    """What the sign says at the end, the places seen, and the last place: by steps in the plane, or on a circle."""
    circle = re.search(r"circle of (\d+) places", prompt)
    honeycomb = "honeycomb" in prompt
    angles = {"right": 0, "up": 90, "left": 180, "down": 270}
    if honeycomb:
        angles = {"right": 0, "up and right": 60, "up and left": 120, "left": 180}
        angles |= {"down and left": 240, "down and right": 300}

    def moved(place: complex, step: str) -> complex:
        if circle:
            return (place.real + (1 if step == "clockwise" else -1)) % int(circle[1]) + 0j
        found = place + cmath.exp(1j * cmath.pi * angles[step] / 180)
        return complex(round(found.real, 6), round(found.imag, 6)) + 0

    place, known = 0j, {0j: re.findall(r"sign says (\w+)\.", prompt)[0]}
    for step, again, word in re.findall(r"You go one step ([a-z ]+): (again )?(\w+)\.", prompt):
        place = moved(place, step)
        assert bool(again) == (place in known)
        assert known.setdefault(place, word) == word
    assert len(set(known.values())) == len(known)
    start = place
    for step in re.findall(r"one step ([a-z ]+)", prompt.split("closed eyes")[1]):
        place = moved(place, step)
    assert place != start
    return known[place], set(known), place


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("level", TASK.levels)
def test_the_answer_is_what_the_words_say(shape: str, level: str) -> None:
    for seed in range(20):
        problem = TASK.generate(seed, f"{level}(shape={shape})")
        word, seen, _ = from_words(problem.prompt[0]["content"])
        assert word == problem.state["target"]
        assert TASK.check(problem, rf"\boxed{{{word.upper()}}}") == (word, "")
        assert len(seen) == problem.state["places"] - {"easy": 2, "medium": 4, "hard": 8}[level]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_map_of_the_trace_is_right(shape: str) -> None:
    for seed in range(20):
        problem = TASK.generate(seed, f"medium(shape={shape})")
        trace = TASK.solve(problem)
        assert trace is not None
        assert TASK.verify(problem, trace).correct


def test_canonical_forms() -> None:
    state = TASK.generate(3, "medium").state
    form = TASK.canonical(problem_of(state))
    renamed = {**state, "signs": [f"{sign}s" for sign in state["signs"]], "target": f"{state['target']}s"}
    assert TASK.canonical(problem_of(renamed)) == form
    assert TASK.canonical(problem_of({**state, "asked": state["asked"][::-1]})) != form
    assert TASK.canonical(problem_of(from_game(GAMES[0]["game"])[0])) != form


def test_knobs_are_honored_and_refused() -> None:
    state = TASK.generate(1, "easy(shape=ring,n=4,waypoints=20,unknown=6)").state
    assert (state["places"], len(state["asked"]), len(set(state["signs"]))) == (16, 20, 10)
    for level in ("easy(shape=cube)", "easy(n=2)", "easy(n=9)", "easy(waypoints=1)", "easy(unknown=5)"):
        with pytest.raises(UserError, match=r"from|one of"):
            TASK.generate(1, level)


def test_published_rows() -> None:
    for row in GAMES:
        state, answer = from_game(row["game"])
        for text in (answer, *row["right"]):
            assert TASK.check(problem_of(state), text)[1] == ""
        assert TASK.solve(problem_of(state)) is None
    for change in ({"question": ""}, {"answer": None}, {"answer": " "}):
        with pytest.raises(ValueError, match=r"question|answer"):
            from_game({**GAMES[0]["game"], **change})
