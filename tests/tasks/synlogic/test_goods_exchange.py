"""Goods exchange: what happens, against a twin that reads the prompt's words; forms of answers; published rows."""

import ast
import re
from typing import Any

import pytest

from pear.errors import UserError
from pear.tasks import Problem
from pear.tasks.synlogic.goods_exchange import GoodsExchange, from_game
from tests.tasks.synlogic.goods_exchange import GAMES

TASK = GoodsExchange()


def problem_of(state: dict[str, Any]) -> Problem:
    return Problem(task=TASK.name, level="easy", id="x", prompt=(), state=state, answer="")


def from_words(prompt: str) -> dict[str, str]:
    """Plays the puzzle from its text."""
    owns = dict(re.findall(r"(\w+) owns the ([a-z ]+?)[,.]", prompt.split("\n\n")[1]))

    def owner(thing: str) -> str:
        return next(person for person, own in owns.items() if own == thing)

    for line in re.findall(r"^\d+\. (.*)$", prompt, re.MULTILINE):
        if match := re.fullmatch(r"(\w+) and (\w+) exchange what they own\.", line):
            one, other = match.groups()
        elif match := re.fullmatch(r"The owners of the (.+) and the (.+) exchange these two\.", line):
            one, other = owner(match[1]), owner(match[2])
        elif match := re.fullmatch(r"(\w+) exchanges what they own with the owner of the (.+)\.", line):
            one, other = match[1], owner(match[2])
        elif match := re.fullmatch(r"If (\w+) owns the (.+), \w+ and (\w+) exchange .*; otherwise .*", line):
            one, other = match[1], match[3] if owns[match[1]] == match[2] else match[1]
        else:
            match = re.fullmatch(
                r"(\w+) gives what they own to (\w+), \2 gives theirs to (\w+), and \3 gives theirs to \1, .*", line
            )
            assert match is not None, line
            one, other, third = match.groups()
            owns[other], owns[third], owns[one] = owns[one], owns[other], owns[third]
            continue
        owns[one], owns[other] = owns[other], owns[one]
    return owns


@pytest.mark.parametrize("level", TASK.levels)
def test_the_answer_is_what_the_words_say(level: str) -> None:
    kinds, moved = set(), 0
    for seed in range(60):
        problem = TASK.generate(seed, level)
        owns = from_words(problem.prompt[0]["content"])
        assert owns == dict(ast.literal_eval(problem.answer))
        assert TASK.check(problem, repr(owns))[1] == ""
        kinds |= {step[0] for step in problem.state["steps"]}
        moved += list(owns.values()) != problem.state["things"]
    assert kinds == {"people", "things", "mixed", "ring", "if"}
    assert moved > 50


def test_order_and_case_do_not_count_and_the_reason_counts() -> None:
    problem = TASK.generate(3, "medium")
    pairs = list(ast.literal_eval(problem.answer))
    turned = [(person.upper(), thing.title()) for person, thing in pairs[::-1]]
    assert TASK.check(problem, repr(turned)) == TASK.check(problem, problem.answer)
    (one, first), (other, second), *rest = pairs
    assert TASK.check(problem, repr([(one, second), (other, first), *rest]))[1] == "2 of 6 people own another thing"


def test_canonical_forms() -> None:
    state = TASK.generate(3, "medium").state
    form = TASK.canonical(problem_of(state))
    assert TASK.canonical(problem_of({**state, "people": state["people"][::-1]})) == form
    assert TASK.canonical(problem_of({**state, "steps": state["steps"][:-1]})) != form
    assert TASK.canonical(problem_of(from_game(GAMES[0]["game"])[0])) != form


def test_knobs_are_honored_and_refused() -> None:
    state = TASK.generate(1, "easy(people=12,operations=40)").state
    assert [len(state[key]) for key in ("people", "things", "steps")] == [12, 12, 40]
    for level in ("easy(people=2)", "easy(people=13)", "easy(operations=0)", "easy(operations=101)"):
        with pytest.raises(UserError, match="from"):
            TASK.generate(1, level)


def test_published_rows() -> None:
    for row in GAMES:
        state, answer = from_game(row["game"])
        for text in (answer, *row["right"]):
            assert TASK.check(problem_of(state), text)[1] == ""
        assert TASK.solve(problem_of(state)) is None
    game = GAMES[0]["game"]
    for change in (
        {"question": ""},
        {"metadata": {}},
        {"metadata": {"owns_after": "Ann has the cup"}},
        {"metadata": {"owns_after": [["Ann"]]}},
        {"metadata": {"owns_after": [["Ann", "cup"], ["Ann", "hat"]]}},
    ):
        with pytest.raises(ValueError, match=r"question|owns_after|literal|answer|pair|person"):
            from_game({**game, **change})
