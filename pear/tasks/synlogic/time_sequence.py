"""Time sequence: find the longest meeting that fits into the calendars of several people."""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pear.tasks.extraction import INSTRUCTION, parse_literal, unwrap
from pear.tasks.levels import read_level
from pear.tasks.protocol import GeneratedTask, Problem

# Times are slots of five minutes since 9:00; the day ends at 17:00.
_SLOT = 5
_SLOTS = 96
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday")
_NAMES = ("Alice", "Bruno", "Carla", "David", "Elena", "Felix", "Grace", "Hugo", "Irene", "Jonas", "Karin", "Leon")
_MAX_ANSWER = 1_000
_RULES = {
    "before": "needs 10 free minutes right before the meeting; minutes before 9:00 count as free",
    "after": "needs 10 free minutes right after the meeting; minutes after 17:00 count as free",
    "early": "wants the meeting to be over by 16:00",
    "lunch": "has lunch on Wednesday from 12:30 to 13:00",
    "morning": "can cancel every appointment that ends by 9:45",
    "short": "can cancel every appointment of 30 minutes or less",
    "tuesday": "can only meet on Tuesday and Thursday, for 60 minutes at most",
    "friday": "can only meet on Tuesday and Friday, for 30 minutes at most",
}
_LIMITS = {"tuesday": (("Tuesday", "Thursday"), 60), "friday": (("Tuesday", "Friday"), 30)}
# A person: name, rule ("" for none), and for each day whether the times are those that are free, and the times.
Person = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class _Knobs:
    people: int
    rule_rate: float

    def __post_init__(self) -> None:
        if not 2 <= self.people <= len(_NAMES):
            raise ValueError(f"people is from 2 to {len(_NAMES)}")
        if not 0 <= self.rule_rate <= 1:
            raise ValueError("rule_rate is from 0 to 1")


_LEVELS = {
    "easy": _Knobs(people=2, rule_rate=0.3),
    "medium": _Knobs(people=3, rule_rate=0.6),
    "hard": _Knobs(people=5, rule_rate=0.9),
}


class TimeSequence(GeneratedTask):
    """The calendars of a week and the wishes of some people. Each problem has one answer.

    Levels differ in the number of people and in the share of them that has a wish: easy 2, 0.3; medium 3, 0.6; hard 5,
    0.9.

    The answer is `[minutes, count]`: the longest meeting that starts at a full or half hour, and at how many times of
    the week a meeting of that length can start; `[0, 0]` where none can.
    """

    name = "synlogic/time_sequence"
    knobs = _LEVELS
    levels = tuple(knobs)
    source = (
        "the rules of SynLogic's task `time_sequence` (arXiv 2505.19641); generator and verifier are this package's"
    )

    def generate(self, seed: int, level: str) -> Problem:
        knobs = read_level(level, _LEVELS)
        # A text seed goes through sha512, not through hash().
        draw = random.Random(f"{self.name}/{level}/{seed}")
        people = [_draw_person(draw, name, knobs) for name in draw.sample(_NAMES, knobs.people)]
        lengths = _lengths(people)
        longest = max(lengths.values())
        answer = [longest, sum(length == longest for length in lengths.values()) if longest else 0]
        return Problem(
            task=self.name,
            level=level,
            id=f"{self.name}/{level}/{seed}",
            prompt=({"role": "user", "content": _question(people)},),
            state={"people": people, "answer": answer},
            answer=json.dumps(answer),
        )

    def check(self, problem: Problem, answer: str) -> tuple[str, str]:
        if len(answer) > _MAX_ANSWER:
            raise ValueError(f"the answer is longer than {_MAX_ANSWER:,} characters")
        found = _read_pair(parse_literal(unwrap(answer)))
        length, count = problem.state["answer"]
        reason = "the length is another" if found[0] != length else "the count is another" if found[1] != count else ""
        return json.dumps(found), reason

    def canonical(self, problem: Problem) -> str:
        """The people without their names, in any order."""
        people = [json.dumps({**person, "name": ""}, sort_keys=True) for person in problem.state["people"]]
        return f"{self.name}:{json.dumps(sorted(people))}"

    def solve(self, problem: Problem) -> str:
        lengths = _lengths(problem.state["people"])
        steps = []
        for day in _DAYS:
            starts = [
                f"{_clock(start)} for {lengths[day, start]}" for start in range(0, _SLOTS, 6) if lengths[day, start]
            ]
            steps.append(f"{day}, in minutes: {', '.join(starts) or 'nothing'}.")
        return f"<think> {' '.join(steps)} </think> <answer> {problem.answer} </answer>"


def from_game(game: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The state and the right answer of a published row (`metadata.records`: raw_schedule, rules_desc, and answers with
    answer_maxLen and answer_nums). Raises `ValueError` where a field is missing or has another shape."""
    metadata = game.get("metadata")
    records = metadata.get("records") if isinstance(metadata, Mapping) else None
    if not isinstance(records, Mapping) or not isinstance(records.get("answers"), Mapping):
        raise ValueError("metadata: records.answers is missing")
    try:
        answer = _read_pair([records["answers"].get("answer_maxLen"), records["answers"].get("answer_nums")])
    except ValueError as error:
        raise ValueError(f"metadata: records.answers: {error}") from None
    schedule, rules = records.get("raw_schedule"), records.get("rules_desc")
    if not isinstance(schedule, Mapping) or not schedule or not isinstance(rules, Mapping):
        raise ValueError("metadata: records has no raw_schedule or rules_desc")
    people = [{"name": name, "rule": rules.get(name, ""), "days": days} for name, days in schedule.items()]
    return {"people": people, "answer": answer}, json.dumps(answer)


def _read_pair(value: Any) -> list[int]:
    if not isinstance(value, list | tuple) or len(value) != 2 or any(type(item) is not int for item in value):
        raise ValueError("the answer is not a list of two whole numbers")
    if any(not 0 <= item <= 100_000 for item in value):
        raise ValueError("the answer's numbers are out of range")
    return list(value)


def _draw_person(draw: random.Random, name: str, knobs: _Knobs) -> Person:
    rule = draw.choice(list(_RULES)) if draw.random() < knobs.rule_rate else ""
    days = {day: [draw.random() < 0.5, _draw_times(draw)] for day in _DAYS}
    return {"name": name, "rule": rule, "days": days}


def _draw_times(draw: random.Random) -> list[list[int]]:
    """Two to four spans of time that do not touch, as [start, end]."""
    ends = sorted(draw.sample(range(_SLOTS + 1), 2 * draw.randint(2, 4)))
    return [list(pair) for pair in zip(ends[::2], ends[1::2], strict=True)]


def _busy(person: Person, day: str) -> list[bool]:
    """Which slots of a day a person cannot give to the meeting or to the minutes around it."""
    free, times = person["days"][day]
    if free:
        edges = [0, *(edge for span in times for edge in span), _SLOTS]
        times = [[start, end] for start, end in zip(edges[::2], edges[1::2], strict=True) if start < end]
    if person["rule"] == "morning":
        times = [span for span in times if span[1] > 9]
    elif person["rule"] == "short":
        times = [span for span in times if span[1] - span[0] > 6]
    elif person["rule"] == "early":
        times = [*times, [84, _SLOTS]]
    elif person["rule"] == "lunch" and day == "Wednesday":
        times = [*times, [42, 48]]
    elif person["rule"] in _LIMITS and day not in _LIMITS[person["rule"]][0]:
        times = [[0, _SLOTS]]
    # Free minutes before or after a meeting are as good as appointments that end later or start earlier.
    before, after = 2 * (person["rule"] == "after"), 2 * (person["rule"] == "before")
    busy = [False] * _SLOTS
    for start, end in times:
        for slot in range(max(0, start - before), min(_SLOTS, end + after)):
            busy[slot] = True
    return busy


def _lengths(people: Sequence[Person]) -> dict[tuple[str, int], int]:
    """The longest meeting, in minutes, that can start at each full and half hour."""
    limit = min([_LIMITS[person["rule"]][1] for person in people if person["rule"] in _LIMITS], default=_SLOT * _SLOTS)
    lengths = {}
    for day in _DAYS:
        busy = [any(slot) for slot in zip(*(_busy(person, day) for person in people), strict=True)]
        for start in range(0, _SLOTS, 6):
            end = next((slot for slot in range(start, _SLOTS) if busy[slot]), _SLOTS)
            lengths[day, start] = min(limit, _SLOT * (end - start))
    return lengths


def _clock(slot: int) -> str:
    return f"{9 + slot // 12}:{slot % 12 * _SLOT:02d}"


def _question(people: Sequence[Person]) -> str:
    parts = []
    for person in people:
        lines = []
        for day, (free, times) in person["days"].items():
            spans = ", ".join(f"{_clock(start)}-{_clock(end)}" for start, end in times)
            lines.append(f"{day}: {'free' if free else 'appointments'} {spans}")
        parts.append(f"{person['name']}\n" + "\n".join(lines))
    wishes = [f"{person['name']} {_RULES[person['rule']]}." for person in people if person["rule"]]
    return (
        f"{INSTRUCTION}\n\n"
        "These are the calendars of some people for a week; the working day is from 9:00 to 17:00. Where a day lists "
        "appointments, the person is free in the rest of the day; where it lists free times, the person has one "
        "appointment in each gap between them, and before the first and after the last.\n\n"
        + "\n\n".join(parts)
        + ("\n\n" + "\n".join(wishes) if wishes else "")
        + "\n\nAll of them are to meet once, within one working day, at a time when all are free. The meeting starts "
        "at a full or half hour; where it ends does not matter. How long, in minutes, can it be at most, and at how "
        "many different times of the week could a meeting of that length start? If no meeting is possible, both "
        "are 0.\nThe answer is the two numbers in brackets, like [485, 3]."
    )
