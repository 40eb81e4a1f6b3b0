"""Web of lies: who tells the truth, by what people say of each other?"""

import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pear.tasks.extraction import INSTRUCTION, parse_literal, unwrap
from pear.tasks.levels import read_level
from pear.tasks.protocol import GeneratedTask, Problem

# Who speaks, a key of _SAYS, and of whom (by number).
Claim = list[Any]
_NAMES: tuple[str, ...] = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gail", "Hugo")
_NAMES += ("Iris", "Jack", "Kate", "Leo", "Mona", "Ned", "Olga", "Paul")
_SAYS = {
    "honest": "{0} tells the truth",
    "lies": "{0} lies",
    "same": "{0} and I are of the same kind",
    "other": "{0} and I are of different kinds",
    "either": "{0} or {1} tells the truth, or both do",
    "both": "{0} and {1} both tell the truth",
}
_ABOUT_TWO = ("either", "both")
_ANSWER = re.compile(r"(?:the answer is|答案是)?[\s:\uff1a]*(?:\*\*)?(?P<words>[^*\[\]]*)(?:\*\*)?\s*[.。]?")
_VALUES = {"yes": True, "no": False, "是": True, "否": False}


@dataclass(frozen=True, kw_only=True)
class _Knobs:
    people: int
    targets: int
    told: int
    about_two: float

    def __post_init__(self) -> None:
        if not 3 <= self.people <= len(_NAMES):
            raise ValueError(f"people are from 3 to {len(_NAMES)}")
        if not 1 <= self.told < self.people:
            raise ValueError("told is from 1 to people - 1")
        if not 1 <= self.targets <= self.people - self.told:
            raise ValueError("targets are from 1 to people - told")
        if not 0 <= self.about_two <= 1:
            raise ValueError("about_two is from 0 to 1")


_LEVELS = {
    "easy": _Knobs(people=5, targets=2, told=2, about_two=0.0),
    "medium": _Knobs(people=8, targets=3, told=1, about_two=0.2),
    "hard": _Knobs(people=14, targets=6, told=1, about_two=0.4),
}


class WebOfLies(GeneratedTask):
    """People who always tell the truth or always lie say of each other what they are; some of them are asked for.

    Levels differ in how many people there are, how many are asked for, of how many it is told what they are, and in the
    share of claims about two others: easy 5, 2, 2, 0; medium 8, 3, 1, 0.2; hard 14, 6, 1, 0.4. What everybody is
    follows from what is said.

    The answer is yes or no for each person asked for, in order.
    """

    name = "synlogic/web_of_lies"
    knobs = _LEVELS
    levels = tuple(knobs)
    source = "the rules of SynLogic's task `web_of_lies` (arXiv 2505.19641); generator and verifier are this package's"

    def generate(self, seed: int, level: str) -> Problem:
        knobs = read_level(level, _LEVELS)
        # A text seed goes through sha512, not through hash().
        draw = random.Random(f"{self.name}/{level}/{seed}")
        honest = [draw.random() < 0.5 for _ in range(knobs.people)]
        order = draw.sample(range(knobs.people), knobs.people)
        told = sorted(order[: knobs.told])
        targets = order[knobs.told :][: knobs.targets]
        claims = [_draw_claim(draw, knobs, honest, speaker) for speaker in range(knobs.people)]
        left = _models(knobs.people, [[person, honest[person]] for person in told], claims)
        while left & left - 1:
            claim = _draw_claim(draw, knobs, honest, draw.randrange(knobs.people))
            fewer = left & _models(knobs.people, [], [claim])
            if fewer != left:
                left = fewer
                claims.append(claim)
        draw.shuffle(claims)
        state: dict[str, Any] = {
            "people": draw.sample(_NAMES, knobs.people),
            "told": [[person, honest[person]] for person in told],
            "claims": claims,
            "targets": targets,
            "honest": [honest[person] for person in targets],
        }
        return Problem(
            task=self.name,
            level=level,
            id=f"{self.name}/{level}/{seed}",
            prompt=({"role": "user", "content": _question(state)},),
            state=state,
            answer=_write(state["honest"]),
        )

    def check(self, problem: Problem, answer: str) -> tuple[str, str]:
        honest: list[bool] = problem.state["honest"]
        found = _read(answer)
        if len(found) != len(honest):
            raise ValueError(f"the answer has not {len(honest)} words")
        wrong = sum(one != other for one, other in zip(found, honest, strict=True))
        return _write(found), f"{wrong} of {len(honest)} are wrong" if wrong else ""

    def canonical(self, problem: Problem) -> str:
        """What the order of the claims and the names leave alone; of a published problem its text."""
        state = problem.state
        if "text" in state:
            return f"{self.name}:{json.dumps(state['text'], ensure_ascii=False)}"
        claims = sorted([speaker, kind, *sorted(about)] for speaker, kind, *about in state["claims"])
        return f"{self.name}:{json.dumps([len(state['people']), state['told'], claims, state['targets']])}"

    def solve(self, problem: Problem) -> str | None:
        """Goes from who is known to who follows, by one claim each; None where that does not reach everybody asked
        for, or the problem is a published one."""
        state = problem.state
        if "text" in state:
            return None
        known: dict[int, bool] = dict(state["told"])
        steps = [f"{state['people'][person]} {_kind(value)}, as told." for person, value in known.items()]
        progress = True
        while progress and not all(person in known for person in state["targets"]):
            progress = False
            for claim in state["claims"]:
                for person, value in _following(claim, known):
                    known[person] = value
                    progress = True
                    steps.append(f"{_said(state, claim)} So {state['people'][person]} {_kind(value)}.")
        if not all(person in known for person in state["targets"]):
            return None
        answer = _write([known[person] for person in state["targets"]])
        return f"<think> {' '.join(steps)} </think> <answer> {answer} </answer>"


def from_game(game: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The state and the answer of a published row (`question`, and `answer` like `yes, no`, or of `metadata` the people
    with `is_target` and `is_truth_teller`). Raises `ValueError` where there is neither."""
    question, answer, metadata = game.get("question"), game.get("answer"), game.get("metadata")
    if not isinstance(question, str) or not question:
        raise ValueError("question is missing")
    if isinstance(answer, str) and answer.strip():
        honest = _read(answer)
    else:
        people = metadata.get("people") if isinstance(metadata, Mapping) else None
        if not isinstance(people, list) or not all(isinstance(person, Mapping) for person in people):
            raise ValueError("neither `answer` nor metadata.people says who tells the truth")
        honest = [person.get("is_truth_teller") for person in people if person.get("is_target")]
        if not honest or not all(isinstance(value, bool) for value in honest):
            raise ValueError("metadata: people does not say who tells the truth")
    return {"text": question, "honest": honest}, _write(honest)


def _question(state: Mapping[str, Any]) -> str:
    names = state["people"]
    told = " ".join(f"{names[person]} {_kind(value)}." for person, value in state["told"])
    asked = ", ".join(names[person] for person in state["targets"])
    return (
        f"{INSTRUCTION}\n\n"
        f"There are {len(names)} people: {', '.join(names)}. Each of them is of one of two kinds: some always tell the "
        "truth, and all that they say is true; the others always lie, and all that they say is false.\n\n"
        f"{told}\n"
        + "\n".join(_said(state, claim) for claim in state["claims"])
        + f"\n\nDo these people tell the truth: {asked}?\n\n"
        "The answer is yes or no for each of them, in this order, with commas between, such as: yes, no."
    )


def _said(state: Mapping[str, Any], claim: Claim) -> str:
    names = state["people"]
    speaker, kind, *about = claim
    return f'{names[speaker]} says: "{_SAYS[kind].format(*(names[person] for person in about))}."'


def _kind(honest: bool) -> str:
    return "tells the truth" if honest else "lies"


def _write(honest: Sequence[bool]) -> str:
    return ", ".join("yes" if value else "no" for value in honest)


def _read(answer: str) -> list[bool]:
    text = unwrap(answer).lower()
    if text.startswith("["):
        words = parse_literal(text)
    elif match := _ANSWER.fullmatch(text):
        words = [word.strip(" \t\n.。") for word in re.split(r"[,\uff0c]", match["words"])]
    else:
        words = None
    if not isinstance(words, list) or not all(isinstance(word, str) and word in _VALUES for word in words):
        raise ValueError("the answer is not a list of yes and no")
    return [_VALUES[word] for word in words]


def _is_true(kind: str, speaker: int, about: Sequence[int]) -> int:
    """Whether a claim is true; ints as bits, one for each of any number of worlds."""
    first = about[0]
    if kind in ("same", "other"):
        return ~(first ^ speaker) if kind == "same" else first ^ speaker
    if kind in _ABOUT_TWO:
        return first | about[1] if kind == "either" else first & about[1]
    return first if kind == "honest" else ~first


def _draw_claim(draw: random.Random, knobs: _Knobs, honest: Sequence[bool], speaker: int) -> Claim:
    """Something that this speaker may say: true from an honest one, false from a liar."""
    others = [person for person in range(knobs.people) if person != speaker]
    while True:
        two = draw.random() < knobs.about_two
        kind = draw.choice([kind for kind in _SAYS if (kind in _ABOUT_TWO) == two])
        about = draw.sample(others, 2 if two else 1)
        true = _is_true(kind, -int(honest[speaker]), [-int(honest[person]) for person in about])
        if bool(true) == honest[speaker]:
            return [speaker, kind, *about]


def _models(people: int, told: Sequence[Sequence[Any]], claims: Sequence[Claim]) -> int:
    """The worlds in which all of this holds. A world is a number whose bits say who is honest; a set of worlds is an
    int with a bit for each."""
    worlds = 1 << people
    everywhere = (1 << worlds) - 1
    # Bit w of honest[p]: bit p of w. Blocks of 2^p zeros and 2^p ones, in turns.
    honest = [everywhere // ((1 << (1 << person)) + 1) << (1 << person) for person in range(people)]
    left = everywhere
    for person, value in told:
        left &= honest[person] if value else ~honest[person]
    for speaker, kind, *about in claims:
        left &= ~(honest[speaker] ^ _is_true(kind, honest[speaker], [honest[person] for person in about]))
    return left


def _following(claim: Claim, known: Mapping[int, bool]) -> list[tuple[int, bool]]:
    """Who of a claim's people is what in every world of theirs in which it holds, and was not known before."""
    members = list(dict.fromkeys([claim[0], *claim[2:]]))
    places = {person: place for place, person in enumerate(members)}
    told = [[places[person], known[person]] for person in members if person in known]
    left = _models(len(members), told, [[places[claim[0]], claim[1], *(places[person] for person in claim[2:])]])
    worlds = [world for world in range(1 << len(members)) if left >> world & 1]
    found = []
    for person, place in places.items():
        values = {bool(world >> place & 1) for world in worlds}
        if person not in known and len(values) == 1:
            found.append((person, values.pop()))
    return found
