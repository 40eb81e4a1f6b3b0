"""Time sequence: answers against a minute-by-minute twin that reads the prompt, symmetries, knobs, published rows."""

import json
import re

import pytest

from pear.errors import UserError
from pear.tasks import Problem
from pear.tasks.synlogic.time_sequence import TimeSequence, from_game
from tests.tasks.synlogic.time_sequence import GAMES

TASK = TimeSequence()
OPEN, CLOSE = 9 * 60, 17 * 60
Spans = list[tuple[int, int]]


def minutes(clock: str) -> int:
    hours, rest = clock.split(":")
    return 60 * int(hours) + int(rest)


def read(prompt: str) -> tuple[dict[str, dict[str, Spans]], dict[str, str]]:
    """Each person's appointments by day, and each wish, from the prompt."""
    calendars: dict[str, dict[str, Spans]] = {}
    for block in prompt.split("\n\n"):
        name, _, rest = block.partition("\n")
        for day, kind, text in re.findall(r"(\w+day): (free|appointments) (.*)", rest):
            spans = [(minutes(start), minutes(end)) for start, end in re.findall(r"([\d:]+)-([\d:]+)", text)]
            if kind == "free":
                edges = [OPEN, *(edge for span in spans for edge in span), CLOSE]
                spans = [(edges[at], edges[at + 1]) for at in range(0, len(edges), 2) if edges[at] < edges[at + 1]]
            calendars.setdefault(name, {})[day] = spans
    wishes = {name: match[1] for name in calendars if (match := re.search(rf"^{name} (.*)\.$", prompt, re.MULTILINE))}
    return calendars, wishes


def fits(appointments: Spans, wish: str, day: str, start: int, end: int) -> bool:
    """Whether one person can be at a meeting."""
    if wish.startswith("can cancel every appointment that ends"):
        appointments = [span for span in appointments if span[1] > minutes("9:45")]
    if wish.startswith("can cancel every appointment of"):
        appointments = [span for span in appointments if span[1] - span[0] > 30]
    if wish.startswith("wants") and end > minutes("16:00"):
        return False
    if wish.startswith("has lunch") and day == "Wednesday":
        appointments = [*appointments, (minutes("12:30"), minutes("13:00"))]
    if wish.startswith("can only meet"):
        days, longest = re.findall(r"\w+day", wish), int(re.findall(r"\d+", wish)[0])
        if day not in days or end - start > longest:
            return False
    first = start - 10 * ("right before" in wish)
    last = end + 10 * ("right after" in wish)
    return all(last <= one or first >= other for one, other in appointments)


def naive(prompt: str) -> list[int]:
    calendars, wishes = read(prompt)
    days = list(next(iter(calendars.values())))
    for length in range(CLOSE - OPEN, 0, -5):
        count = sum(
            all(fits(spans[day], wishes.get(name, ""), day, start, start + length) for name, spans in calendars.items())
            for day in days
            for start in range(OPEN, CLOSE - length + 1, 30)
        )
        if count:
            return [length, count]
    return [0, 0]


@pytest.mark.parametrize("level", [*TASK.levels, "easy(people=2,rule_rate=1)"])
def test_answers_agree_with_the_naive_search_in_the_prompt(level: str) -> None:
    answers = []
    for seed in range(20):
        problem = TASK.generate(seed, level)
        answers.append(naive(problem.prompt[0]["content"]))
        assert json.loads(problem.answer) == answers[-1], problem.id
    assert len({tuple(answer) for answer in answers}) > 5


def test_every_wish_occurs() -> None:
    rules = {person["rule"] for seed in range(20) for person in TASK.generate(seed, "hard").state["people"]}
    assert len(rules) == 9


def test_canonical_forms_forget_names_and_order() -> None:
    problem = TASK.generate(3, "medium")
    people = problem.state["people"]
    renamed = [{**person, "name": f"N{number}"} for number, person in enumerate(people)][::-1]

    def form(people: list[dict]) -> str:
        state = {**problem.state, "people": people}
        return TASK.canonical(Problem(task=TASK.name, level="easy", id="x", prompt=(), state=state, answer=""))

    assert form(renamed) == form(people) == TASK.canonical(problem)
    assert form([{**people[0], "rule": "no rule"}, *people[1:]]) != form(people)


def test_knobs_are_honored_and_refused() -> None:
    for rate, count in ((0, 0), (1, 4)):
        people = TASK.generate(1, f"easy(people=4,rule_rate={rate})").state["people"]
        assert len({person["name"] for person in people}) == 4
        assert sum(bool(person["rule"]) for person in people) == count
    for change in ("people=1", "people=13", "rule_rate=-0.1", "rule_rate=50", "rule_rate=nan"):
        with pytest.raises(UserError, match="from"):
            TASK.generate(1, f"easy({change})")


def test_published_rows() -> None:
    assert [from_game(row["game"])[1] for row in GAMES] == ["[30, 5]", "[0, 0]"]
    records = GAMES[0]["game"]["metadata"]["records"]
    for change in (
        {"answers": None},
        {"answers": {"answer_maxLen": 30}},
        {"answers": {"answer_maxLen": "30", "answer_nums": 5}},
        {"answers": {"answer_maxLen": -5, "answer_nums": 5}},
        {"raw_schedule": {}},
        {"rules_desc": None},
    ):
        with pytest.raises(ValueError, match="records"):
            from_game({"metadata": {"records": {**records, **change}}})
    with pytest.raises(ValueError, match="records"):
        from_game({"question": "x"})
