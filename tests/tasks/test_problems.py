"""Problem sets: disjoint splits, prefixes, files, and a sentence for each mistake."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from pear.errors import UserError
from pear.tasks import TASKS, GeneratedTask
from pear.tasks.problems import ProblemSet, load_problems, read_rows, task_files, task_versions
from tests.tasks.near_misses import AVAILABLE

GENERATED = [name for name in AVAILABLE if isinstance(TASKS[name], GeneratedTask)]
SPLITS = ("sft", "rl", "dev", "eval")
ROWS = [{"question": f"What is {number} + {number}?", "answer": f"#### {2 * number}"} for number in range(200)]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", GENERATED)
def test_splits_are_disjoint_by_id_and_by_canonical_form(name: str) -> None:
    task = TASKS[name]
    for level in task.levels:
        size = 20 if level == task.levels[0] else 2  # the smallest level of the tiny games has 88 problems
        sets = [load_problems([ProblemSet(task=name, level=level, split=split, size=size)]) for split in SPLITS]
        found = [problem for part in sets for problem in part]
        assert len({problem.id for problem in found}) == 4 * size
        assert len({task.canonical(problem) for problem in found}) == 4 * size
        assert {problem.level for problem in found} == {level}


@pytest.mark.parametrize("name", GENERATED)
def test_a_smaller_set_and_an_offset_are_parts_of_a_larger_set(name: str) -> None:
    def load(**fields: Any) -> list[str]:
        return [problem.id for problem in load_problems([ProblemSet(task=name, split="rl", **fields)])]

    whole = load(size=12)
    assert whole == load(size=12)
    assert load(size=5) == whole[:5]
    assert load(size=7, offset=5) == whole[5:]


def test_file_splits_are_a_partition(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", ROWS)
    whole = load_problems([ProblemSet(task="maths/gsm8k", path=path)])
    parts = [load_problems([ProblemSet(task="maths/gsm8k", path=path, split=split)]) for split in SPLITS]
    assert sorted(problem.id for part in parts for problem in part) == sorted(problem.id for problem in whole)
    assert [problem.state["question"] for problem in whole] == [row["question"] for row in ROWS]
    assert load_problems([ProblemSet(task="maths/gsm8k", path=path, size=3, offset=2)]) == whole[2:5]
    reordered = write(tmp_path / "reordered.jsonl", ROWS[::-1])
    again = load_problems([ProblemSet(task="maths/gsm8k", path=reordered, split="eval")])
    assert {problem.id for problem in again} == {problem.id for problem in parts[3]}


def test_equal_questions_are_one_problem(tmp_path: Path) -> None:
    doubled = [*ROWS[:3], {"question": " what is 1 +  1? ", "answer": "2.0"}]
    assert len(load_problems([ProblemSet(task="maths/gsm8k", path=write(tmp_path / "rows.jsonl", doubled))])) == 3


def test_what_fingerprints_need() -> None:
    sets = [
        ProblemSet(task="synlogic/survo", split="rl", size=1),
        ProblemSet(task="maths/gsm8k", path=Path("rows.jsonl")),
    ]
    assert task_versions(sets) == {"task:synlogic/survo": 1, "task:maths/gsm8k": 2}
    assert task_files(sets) == {"problems_1": Path("rows.jsonl")}
    assert "path" not in sets[1].hashed()


def test_every_file_type_gives_the_same_rows(tmp_path: Path) -> None:
    rows = [{"question": "Wie groß ist 2 + 2?", "answer": "4"}, {"question": "a, b", "answer": "x"}]
    write(tmp_path / "rows.jsonl", rows)
    (tmp_path / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    table = 'question,answer\r\nWie groß ist 2 + 2?,4\r\n"a, b",x\r\n'
    (tmp_path / "rows.csv").write_bytes(b"\xef\xbb\xbf" + table.encode())
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    for suffix in ("jsonl", "json", "csv", "parquet"):
        assert read_rows(tmp_path / f"rows.{suffix}") == rows


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"task": "synlogic/surv", "split": "rl", "size": 1}, "Did you mean 'synlogic/survo'"),
        ({"task": "synlogic/survo", "level": "esy", "split": "rl", "size": 1}, "Did you mean 'easy'"),
        ({"task": "synlogic/survo", "level": "", "split": "rl", "size": 1}, "Unknown level"),
        ({"task": "synlogic/survo", "size": 1}, "set `split` and `size`"),
        ({"task": "synlogic/survo", "split": "rl"}, "set `split` and `size`"),
        ({"task": "synlogic/survo", "split": "rl", "size": 1, "path": "x.jsonl"}, "leave `path` out"),
        ({"task": "tiny/affine_chain", "level": "n1", "split": "dev", "size": 600}, "distinct problems found"),
        ({"task": "maths/gsm8k"}, "set `path`"),
        ({"task": "maths/gsm8k", "path": "missing.jsonl"}, "no such file"),
    ],
)
def test_mistakes_in_a_set(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_problems([ProblemSet.parse(fields, source="problems")])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"task": "synlogic/survo", "splt": "rl"}, "Did you mean 'split'"),
        ({"task": "synlogic/survo", "split": "test", "size": 1}, "split"),
        ({"task": "synlogic/survo", "split": "rl", "size": 0}, "size"),
        ({"task": "synlogic/survo", "split": "rl", "size": 1, "offset": -1}, "offset"),
    ],
)
def test_mistakes_in_keys(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ProblemSet.parse(fields, source="problems")


def test_mistakes_between_sets() -> None:
    survo = ProblemSet(task="synlogic/survo", split="rl", size=4)
    with pytest.raises(UserError, match="is in two sets"):
        load_problems([survo, ProblemSet(task="synlogic/survo", split="rl", size=1, offset=3)])
    with pytest.raises(UserError, match="no set"):
        load_problems([])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.jsonl", b'{"question": "a", "answer": "1"}\n{"question": \n', "line 2: not valid JSON"),
        ("rows.jsonl", b"[1]\n", "line 1: expected an object, got list"),
        ("rows.jsonl", b"[" * 100_000, "line 1: not valid JSON"),
        ("rows.jsonl", b"\xff\xfe\n", "not readable as jsonl"),
        ("rows.json", b'{"a": 1}', "expected a list of objects"),
        ("rows.json", b"[", "not readable as json"),
        ("rows.csv", b"question,answer\n" + b"x" * 200_000, "not readable as csv"),
        ("rows.parquet", b"PAR", "not readable as Parquet"),
        ("rows.txt", b"", "unknown file type '.txt'"),
        ("rows.jsonl", b"", "has 0 distinct problems"),
        (
            "rows.jsonl",
            b'{"prompt": "a", "response": "1"}\n',
            "row 1: expected the column .* found 'prompt', 'response'",
        ),
        ("rows.jsonl", b'{"question": "a"}\n', "'answer', found 'question'"),
        ("rows.jsonl", b'{"question": "", "answer": "1"}\n', "'question' is not a text"),
        ("rows.jsonl", b'{"question": 5, "answer": "1"}\n', "'question' is not a text"),
        ("rows.jsonl", b'{"question": "a", "answer": null}\n', "NoneType"),
        ("rows.jsonl", b'{"question": "a", "answer": true}\n', "bool"),
        ("rows.jsonl", b'{"question": "a", "answer": NaN}\n', "'nan' cannot be used"),
        ("rows.jsonl", b'{"question": "a", "answer": "so ####"}\n', "'' cannot be used"),
        ("rows.jsonl", b'{"question": "a", "answer": "#### {4"}\n', "'{4' cannot be used"),
        ("rows.jsonl", b'{"question": "a", "answer": "#### 4}{"}\n', "'4}{' cannot be used"),
        (
            "rows.jsonl",
            b'{"question": "a", "answer": "1"}\n{"question": "b", "answer": "1"}\n{"question": "A ", "answer": "2"}\n',
            "row 3: the answer '2' is another than in row 1",
        ),
    ],
)
def test_mistakes_in_files(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as raised:
        load_problems([ProblemSet(task="maths/gsm8k", path=path)])
    assert str(path) in str(raised.value)


def test_a_file_that_is_too_small(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", ROWS[:10])
    for fields in ({"size": 11}, {"size": 5, "offset": 6}, {"offset": 10}, {"split": "sft", "size": 10}):
        with pytest.raises(UserError, match="distinct problems"):
            load_problems([ProblemSet(task="maths/gsm8k", path=path, **fields)])


def test_knobs_make_a_level_of_their_own() -> None:
    plain = ProblemSet(task="synlogic/survo", level="easy", split="rl", size=2)
    wide = plain.model_copy(update={"knobs": {"columns": 4, "missing": 5}})
    problems = load_problems([wide])
    assert [len(problem.state["matrix"][0]) for problem in problems] == [5, 5]
    assert [len(problem.state["numbers"]) for problem in problems] == [5, 5]
    assert {problem.level for problem in problems} == {"easy(columns=4,missing=5)"}
    assert problems[0].id.startswith("synlogic/survo/easy(columns=4,missing=5)/")
    assert "knobs" not in plain.hashed()
    assert wide.hashed()["knobs"] == {"columns": 4, "missing": 5}


@pytest.mark.parametrize(
    ("task", "knobs", "sentence"),
    [
        ("synlogic/survo", {"column": 4}, "Unknown knob 'column'. Did you mean 'columns'?"),
        ("synlogic/survo", {"columns": "wide"}, "knob 'columns': expected int, got 'wide'."),
        ("synlogic/survo", {"columns": 2.5}, "knob 'columns': expected int, got '2.5'."),
        ("tiny/affine_chain", {"columns": 4}, "tiny/affine_chain: has no knobs"),
    ],
)
def test_knobs_that_a_task_cannot_take(task: str, knobs: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as error:
        load_problems([ProblemSet(task=task, split="rl", size=2, knobs=knobs)])
    assert sentence in str(error.value)
