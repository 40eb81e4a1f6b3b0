"""ARC-AGI: reading its files, the answer's grid, symmetries, published rows."""

import copy
import json

import pytest

from pear.errors import UserError
from pear.tasks import Problem
from pear.tasks.synlogic.arc_agi import ArcAgi, from_game
from tests.tasks.synlogic.arc_agi import GAMES, ROWS

TASK = ArcAgi()


def test_every_test_pair_is_a_problem_with_all_examples_in_its_prompt() -> None:
    problems = TASK.read([*ROWS, ROWS[0]], origin="arc.json")
    assert [problem.state["output"] for problem in problems] == [pair["output"] for row in ROWS for pair in row["test"]]
    for problem in problems[:2]:
        prompt = problem.prompt[0]["content"]
        assert "Example 1, input:\n1 0 2\nExample 1, output:\n2 0 1" in prompt
        assert "Example 2, output:\n0 3 3\n4 5 0" in prompt
        for other in problems:
            shown = "\n".join(" ".join(map(str, line)) for line in other.state["input"])
            assert (f"\nInput:\n{shown}\n\n" in prompt) == (other == problem)


def test_rows_as_json_text_are_read() -> None:
    texts = [{key: json.dumps(value) for key, value in row.items()} for row in ROWS]
    assert TASK.read(texts, origin="x") == TASK.read(ROWS, origin="x")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train": []}, "'train' is missing"),
        ({"test": None}, "'test' is missing"),
        ({"test": [{"input": [[1]]}]}, "lacks 'input' or 'output'"),
        ({"test": [{"input": [[1]], "output": [[10]]}]}, "from 0 to 9"),
        ({"test": [{"input": [[1]], "output": [[True]]}]}, "not an integer"),
        ({"test": [{"input": [[1]], "output": []}]}, "from 1 to 30"),
        ({"test": [{"input": [[1]], "output": [[1]] * 31}]}, "from 1 to 30"),
        ({"test": [{"input": [[1, 2], [3]], "output": [[1]]}]}, "row"),
    ],
)
def test_a_row_that_is_none_is_refused(change: dict, words: str) -> None:
    with pytest.raises(UserError, match=r"arc\.json, row 2: .*" + words + ".*Expected `train` and `test`"):
        TASK.read([ROWS[0], {**ROWS[1], **change}], origin="arc.json")


def test_reasons() -> None:
    problem = TASK.read(ROWS, origin="x")[0]
    assert TASK.check(problem, "[[9, 8, 7], [1, 0, 0]]") == ("[[9, 8, 7], [1, 0, 0]]", "")
    assert TASK.check(problem, "[[9, 8, 7], [0, 1, 0]]")[1] == "2 cell(s) have another color"
    assert TASK.check(problem, "[[9, 8, 7]]")[1] == "the grid has another size than the output"


def test_canonical_forms() -> None:
    swapped = copy.deepcopy(ROWS[0])
    swapped["train"].reverse()
    names = [3, 4, 5, 6, 7, 8, 9, 0, 1, 2]

    def renamed(grid: list[list[int]]) -> list[list[int]]:
        return [[names[color] for color in line] for line in grid]

    recolored = {
        key: [{side: renamed(pair[side]) for side in pair} for pair in ROWS[1][key]] for key in ("train", "test")
    }
    one, other, grown, again = (
        [TASK.canonical(problem) for problem in TASK.read([row], origin="x")]
        for row in (ROWS[0], swapped, ROWS[1], recolored)
    )
    assert one == other
    assert grown == again
    assert len({*one, *grown}) == 3


def test_published_rows() -> None:
    for row in GAMES:
        state, answer = from_game(row["game"])
        problem = Problem(
            task=TASK.name,
            level="published",
            id="x",
            prompt=({"role": "user", "content": "q"},),
            state=state,
            answer="",
        )
        assert TASK.check(problem, answer)[1] == ""
        other = Problem(**{**vars(problem), "prompt": ({"role": "user", "content": "another"},)})
        assert TASK.canonical(problem) != TASK.canonical(other)
    for answer in (None, "", [], [[1], [2, 3]], [["1"]], "no"):
        with pytest.raises(ValueError, match=r"grid|row|entry|answer|literal"):
            from_game({"answer": answer})
