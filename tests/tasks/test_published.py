"""Published rows of SynLogic: read from files, and checked by the rules of the task that they name."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from pear.errors import UserError
from pear.tasks import TASKS, Problem
from pear.tasks.problems import ProblemSet, load_problems, task_versions
from pear.tasks.synlogic.published import READERS
from tests.tasks.near_misses import games as games_of

ROWS = TASKS["synlogic/rows"]
SOURCES = sorted(READERS)


def games(source: str) -> list[dict[str, Any]]:
    return games_of(READERS[source][0])


def row(source: str, game: dict[str, Any], index: int = 0) -> dict[str, Any]:
    return {
        "data_source": f"val/{source}",
        "prompt": [
            {"role": "system", "content": "Think inside <think> </think>, answer inside <answer> </answer>."},
            {"role": "user", "content": game["question"]},
        ],
        "ability": "logic",
        "reward_model": {"style": "rule", "ground_truth": None},
        "extra_info": {"game_data_str": json.dumps(game), "index": index, "split": "validation"},
    }


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(item) + "\n" for item in rows), encoding="utf-8")
    return path


def load(path: Path) -> list[Problem]:
    return load_problems([ProblemSet(task="synlogic/rows", path=path)])


def in_tags(answer: str) -> str:
    return f"<think> x </think> <answer> {answer} </answer>"


def test_every_task_has_a_reader_and_every_reader_a_task() -> None:
    assert {task for task, _ in READERS.values()} == {
        name for name in TASKS if name.startswith("synlogic/") and name != "synlogic/rows"
    }
    assert all(task == f"synlogic/{source}" for source, (task, _) in READERS.items() if source != "mathador")


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
@pytest.mark.parametrize("source", SOURCES)
def test_rows_become_problems_that_are_checked_by_the_rules(source: str, suffix: str, tmp_path: Path) -> None:
    fixtures = games(source)
    assert len(fixtures) >= 2
    path = write(tmp_path / f"rows{suffix}", [row(source, item["game"], at) for at, item in enumerate(fixtures)])
    problems = load(path)
    assert len(problems) == len(fixtures)
    for problem, fixture in zip(problems, fixtures, strict=True):
        task = TASKS[problem.task]
        assert (problem.task, problem.level) == (READERS[source][0], "published")
        assert [message["role"] for message in problem.prompt] == ["system", "user"]
        assert problem.prompt[1]["content"] == fixture["game"]["question"]
        assert Problem.from_json(problem.to_json()) == problem
        assert task.canonical(problem) == ROWS.canonical(problem)
        assert fixture["right"]
        assert fixture["wrong"]
        for answer in [*fixture["right"], *filter(None, [problem.answer])]:
            assert task.verify(problem, in_tags(answer)).correct, answer
            assert ROWS.verify(problem, in_tags(answer)).correct
            # Without the tags it is right, and earns nothing.
            assert not task.verify(problem, answer).correct
            assert task.verify(problem, answer).accurate, answer
        for answer in fixture["wrong"]:
            assert not task.verify(problem, in_tags(answer)).accurate, answer
            assert not ROWS.verify(problem, in_tags(answer)).correct


def test_parquet_and_jsonl_give_the_same_problems_in_order(tmp_path: Path) -> None:
    # Those of mathador are game_of_24's, and equal games are one problem.
    sources = [source for source in SOURCES if source != "mathador"]
    rows = [row(source, item["game"]) for source in sources for item in games(source)]
    first, second = load(write(tmp_path / "a.parquet", rows)), load(write(tmp_path / "b.jsonl", rows))
    assert first == second
    assert [problem.task for problem in first] == [READERS[source][0] for source in sources for _ in games(source)]
    assert len({problem.id for problem in first}) == len(first)


def test_equal_rows_are_one_problem_and_ids_are_of_the_content(tmp_path: Path) -> None:
    one, two = [item["game"] for item in games("campsite")][:2]
    rows = [row("campsite", one), row("campsite", two), row("campsite", one, index=7)]
    problems = load(write(tmp_path / "rows.jsonl", rows))
    assert len(problems) == 2
    assert load(write(tmp_path / "other.jsonl", rows[::-1])) == problems
    other = {**rows[0], "data_source": "campsite"}
    assert load(write(tmp_path / "third.jsonl", [other])) == problems[:1]


def test_the_canonical_form_is_that_of_a_generated_problem_with_the_same_instance() -> None:
    generated = TASKS["synlogic/campsite"].generate(3, "easy")
    grid, rows, columns = (generated.state[key] for key in ("grid", "rows", "columns"))
    game = {"question": "x", "metadata": {"grid": grid, "row_constraints": rows, "col_constraints": columns}}
    (problem,) = ROWS.read([row("campsite", game)], origin="rows")
    assert ROWS.canonical(problem) == TASKS["synlogic/campsite"].canonical(generated)
    assert ROWS.verify(problem, in_tags(generated.answer)).correct


def test_splits_of_rows_are_disjoint_and_go_by_the_tasks_canonical_form(tmp_path: Path) -> None:
    task = TASKS["synlogic/campsite"]
    rows = []
    for seed in range(40):
        state = task.generate(seed, "easy").state
        metadata = {"grid": state["grid"], "row_constraints": state["rows"], "col_constraints": state["columns"]}
        rows.append(row("campsite", {"question": f"number {seed}", "metadata": metadata}))
    path = write(tmp_path / "rows.parquet", rows)
    found = [
        problem.id
        for split in ("sft", "rl", "dev", "eval")
        for problem in load_problems([ProblemSet(task="synlogic/rows", path=path, split=split)])
    ]
    assert sorted(found) == sorted(problem.id for problem in load(path))
    assert task_versions([ProblemSet(task="synlogic/rows", path=path)]) == {"task:synlogic/rows": 1}


GAME = {"question": "x", "metadata": {"grid": [["T", "X"]], "row_constraints": [1], "col_constraints": [0, 1]}}
GOOD = row("campsite", GAME)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data_source": None}, "'data_source' is missing"),
        ({"data_source": 3}, "'data_source' is missing or not a text"),
        ({"data_source": "val/campsit"}, "Did you mean 'campsite'"),
        ({"prompt": None}, "'prompt' is missing"),
        ({"prompt": "Solve it."}, "not a list of chat messages"),
        ({"prompt": []}, "not a list of chat messages"),
        ({"prompt": [{"role": "user"}]}, "lacks 'role' or 'content'"),
        ({"prompt": ["x"]}, "lacks 'role' or 'content'"),
        ({"extra_info": None}, "'extra_info' is missing"),
        ({"extra_info": "{}"}, "'extra_info' is missing or not an object"),
        ({"extra_info": {"index": 1}}, "'game_data_str' is missing"),
        ({"extra_info": {"game_data_str": {}}}, "'game_data_str' is missing or not a text"),
        ({"extra_info": {"game_data_str": "{"}}, "'game_data_str' is not JSON"),
        ({"extra_info": {"game_data_str": "[" * 100_000}}, "'game_data_str' is not JSON"),
        ({"extra_info": {"game_data_str": "[1]"}}, "'game_data_str' is not a JSON object"),
        ({"extra_info": {"game_data_str": json.dumps({**GAME, "metadata": None})}}, "a game of campsite: "),
    ],
)
def test_mistakes_name_file_row_and_what_is_missing(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [GOOD, {**GOOD, **changes}])
    with pytest.raises(UserError) as raised:
        load(path)
    assert str(raised.value).startswith(f"{path}, row 2: ")
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("broken", [{}, {"metadata": {}}, {"metadata": None}, {"metadata": []}, {"metadata": "x"}])
def test_a_game_without_its_fields_is_an_error_with_words(source: str, broken: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=rf"^rows, row 1: extra_info.game_data_str of a game of {source}: .+\.$"):
        ROWS.read([row(source, {"question": "", **broken})], origin="rows")
