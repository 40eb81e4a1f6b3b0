"""Dyck language errors: the first error is where a naive reader finds it."""

import itertools
from collections import Counter

import pytest

from pear.errors import UserError
from pear.tasks import Problem
from pear.tasks.synlogic.brackets import PAIRS
from pear.tasks.synlogic.dyck_language_errors import DyckLanguageErrors, from_game
from tests.tasks.synlogic.dyck_language_errors import GAMES

TASK = DyckLanguageErrors()


def place_of(sequence: str) -> int:
    """The first error by taking matched neighbors out: what is left begins with opening brackets, if with any."""
    left = list(enumerate(sequence, 1))
    at = 0
    while at + 1 < len(left):
        if left[at][1] + left[at + 1][1] in PAIRS:
            del left[at : at + 2]
            at = max(at - 1, 0)
        else:
            at += 1
    closing = [place for place, bracket in left if bracket in ")]}>"]
    return closing[0] if closing else len(sequence) + 1 if left else -1


def problem_of(sequence: str) -> Problem:
    message = {"role": "user", "content": "x"}
    return Problem(task=TASK.name, level="easy", id="x", prompt=(message,), state={"sequence": sequence}, answer="")


def test_every_short_sequence() -> None:
    for size in range(1, 6):
        for brackets in itertools.product("(){}", repeat=size):
            sequence = "".join(brackets)
            for answer in [-1, *range(1, size + 3)]:
                right = TASK.check(problem_of(sequence), str(answer))[1] == ""
                assert right == (answer == place_of(sequence)), (sequence, answer)


@pytest.mark.parametrize("level", [*TASK.levels, "easy(types=1)"])
def test_problems_keep_the_knobs(level: str) -> None:
    length = TASK.knobs[level.partition("(")[0]].length
    answers: Counter[int] = Counter()
    for seed in range(200):
        problem = TASK.generate(seed, level)
        sequence = problem.state["sequence"]
        assert len(sequence) == length
        assert int(problem.answer) == place_of(sequence)
        assert sequence in problem.prompt[0]["content"].splitlines()
        answers[int(problem.answer)] += 1
    assert 20 <= answers[-1] <= 60
    assert 20 <= answers[length + 1] <= 60
    assert len(answers) > length / 3


@pytest.mark.parametrize("knobs", ["types=0", "types=5", "length=7", "length=2", "length=402"])
def test_knobs_out_of_range_are_refused(knobs: str) -> None:
    with pytest.raises(UserError):
        TASK.generate(0, f"easy({knobs})")


def test_words_are_no_answer() -> None:
    # Elsewhere any text with "valid" in it, "invalid" too, counts as -1.
    for text in ("valid", "invalid", "correct", "incorrect", "it is invalid at 3", "\u0661", "1" * 5_000):
        with pytest.raises(ValueError, match="neither"):
            TASK.check(problem_of("()"), text)


def test_kinds_of_brackets_are_only_names() -> None:
    given = TASK.generate(5, "hard").state["sequence"]
    for order in itertools.permutations(PAIRS):
        table = str.maketrans("".join(PAIRS), "".join(order))
        assert TASK.canonical(problem_of(given.translate(table))) == TASK.canonical(problem_of(given))


@pytest.mark.parametrize("row", GAMES)
def test_published_rows(row: dict) -> None:
    state, answer = from_game(row["game"])
    assert answer == row["game"]["answer"]
    problem = problem_of(state["sequence"])
    for text in row["right"]:
        assert TASK.verify(problem, f"<think> x </think> <answer> {text} </answer>").correct, text
    for text in row["wrong"]:
        assert not TASK.verify(problem, f"<think> x </think> <answer> {text} </answer>").correct, text


@pytest.mark.parametrize(
    "metadata", [None, {}, {"bracket_string": ""}, {"bracket_string": "(a)"}, {"bracket_string": 3}]
)
def test_broken_rows_are_refused(metadata: object) -> None:
    with pytest.raises(ValueError, match="bracket_string"):
        from_game({"metadata": metadata})
