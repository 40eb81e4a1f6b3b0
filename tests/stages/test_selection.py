"""Which problems a buffer is made of: weights, duplicates, leaks, and what is said about them."""

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pear.errors import UserError
from pear.stages.collect import CollectConfig
from pear.stages.selection import Removed, Selection, select_problems, selection_versions, take_turns
from pear.tasks import TASKS
from pear.tasks.problems import ProblemSet, load_problems

LONG = "A train leaves the station at noon and travels due north at {} kilometers an hour until evening comes"


def maths(path: Path, questions: list[str], **fields: Any) -> ProblemSet:
    path.write_text("".join(json.dumps({"question": text, "answer": "1"}) + "\n" for text in questions))
    return ProblemSet(task="maths/gsm8k", path=path, **fields)


def chains(level: str, **fields: Any) -> ProblemSet:
    return ProblemSet(task="tiny/affine_chain", level=level, **{"split": "sft", **fields})


def questions(selection: Selection) -> list[str]:
    return [problem.state["question"] for problem in selection.problems]


@pytest.mark.parametrize("weights", [[1, 1], [3, 1], [0.5, 0.2, 0.3], [1, 7, 7, 2], [1e-3, 1]])
def test_turns_follow_the_weights_at_every_moment(weights: list[float]) -> None:
    turns = list(take_turns(weights, 1000))
    assert turns == list(take_turns(weights, 1000))
    taken: Counter[int] = Counter()
    for count, place in enumerate(turns, 1):
        taken[place] += 1
        for index, weight in enumerate(weights):
            assert abs(taken[index] - count * weight / sum(weights)) <= 1.5
    assert list(take_turns(weights, 10)) == turns[:10]


def test_a_mix_is_interleaved_and_its_beginning_is_a_smaller_mix() -> None:
    sets = [chains("n8", weight=2), ProblemSet(task="synlogic/survo", split="rl", weight=1)]
    whole = select_problems(sets, size=30)
    assert Counter(problem.task for problem in whole.problems) == {"tiny/affine_chain": 20, "synlogic/survo": 10}
    assert whole.splits == ["sft" if problem.task.startswith("tiny") else "rl" for problem in whole.problems]
    assert [problem.task for problem in whole.problems[:3]].count("synlogic/survo") == 1
    assert select_problems(sets, size=12).problems == whole.problems[:12]
    own = load_problems([chains("n8", size=20)])
    assert [problem for problem in whole.problems if problem.task.startswith("tiny")] == own
    assert whole.removed == []


def test_without_anything_to_leave_out_it_is_what_load_problems_gives() -> None:
    sets = [chains("n1", size=3), chains("n2", split="dev", size=4), chains("n2", split="dev", size=2, offset=4)]
    found = select_problems(sets)
    assert found.problems == load_problems(sets)
    assert found.splits == ["sft"] * 3 + ["dev"] * 6
    assert found.counts() == dict.fromkeys(found.counts(), 0)


def test_duplicates_are_made_up_for_by_the_next_problems() -> None:
    found = select_problems([chains("n8", size=4), chains("n8", size=3, offset=2)])
    assert found.problems == load_problems([chains("n8", size=7)])
    first = load_problems([chains("n8", size=4)])
    expected = [
        Removed(problem_id=item.id, task=item.task, problem_set=1, reason="duplicate", matches=item.id)
        for item in first[2:]
    ]
    assert found.removed == expected


def test_puzzles_of_the_evaluation_are_left_out_by_their_canonical_form() -> None:
    evaluation = chains("n8", size=3, offset=1)
    found = select_problems([chains("n8", size=5)], evaluation=[evaluation])
    stream = load_problems([chains("n8", size=8)])
    assert found.problems == [stream[0], *stream[4:8]]
    assert [(item.problem_id, item.reason, item.matches) for item in found.removed] == [
        (problem.id, "evaluation", problem.id) for problem in stream[1:4]
    ]
    assert found.counts()["removed_evaluation"] == 3
    task = TASKS["tiny/affine_chain"]
    forms = {task.canonical(problem) for problem in load_problems([evaluation])}
    assert not forms & {task.canonical(problem) for problem in found.problems}


def test_puzzles_that_look_alike_are_no_near_duplicates() -> None:
    """Prompts of a puzzle are one template: by words nearly everything would be left out."""
    puzzles = [ProblemSet(task="synlogic/survo", split="sft", size=20)]
    held_out = [ProblemSet(task="synlogic/survo", split="eval", size=20)]
    assert select_problems(puzzles, evaluation=held_out, near_duplicates=0.1).removed == []


def test_text_of_the_evaluation_is_left_out(tmp_path: Path) -> None:
    train = [
        "What is 2 + 2?",
        "what  is 2 + 2? ",
        "What is 2 + 3?",
        "One two three four five six seven eight nine",
        "zero ONE two three four five six seven!",
        "Alpha beta gamma delta",
    ]
    held_out = maths(tmp_path / "eval.jsonl", [train[0], "x one two three four five six seven eight y"])
    # The instruction of the prompts is longer than eight words and in all of them.
    found = select_problems([maths(tmp_path / "train.jsonl", train)], evaluation=[held_out])
    assert questions(found) == [train[2], train[4], train[5]]
    ids = [problem.id for problem in load_problems([held_out])]
    assert [(item.reason, item.matches, item.detail) for item in found.removed] == [
        ("evaluation", ids[0], ""),
        ("evaluation_words", ids[1], "one two three four five six seven eight"),
    ]
    stricter = select_problems([maths(tmp_path / "train.jsonl", train)], evaluation=[held_out], leak_words=13)
    assert questions(stricter) == train[2:]


def test_the_same_question_in_another_maths_task_is_a_leak_and_a_duplicate(tmp_path: Path) -> None:
    train = maths(tmp_path / "train.jsonl", ["What is 2 + 2?", "What is 2 + 3?"])
    (tmp_path / "aime.jsonl").write_text(json.dumps({"problem": "what is 2 + 2?", "answer": "4"}) + "\n")
    other = ProblemSet(task="maths/file", path=tmp_path / "aime.jsonl")
    assert [item.reason for item in select_problems([train], evaluation=[other]).removed] == ["evaluation"]
    assert [item.reason for item in select_problems([train, train]).removed] == ["duplicate"] * 2
    assert [item.reason for item in select_problems([train, other]).removed] == ["duplicate"]


def test_near_duplicates_are_left_out_and_the_first_is_kept(tmp_path: Path) -> None:
    near = [LONG.format(60), LONG.format(60) + " again", "Something else entirely is asked here today", LONG]
    item = maths(tmp_path / "train.jsonl", near)
    found = select_problems([item])
    assert questions(found) == [near[0], near[2], near[3]]
    (removed,) = found.removed
    assert (removed.reason, removed.matches) == ("near_duplicate", found.problems[0].id)
    assert float(removed.detail) == pytest.approx(17 / 18, abs=1e-3)
    assert questions(select_problems([item], near_duplicates=0.6)) == [near[0], near[2]]
    assert questions(select_problems([item], near_duplicates=1.0)) == near


def test_the_report_names_every_problem_and_why(tmp_path: Path) -> None:
    found = select_problems([chains("n8", size=2), chains("n8", size=1)], evaluation=[chains("n8", size=1)])
    report = json.loads(json.dumps(found.report()))
    assert report["kept"] == 3
    assert len(report["removed"]) == report["removed_evaluation"] + report["removed_duplicate"] == 4
    assert set(report["removed"][0]) == {"problem_id", "task", "problem_set", "reason", "matches", "detail"}
    sentence = "4 problems were left out: 2 are in an evaluation set, 2 are there already (removed.json names them)."
    assert found.sentence() == sentence


def test_too_few_are_left(tmp_path: Path) -> None:
    held_out = chains("n8", size=1)
    item = maths(tmp_path / "train.jsonl", ["a", "b", "A"], size=2)
    assert len(select_problems([item]).problems) == 2
    with pytest.raises(UserError, match=r"ask for more.* 1 were left out as duplicates or as evaluation problems"):
        select_problems([item], evaluation=[maths(tmp_path / "eval.jsonl", ["b"])])
    with pytest.raises(UserError, match="none is left"):
        select_problems([maths(tmp_path / "c.jsonl", ["b"])], evaluation=[maths(tmp_path / "eval.jsonl", ["b"])])
    with pytest.raises(UserError, match="the mix ask for more"):
        select_problems([maths(tmp_path / "c.jsonl", ["b"], weight=1), chains("n8", weight=1)], size=3)
    with pytest.raises(UserError, match="more are wanted"):
        select_problems([chains("n1", split="dev", weight=1)], size=600, evaluation=[held_out])
    with pytest.raises(UserError, match="no set"):
        select_problems([])


def test_a_weight_without_a_mix_is_refused() -> None:
    with pytest.raises(UserError, match="`weight` is for the mixes of `pear collect`"):
        load_problems([chains("n8", weight=1)])


def config(**changes: Any) -> CollectConfig:
    values = {"model": "model", "problems": [chains("n8", size=1).model_dump()], "output_dir": Path("b")}
    return CollectConfig.parse({**values, **changes}, source="test")


WEIGHTED = {"task": "tiny/affine_chain", "split": "sft", "weight": 1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"problems": [WEIGHTED]}, "size: sets of problems have a `weight`; set `size`"),
        ({"size": 3}, "size: a mix needs a `weight` in every set"),
        ({"problems": [WEIGHTED, {**WEIGHTED, "weight": None}], "size": 3}, "a mix needs a `weight`"),
        ({"problems": [{**WEIGHTED, "size": 3}], "size": 3}, "leave the sets' own `size` out"),
        ({"problems": [{**WEIGHTED, "weight": 0}], "size": 3}, "weight"),
        ({"problems": [{**WEIGHTED, "wieght": 1}], "size": 3}, "Did you mean 'weight'"),
        ({"size": 0}, "size"),
        ({"leak_words": 9}, "leak_words"),
        ({"near_duplicates": 0}, "near_duplicates"),
        ({"near_duplicates": 1.1}, "near_duplicates"),
        ({"evaluation": [{"task": "tiny/affine_chain", "splt": "eval"}]}, "Did you mean 'split'"),
    ],
)
def test_mistakes_in_keys(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config(**changes)


def test_what_is_hashed() -> None:
    later = {"size", "evaluation", "leak_words", "near_duplicates"}
    assert not later & config().hashed().keys()
    assert "weight" not in config().hashed()["problems"][0]
    evaluation = [chains("n8", split="eval", size=1).model_dump()]
    changed = config(problems=[WEIGHTED], size=3, evaluation=evaluation, leak_words=13, near_duplicates=0.5).hashed()
    assert later <= changed.keys()
    assert changed["problems"][0]["weight"] == 1
    assert changed["evaluation"][0] == chains("n8", split="eval", size=1).hashed()


def test_what_fingerprints_need(tmp_path: Path) -> None:
    one, file = chains("n8", size=1), maths(tmp_path / "rows.jsonl", ["a"])
    tasks = {"task:tiny/affine_chain": 1}
    assert selection_versions([one], []) == tasks
    assert selection_versions([one, ProblemSet(task="synlogic/survo", split="sft", size=1)], []).keys() == {
        *tasks, "task:synlogic/survo",
    }  # fmt: skip
    for sets, evaluation in (([one, one], []), ([one], [one]), ([file], [])):
        assert "selection" in selection_versions(sets, evaluation)
    both = config(problems=[file.model_dump()], evaluation=[file.model_dump()])
    assert both.inputs() == {"problems_0": file.path, "evaluation_0": file.path}


def test_every_set_is_asked_before_the_first_is_taken() -> None:
    """A mistake in the last set is not found after minutes of generating the first."""
    with pytest.raises(UserError, match="Unknown level"):
        select_problems([chains("n1", split="dev", size=600), chains("n99", size=1)])
    assert list(itertools.islice(take_turns([1], 0), 1)) == []
