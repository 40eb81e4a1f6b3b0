"""Space reasoning: after a walk on a map that is known only from what was found on the way, what is where?"""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pear.tasks.extraction import INSTRUCTION
from pear.tasks.levels import read_level
from pear.tasks.protocol import GeneratedTask, Problem
from pear.tasks.synlogic.boxed import box, published_text, read_box
from pear.tasks.synlogic.grids import Place
from pear.tasks.synlogic.words import WORDS

# By shape, the steps and where they lead, as a change of row and column.
_STEPS: dict[str, dict[str, Place]] = {
    "square": {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)},
    "hexagon": {
        "left": (0, -1),
        "right": (0, 1),
        "up and left": (-1, 0),
        "up and right": (-1, 1),
        "down and left": (1, -1),
        "down and right": (1, 0),
    },
    "ring": {"clockwise": (0, 1), "counterclockwise": (0, -1)},
}
_MAPS = {
    "square": "a square grid. Each place has neighbors above, below, to the left and to the right, unless it lies at "
    "the edge",
    "hexagon": "a board of hexagons, like a honeycomb. Each place has six neighbors, unless it lies at the edge: left, "
    "right, up and left, up and right, down and left, and down and right. A step up and left followed by a step right "
    "leads to the same place as a step up and right",
    "ring": "a circle of {places} places. Each place has a neighbor clockwise and one counterclockwise",
}


@dataclass(frozen=True, kw_only=True)
class _Knobs:
    shape: str
    n: int
    waypoints: int
    unknown: int

    def __post_init__(self) -> None:
        if self.shape not in _STEPS:
            raise ValueError(f"shape is one of {', '.join(_STEPS)}")
        if not 3 <= self.n <= 8:
            raise ValueError("n is from 3 to 8")
        if not 2 <= self.waypoints <= 50:
            raise ValueError("waypoints are from 2 to 50")
        if not 0 <= self.unknown <= self.n * self.n // 2:
            raise ValueError("unknown is from 0 to half the places")


_LEVELS = {
    "easy": _Knobs(shape="square", n=3, waypoints=3, unknown=2),
    "medium": _Knobs(shape="square", n=4, waypoints=7, unknown=4),
    "hard": _Knobs(shape="hexagon", n=5, waypoints=12, unknown=8),
}


class SpaceReasoning(GeneratedTask):
    """A walk through places with a word on a sign in each, and then steps without looking; what does the last sign say?

    Levels differ in the shape of the map (square, hexagon or ring), its side n (a ring has n x n places), the number of
    steps that are asked for, and how many places are never seen: easy square 3, 3, 2; medium square 4, 7, 4; hard
    hexagon 5, 12, 8.

    The answer is the word, in `\\boxed{}` or bare; upper and lower case are the same.
    """

    name = "synlogic/space_reasoning"
    knobs = _LEVELS
    levels = tuple(knobs)
    source = "the rules of SynLogic's task `space_reasoning` (arXiv 2505.19641); texts and maps are this package's"

    def generate(self, seed: int, level: str) -> Problem:
        knobs = read_level(level, _LEVELS)
        # A text seed goes through sha512, not through hash().
        draw = random.Random(f"{self.name}/{level}/{seed}")
        places = _places(knobs)
        start = draw.choice(places)
        seen, walk = _explore(draw, knobs, start, len(places) - knobs.unknown)
        asked = _draw_steps(draw, knobs, _end(knobs.shape, len(places), start, walk), seen)
        words = dict(zip(sorted(seen), draw.sample(WORDS, len(seen)), strict=True))
        at, signs = start, [words[start]]
        for step in walk:
            at = _moved(knobs.shape, len(places), at, step)
            signs.append(words[at])
        target = words[_end(knobs.shape, len(places), at, asked)]
        state = {
            "shape": knobs.shape,
            "places": len(places),
            "walk": walk,
            "signs": signs,
            "asked": asked,
            "target": target,
        }
        return Problem(
            task=self.name,
            level=level,
            id=f"{self.name}/{level}/{seed}",
            prompt=({"role": "user", "content": _question(state)},),
            state=state,
            answer=box(target),
        )

    def check(self, problem: Problem, answer: str) -> tuple[str, str]:
        found = " ".join(read_box(answer).split()).casefold()
        if not found:
            raise ValueError("the answer is empty")
        target = " ".join(problem.state["target"].split()).casefold()
        return found, "" if found == target else "this is not there"

    def canonical(self, problem: Problem) -> str:
        """The steps, and at which of them the same sign is seen again; of a published problem its text."""
        state = problem.state
        if "text" in state:
            return f"{self.name}:{json.dumps(state['text'], ensure_ascii=False)}"
        return f"{self.name}:{json.dumps([state['shape'], state['places'], state['walk'], state['asked']])}"

    def solve(self, problem: Problem) -> str | None:
        """Keeps a map with the start at (0, 0); None for a published problem."""
        state = problem.state
        if "text" in state:
            return None
        place: Place = (0, 0)
        known = {place: state["signs"][0]}
        lines = [f"I call the start (0, 0): {state['signs'][0]}."]
        for step, sign in zip(state["walk"], state["signs"][1:], strict=True):
            place = _moved(state["shape"], state["places"], place, step)
            if place not in known:
                lines.append(f"{place}: {sign}.")
            known[place] = sign
        lines.append(f"I stand at {place}.")
        for step in state["asked"]:
            place = _moved(state["shape"], state["places"], place, step)
            lines.append(f"{step}: {place}.")
        return f"<think> {' '.join(lines)} </think> <answer> {box(known[place])} </answer>"


def from_game(game: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The state and the answer of a published row (`question`, and `answer`, a name). Raises `ValueError` where one is
    missing."""
    target = read_box(published_text(game, "answer"))
    return {"text": published_text(game, "question"), "target": target}, box(target)


def _question(state: Mapping[str, Any]) -> str:
    first, *signs = state["signs"]
    seen = {first}
    told = []
    for step, sign in zip(state["walk"], signs, strict=True):
        told.append(f"You go one step {step}: {'again ' if sign in seen else ''}{sign}.")
        seen.add(sign)
    asked = ", ".join(f"one step {step}" for step in state["asked"])
    return (
        f"{INSTRUCTION}\n\n"
        f"You walk on a map that is {_MAPS[state['shape']].format(places=state['places'])}. In every place stands a "
        "sign with a word, another word in every place.\n\n"
        f"You start in a place whose sign says {first}. {' '.join(told)}\n\n"
        f"From there you go, with closed eyes: {asked}. Then you open your eyes. Which word is on the sign in front of "
        "you?\n\n"
        "The answer is the word in \\boxed{}, such as \\boxed{word}."
    )


def _places(knobs: _Knobs) -> list[Place]:
    if knobs.shape == "ring":
        return [(0, number) for number in range(knobs.n * knobs.n)]
    return [(row, column) for row in range(knobs.n) for column in range(knobs.n)]


def _moved(shape: str, places: int, place: Place, step: str) -> Place:
    down, right = _STEPS[shape][step]
    if shape == "ring":
        return 0, (place[1] + right) % places
    return place[0] + down, place[1] + right


def _end(shape: str, places: int, place: Place, steps: Sequence[str]) -> Place:
    for step in steps:
        place = _moved(shape, places, place, step)
    return place


def _options(knobs: _Knobs, place: Place) -> list[str]:
    """The steps that stay on the map."""
    places = set(_places(knobs))
    return [step for step in _STEPS[knobs.shape] if _moved(knobs.shape, len(places), place, step) in places]


def _explore(draw: random.Random, knobs: _Knobs, start: Place, count: int) -> tuple[set[Place], list[str]]:
    """A walk that sees so many places, going back where there is nothing new, and the places that it sees."""
    size = len(_places(knobs))
    back = {
        step: other
        for step, change in _STEPS[knobs.shape].items()
        for other, reverse in _STEPS[knobs.shape].items()
        if (change[0] + reverse[0], change[1] + reverse[1]) == (0, 0)
    }
    seen, walk, trail, at = {start}, list[str](), list[str](), start
    while len(seen) < count:
        new = [step for step in _options(knobs, at) if _moved(knobs.shape, size, at, step) not in seen]
        if new:
            step = draw.choice(new)
            trail.append(step)
        else:
            step = back[trail.pop()]
        walk.append(step)
        at = _moved(knobs.shape, size, at, step)
        seen.add(at)
    return seen, walk


def _draw_steps(draw: random.Random, knobs: _Knobs, start: Place, seen: set[Place]) -> list[str]:
    """So many steps, anywhere on the map, that end in a place that was seen and is not the one where they start."""
    size = len(_places(knobs))
    for _ in range(1000):
        at, steps = start, list[str]()
        for _ in range(knobs.waypoints):
            steps.append(draw.choice(_options(knobs, at)))
            at = _moved(knobs.shape, size, at, steps[-1])
        if at in seen and at != start:
            return steps
    raise AssertionError("no such steps in 1,000 trials")
