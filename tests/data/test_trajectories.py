"""Rows from elsewhere: every known form, and every mistake by file and row."""

from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from pear.data.trajectories import read_trajectories, tokenize
from pear.errors import UserError

USER = {"role": "user", "content": "one two"}
ASSISTANT = {"role": "assistant", "content": "three four"}
STOPS = [1]

FORMS: dict[str, dict[str, Any]] = {
    "messages": {"messages": [USER, ASSISTANT]},
    "text": {"prompt": "one two", "completion": "three four"},
    "conversational": {"prompt": [USER], "completion": [ASSISTANT]},
    "mixed": {"prompt": [USER], "completion": "three four"},
    "ids": {"prompt": [USER], "completion_ids": [7, 8, 1]},
    "ids win over text": {"messages": [USER, ASSISTANT], "completion_ids": [7, 8, 1]},
    "ids with messages of the prompt alone": {"messages": [USER], "completion_ids": [7, 8, 1]},
    "nulls count as absent": {"messages": None, "prompt": "one two", "completion": "three four", "reward": None},
}


def read(row: dict[str, Any]) -> Any:
    return read_trajectories([row], "folder/file.jsonl")[0]


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_row(tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    row = tokenize(read(FORMS[name]), tokenizer, STOPS, len(tokenizer))
    assert row["prompt"] == [USER]
    assert list(row["behavior_prompt_ids"]) == [2, 5, 6, 3]
    assert list(row["completion_ids"]) == [7, 8, 1]
    assert row["completion"] == "three four"
    assert (row["correct"], row["reward"], row["finish"], row["problem_id"]) == (True, 1.0, "stop", "file/1")


def test_known_ids_are_used_as_they_are(tokenizer: PreTrainedTokenizerFast) -> None:
    given = {
        "prompt": "one",
        "prompt_ids": [9, 9],
        "completion_ids": [8, 8],
        "problem_id": 17,
        "task": "t",
        "split": "s",
    }
    row = tokenize(read(given), tokenizer, STOPS, len(tokenizer))
    assert list(row["behavior_prompt_ids"]) == [9, 9]
    assert list(row["completion_ids"]) == [8, 8], "no end is made up"
    assert (row["finish"], row["completion"]) == ("length", "four four")
    assert (row["problem_id"], row["task"], row["split"]) == ("17", "t", "s")


@pytest.mark.parametrize(
    ("columns", "wanted"),
    [
        ({}, (True, 1.0)),
        ({"correct": False}, (False, 0.0)),
        ({"reward": 0.0}, (False, 0.0)),
        ({"reward": 0.25}, (True, 0.25)),
        ({"reward": -1}, (False, -1.0)),
        ({"reward": 0.25, "correct": False}, (False, 0.25)),
    ],
)
def test_outcome_is_the_sources_word(columns: dict[str, Any], wanted: tuple[bool, float]) -> None:
    trajectory = read({**FORMS["text"], **columns})
    assert (trajectory.correct, trajectory.reward) == wanted


def test_earlier_turns_belong_to_the_prompt(tokenizer: PreTrainedTokenizerFast) -> None:
    trajectory = read({"messages": [USER, ASSISTANT, USER, {"role": "assistant", "content": "five"}]})
    row = tokenize(trajectory, tokenizer, STOPS, len(tokenizer))
    assert list(row["behavior_prompt_ids"]) == [2, 5, 6, 3, 7, 8, 1, 2, 5, 6, 3]
    assert list(row["completion_ids"]) == [9, 1]


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "unknown columns": ({"question": "x", "answer": "y"}, "has the columns question, answer. Known: `messages`"),
    "no column": ({}, "has the columns (none)"),
    "only a prompt": ({"prompt": "x"}, "has the columns prompt. Known"),
    "ids without a prompt": ({"completion_ids": [1]}, "has the columns completion_ids. Known"),
    "last turn is the user's": ({"messages": [USER]}, "the last of its messages is not the assistant's"),
    "only the assistant": ({"messages": [ASSISTANT]}, "the prompt is empty"),
    "empty prompt": ({"prompt": "  ", "completion": "x"}, "the prompt is empty"),
    "empty completion": ({"prompt": "x", "completion": " \n"}, "the completion is empty"),
    "messages as text": ({"messages": 3}, "`messages` must be text or a list of messages, got int"),
    "message without content": ({"messages": [USER, {"role": "assistant"}]}, "a `role` and a `content` that are text"),
    "content in parts": ({"messages": [{"role": "user", "content": [{}]}]}, "a `role` and a `content` that are text"),
    "two completions": ({"prompt": "x", "completion": [ASSISTANT, ASSISTANT]}, "text or one assistant message"),
    "completion by the user": ({"prompt": "x", "completion": [USER]}, "text or one assistant message"),
    "ids as text": ({"prompt": "x", "completion_ids": "1 2"}, "`completion_ids` must be a list of whole numbers"),
    "fractional ids": ({"prompt": "x", "completion_ids": [1.5]}, "`completion_ids` must be a list of whole numbers"),
    "no ids": ({"prompt": "x", "completion_ids": []}, "`completion_ids` must be a list of whole numbers"),
    "reward as text": ({**FORMS["text"], "reward": "good"}, "`reward` must be a finite number, got 'good'"),
    "infinite reward": ({**FORMS["text"], "reward": float("inf")}, "`reward` must be a finite number"),
    "correct as text": ({**FORMS["text"], "correct": "no"}, "`correct` must be true or false, got 'no'"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_is_named_with_its_row(name: str) -> None:
    row, message = MISTAKES[name]
    with pytest.raises(UserError) as error:
        read_trajectories([FORMS["text"], row], "folder/file.jsonl")
    assert str(error.value).startswith("folder/file.jsonl, row 2: ")
    assert message in str(error.value)


def test_file_without_rows_is_refused() -> None:
    with pytest.raises(UserError, match=r"file.jsonl: no row in it"):
        read_trajectories([], "file.jsonl")


def test_ids_outside_the_vocabulary_are_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    for ids in ([99, 1], [-1, 1]):
        with pytest.raises(UserError, match=r"row 1: the id .* is outside the model's vocabulary of 14"):
            tokenize(read({"prompt": "one", "completion_ids": ids}), tokenizer, STOPS, len(tokenizer))


def test_prompt_that_cannot_be_rendered_is_named(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = None
    with pytest.raises(UserError, match=r"file.jsonl, row 1: .*has no chat template"):
        tokenize(read(FORMS["text"]), tokenizer, STOPS, len(tokenizer))
