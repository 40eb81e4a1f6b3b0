"""Object counting: of all the things that people have, count mine of some kinds."""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pear.tasks.extraction import INSTRUCTION
from pear.tasks.levels import read_level
from pear.tasks.protocol import GeneratedTask, Problem
from pear.tasks.synlogic.boxed import box, published_text, read_count
from pear.tasks.synlogic.grids import digits
from pear.tasks.synlogic.things import KINDS, PEOPLE

# A belonging: owner, kind, name, and the counts: at first, then what came (positive) or went (negative).
Belonging = dict[str, Any]
_ME = "I"
_SMALLEST = 5
_QUESTIONS = ("total", "sum", "difference")


@dataclass(frozen=True, kw_only=True)
class _Knobs:
    kinds: int
    items: int
    others: int
    sequence: int
    largest: int

    def __post_init__(self) -> None:
        fewest = min(map(len, KINDS.values()))
        if not 2 <= self.kinds <= len(KINDS):
            raise ValueError(f"kinds must be from 2 to {len(KINDS)}")
        if not 1 <= self.items <= fewest:
            raise ValueError(f"items must be from 1 to {fewest}")
        if not 0 <= self.others <= 50:
            raise ValueError("others must be from 0 to 50")
        if not 0 <= self.sequence <= 8:
            raise ValueError("sequence must be from 0 to 8")
        if not 2 * _SMALLEST <= self.largest <= 1000:
            raise ValueError(f"largest must be from {2 * _SMALLEST} to 1000")


_LEVELS = {
    "easy": _Knobs(kinds=2, items=2, others=4, sequence=0, largest=20),
    "medium": _Knobs(kinds=4, items=3, others=15, sequence=1, largest=50),
    "hard": _Knobs(kinds=6, items=4, others=30, sequence=3, largest=100),
}


class ObjectCounting(GeneratedTask):
    """Counts my things of one kind, of two kinds together, or by how much the counts of two kinds differ.

    Levels differ in the kinds of things, how many sorts of each I have at most, how many belongings of other people
    are told, how often a count changes at most, and the largest first count:
    easy 2, 2, 4, 0, 20; medium 4, 3, 15, 1, 50; hard 6, 4, 30, 3, 100.

    The answer is `\\boxed{}` around the number.
    """

    name = "synlogic/object_counting"
    knobs = _LEVELS
    levels = tuple(knobs)
    source = "the rules of SynLogic's task `object_counting` (arXiv 2505.19641); texts and generator are this package's"

    def generate(self, seed: int, level: str) -> Problem:
        knobs = read_level(level, _LEVELS)
        # A text seed goes through sha512, not through hash().
        draw = random.Random(f"{self.name}/{level}/{seed}")
        while True:
            belongings, kinds = _draw(draw, knobs)
            question = draw.choice(_QUESTIONS)
            asked = draw.sample(kinds, 1 if question == "total" else 2)
            count = _count(belongings, question, asked)
            if count > 1:
                break
        state = {"belongings": belongings, "question": question, "kinds": asked, "count": count}
        return Problem(
            task=self.name,
            level=level,
            id=f"{self.name}/{level}/{seed}",
            prompt=({"role": "user", "content": _question(state)},),
            state=state,
            answer=box(str(count)),
        )

    def check(self, problem: Problem, answer: str) -> tuple[str, str]:
        count = read_count(answer)
        return str(count), "" if count == problem.state["count"] else "the number is wrong"

    def canonical(self, problem: Problem) -> str:
        """The belongings and the kinds asked for, each in order; of a published problem its text."""
        state = problem.state
        if "text" in state:
            return f"{self.name}:{json.dumps(state['text'], ensure_ascii=False)}"
        belongings = sorted(json.dumps(belonging, sort_keys=True) for belonging in state["belongings"])
        return f"{self.name}:{json.dumps([belongings, state['question'], sorted(state['kinds'])])}"

    def solve(self, problem: Problem) -> str | None:
        state = problem.state
        if "text" in state:
            return None
        steps, totals = [], []
        for kind in state["kinds"]:
            mine = [item for item in state["belongings"] if item["owner"] == _ME and item["kind"] == kind]
            steps += [f"{item['name']}: {_sum(item['counts'])}." for item in mine]
            totals.append(sum(sum(item["counts"]) for item in mine))
            steps.append(f"My {kind}: {_sum([sum(item['counts']) for item in mine])}.")
        if state["question"] == "sum":
            steps.append(f"Together: {_sum(totals)}.")
        if state["question"] == "difference":
            steps.append(f"The difference: {_sum([max(totals), -min(totals)])}.")
        return f"<think> {' '.join(steps)} </think> <answer> {problem.answer} </answer>"


def from_game(game: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The state and the answer of a published row (`question`, and `answer` as digits). Raises `ValueError` where a
    field is missing or has another shape."""
    answer = game.get("answer")
    count = answer if type(answer) is int and answer >= 0 else digits(published_text(game, "answer"))
    return {"text": published_text(game, "question"), "count": count}, box(str(count))


def _draw(draw: random.Random, knobs: _Knobs) -> tuple[list[Belonging], list[str]]:
    """Everybody's belongings in a drawn order, and the kinds; I have something of each kind."""
    kinds = draw.sample(list(KINDS), knobs.kinds)
    owned = [(_ME, kind, name) for kind in kinds for name in draw.sample(KINDS[kind], draw.randint(1, knobs.items))]
    everything = [(person, kind, name) for person in PEOPLE for kind in kinds for name in KINDS[kind]]
    owned += draw.sample(everything, knobs.others)
    draw.shuffle(owned)
    belongings = []
    for owner, kind, name in owned:
        counts = [draw.randint(_SMALLEST, knobs.largest)]
        for _ in range(draw.randint(0, knobs.sequence)):
            change = draw.randint(1, _SMALLEST - 1)
            counts.append(-change if change < sum(counts) and draw.random() < 0.5 else change)
        belongings.append({"owner": owner, "kind": kind, "name": name, "counts": counts})
    return belongings, kinds


def _count(belongings: list[Belonging], question: str, kinds: list[str]) -> int:
    totals = [
        sum(sum(item["counts"]) for item in belongings if item["owner"] == _ME and item["kind"] == kind)
        for kind in kinds
    ]
    return abs(totals[0] - totals[1]) if question == "difference" else sum(totals)


def _question(state: Mapping[str, Any]) -> str:
    kinds = state["kinds"]
    asked = {
        "total": f"How many {kinds[0]} do I have now in total?",
        "sum": f"How many {kinds[0]} and {kinds[-1]} do I have now in total?",
        "difference": f"By how much do the numbers of {kinds[0]} and of {kinds[-1]} that I have now differ?",
    }[state["question"]]
    told = " ".join(_sentence(belonging) for belonging in state["belongings"])
    groups = "; ".join(f"{kind}: {', '.join(_named(state, kind))}" for kind in sorted(kinds))
    return (
        f"{INSTRUCTION}\n\n"
        "Read what people have, and count. Only my own things count, and only those of the kinds asked for.\n\n"
        f"{told}\n\n"
        f"{asked} These count as {groups}.\n\n"
        f"The answer is the number in \\boxed{{}}: if it were 1, {box('1')}."
    )


def _named(state: Mapping[str, Any], kind: str) -> list[str]:
    return sorted({item["name"] for item in state["belongings"] if item["kind"] == kind})


def _sentence(belonging: Belonging) -> str:
    owner, name, (first, *changes) = belonging["owner"], belonging["name"], belonging["counts"]
    who = owner[0].upper() + owner[1:]
    if not changes:
        return f"{who} {'have' if owner == _ME else 'has'} {first} {name}."
    parts = [f"bought {change} more" if change > 0 else f"gave away {-change}" for change in changes]
    return f"{who} had {first} {name}, then {', then '.join(parts)}."


def _sum(numbers: list[int]) -> str:
    """A sum in words of arithmetic: `5 + 3 - 1 = 7`; a single number stands alone."""
    first, *rest = numbers
    if not rest:
        return str(first)
    terms = "".join(f" - {-value}" if value < 0 else f" + {value}" for value in rest)
    return f"{first}{terms} = {sum(numbers)}"
