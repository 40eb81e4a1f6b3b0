"""Goods exchange: who owns what after everybody has exchanged things?"""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pear.tasks.extraction import INSTRUCTION, parse_literal, unwrap
from pear.tasks.levels import read_level
from pear.tasks.protocol import GeneratedTask, Problem

# A key of _SAYS, and people and things by number.
Step = list[Any]
_PEOPLE = ("Anna", "Boris", "Clara", "Dmitri", "Elena", "Felix", "Greta", "Henry", "Ines", "Jonas", "Karin", "Lucas")
_THINGS = (
    "apple",
    "book",
    "camera",
    "drum",
    "easel",
    "flute",
    "globe",
    "hammer",
    "ink pot",
    "jacket",
    "kettle",
    "lamp",
)
_SAYS = {
    "people": "{0} and {1} exchange what they own.",
    "things": "The owners of the {0} and the {1} exchange these two.",
    "mixed": "{0} exchanges what they own with the owner of the {1}.",
    "ring": "{0} gives what they own to {1}, {1} gives theirs to {2}, and {2} gives theirs to {0}, all at once.",
    "if": "If {0} owns the {1}, {0} and {2} exchange what they own; otherwise nothing happens.",
}


@dataclass(frozen=True, kw_only=True)
class _Knobs:
    people: int
    operations: int

    def __post_init__(self) -> None:
        if not 3 <= self.people <= len(_PEOPLE):
            raise ValueError(f"people are from 3 to {len(_PEOPLE)}")
        if not 1 <= self.operations <= 100:
            raise ValueError("operations are from 1 to 100")


_LEVELS = {
    "easy": _Knobs(people=4, operations=4),
    "medium": _Knobs(people=6, operations=10),
    "hard": _Knobs(people=10, operations=25),
}


class GoodsExchange(GeneratedTask):
    """People who own one thing each, and a list of exchanges between them, named by person or by thing.

    Levels differ in the number of people and of exchanges: easy 4, 4; medium 6, 10; hard 10, 25.

    The answer is a list of pairs (person, thing) in any order; upper and lower case are the same.
    """

    name = "synlogic/goods_exchange"
    knobs = _LEVELS
    levels = tuple(knobs)
    source = "the rules of SynLogic's task `goods_exchange` (arXiv 2505.19641); generator and verifier are ours"

    def generate(self, seed: int, level: str) -> Problem:
        knobs = read_level(level, _LEVELS)
        # A text seed goes through sha512, not through hash().
        draw = random.Random(f"{self.name}/{level}/{seed}")
        people = draw.sample(_PEOPLE, knobs.people)
        things = draw.sample(_THINGS, knobs.people)
        steps: list[Step] = []
        owned = list(range(knobs.people))
        while len(steps) < knobs.operations:
            step = _draw_step(draw, owned)
            steps.append(step)
            owned = _after(owned, step)
        state = {"people": people, "things": things, "steps": steps}
        return Problem(
            task=self.name,
            level=level,
            id=f"{self.name}/{level}/{seed}",
            prompt=({"role": "user", "content": _question(state)},),
            state=state,
            answer=_write([(person, things[thing]) for person, thing in zip(people, owned, strict=True)]),
        )

    def check(self, problem: Problem, answer: str) -> tuple[str, str]:
        state = problem.state
        if "owners" in state:
            right = {str(person): str(thing) for person, thing in state["owners"]}
        else:
            right = dict(zip(state["people"], (state["things"][thing] for thing in _replay(state)), strict=True))
        found = _read(answer)
        if {person.casefold() for person in found} != {person.casefold() for person in right}:
            raise ValueError("the people are not those of the puzzle")
        spoken = {person.casefold(): thing.casefold() for person, thing in found.items()}
        wrong = [person for person, thing in right.items() if spoken[person.casefold()] != thing.casefold()]
        reason = f"{len(wrong)} of {len(right)} people own another thing" if wrong else ""
        return json.dumps(sorted(spoken.items()), ensure_ascii=False), reason

    def canonical(self, problem: Problem) -> str:
        """What the names of people and things leave alone; of a published problem its text."""
        state = problem.state
        if "owners" in state:
            return f"{self.name}:{json.dumps(state['text'], ensure_ascii=False)}"
        return f"{self.name}:{json.dumps([len(state['people']), state['steps']])}"

    def solve(self, problem: Problem) -> str | None:
        state = problem.state
        if "owners" in state:
            return None
        people, things = state["people"], state["things"]
        owned = list(range(len(people)))
        lines = []
        for number, step in enumerate(state["steps"], 1):
            after = _after(owned, step)
            changes = [
                f"{people[person]} has the {things[thing]}"
                for person, thing in enumerate(after)
                if thing != owned[person]
            ]
            lines.append(f"{number}. {', '.join(changes) if changes else 'Nothing happens'}.")
            owned = after
        answer = _write([(person, things[thing]) for person, thing in zip(people, owned, strict=True)])
        return f"<think> {' '.join(lines)} </think> <answer> {answer} </answer>"


def from_game(game: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The state and the answer of a published row (`question`, and `metadata.owns_after` as pairs or their text).
    Raises `ValueError` where one is missing or has another shape."""
    question, metadata = game.get("question"), game.get("metadata")
    if not isinstance(question, str) or not question:
        raise ValueError("question is missing")
    value = metadata.get("owns_after") if isinstance(metadata, Mapping) else None
    if not isinstance(value, str | list | tuple | dict) or not value:
        raise ValueError("metadata: owns_after is missing")
    owners = _pairs(parse_literal(value) if isinstance(value, str) else value)
    pairs = sorted(owners.items())
    return {"text": question, "owners": [list(pair) for pair in pairs]}, _write(pairs)


def _question(state: Mapping[str, Any]) -> str:
    people, things = state["people"], state["things"]
    owned = ", ".join(f"{person} owns the {thing}" for person, thing in zip(people, things, strict=True))
    steps = "\n".join(f"{number}. {_said(state, step)}" for number, step in enumerate(state["steps"], 1))
    return (
        f"{INSTRUCTION}\n\n"
        f"{len(people)} people own one thing each. At first {owned}. Then this happens, one after the other:\n\n"
        f"{steps}\n\n"
        "Who owns what in the end? The answer is a tuple of pairs, one for each person, like "
        "(('Zoe', 'spoon'), ('Yves', 'whistle'))."
    )


def _said(state: Mapping[str, Any], step: Step) -> str:
    kind, *numbers = step
    of_things = {"people": (), "things": (0, 1), "mixed": (1,), "ring": (), "if": (1,)}[kind]
    words = [state["things" if place in of_things else "people"][number] for place, number in enumerate(numbers)]
    return _SAYS[kind].format(*words)


def _write(pairs: Sequence[tuple[str, str]]) -> str:
    return repr(tuple((person, thing) for person, thing in pairs))


def _read(answer: str) -> dict[str, str]:
    return _pairs(parse_literal(unwrap(answer)))


def _pairs(value: Any) -> dict[str, str]:
    items = list(value.items()) if isinstance(value, dict) else value
    if not isinstance(items, list | tuple):
        raise ValueError("the answer is not a tuple of pairs")
    found: dict[str, str] = {}
    for pair in items:
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(isinstance(word, str) for word in pair):
            raise ValueError("a pair is not a person and a thing")
        person, thing = (word.strip() for word in pair)
        if person in found:
            raise ValueError("a person is there twice")
        found[person] = thing
    return found


def _draw_step(draw: random.Random, owned: Sequence[int]) -> Step:
    """A step that changes something; but an `if` whose condition is as often wrong."""
    people = range(len(owned))
    kind = draw.choice(list(_SAYS))
    one, other, third = draw.sample(people, 3)
    if kind == "things":
        return [kind, owned[one], owned[other]]
    if kind == "mixed":
        return [kind, one, owned[other]]
    if kind == "ring":
        return [kind, one, other, third]
    if kind == "if":
        return [kind, one, owned[draw.choice((one, third))], other]
    return [kind, one, other]


def _after(owned: Sequence[int], step: Step) -> list[int]:
    """What each person owns after a step; `owned` is what they own before it."""
    kind, *numbers = step
    if kind == "if" and owned[numbers[0]] != numbers[1]:
        return list(owned)
    owner = {thing: person for person, thing in enumerate(owned)}
    receivers = {
        "people": lambda: numbers,
        "things": lambda: [owner[numbers[0]], owner[numbers[1]]],
        "mixed": lambda: [numbers[0], owner[numbers[1]]],
        "ring": lambda: numbers,
        "if": lambda: [numbers[0], numbers[2]],
    }[kind]()
    after = list(owned)
    # Each gives to the next, and the last one to the first.
    for giver, receiver in zip(receivers, [*receivers[1:], receivers[0]], strict=True):
        after[receiver] = owned[giver]
    return after


def _replay(state: Mapping[str, Any]) -> list[int]:
    owned = list(range(len(state["people"])))
    for step in state["steps"]:
        owned = _after(owned, step)
    return owned
