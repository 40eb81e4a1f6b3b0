"""Trajectories from elsewhere: rows of other people's files, read without guessing."""

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pear.data.rendering import decode_completion, encode_completion, render_prompt
from pear.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FORMATS = (
    "Known: `messages` (ending with the assistant's turn), or `prompt` (text or messages) with `completion` (text or "
    "one assistant message), or `prompt`/`messages` with `completion_ids`"
)
# Columns of a buffer's row that are carried along as they are, with what stands where there is none.
_CARRIED = {"task": "", "split": "", "problem": "", "reason": "", "sampling": ""}


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """One foreign trajectory, before tokenisation.

    Args:
        place: file and row, for errors.
        problem_id: the source's, or the file's name and the row.
        prompt: messages, without the assistant's last turn.
        prompt_ids: what the behavior policy was given, if known; otherwise the prompt is rendered.
        completion: the assistant's text; "" where `completion_ids` are known.
        completion_ids: what the behavior policy produced, if known: used as they are.
        correct, reward: the source's word; right and 1 where it says nothing.
        carried: the other columns of a buffer.
    """

    place: str
    problem_id: str
    prompt: tuple[dict[str, str], ...]
    prompt_ids: tuple[int, ...] | None
    completion: str
    completion_ids: tuple[int, ...] | None
    correct: bool
    reward: float
    carried: Mapping[str, str]


def read_trajectories(rows: Sequence[Mapping[str, Any]], origin: str) -> list[Trajectory]:
    """The trajectories of a file's rows.

    Args:
        rows: with `messages`, or `prompt` and `completion`, or `completion_ids` instead of the text; ids win over text.
            `behavior_prompt_ids` or `prompt_ids`, `correct`, `reward`, `problem_id` or `id`, and the other columns of
            a buffer are read where they are.
        origin: the file, named in errors.

    Raises:
        UserError: there is no row, or one cannot be read; names it, counting from 1.
    """
    if not rows:
        raise UserError(f"{origin}: no row in it.")
    return [_read(row, origin, number) for number, row in enumerate(rows, 1)]


def _read(row: Mapping[str, Any], origin: str, number: int) -> Trajectory:
    place = f"{origin}, row {number}"
    given = {name: value for name, value in row.items() if value is not None}
    completion_ids = _ids(given, ("completion_ids",), place)
    if "messages" in given:
        messages = _messages(given["messages"], "messages", place)
        text = ""
        if messages[-1]["role"] == "assistant":
            messages, text = messages[:-1], messages[-1]["content"]
        elif completion_ids is None:
            raise UserError(f"{place}: the last of its messages is not the assistant's.")
    elif "prompt" in given and ("completion" in given or completion_ids is not None):
        messages = _messages(given["prompt"], "prompt", place)
        text = _completion_text(given.get("completion", ""), place)
    else:
        raise UserError(f"{place}: has the columns {', '.join(given) or '(none)'}. {_FORMATS}.")
    if not messages:
        raise UserError(f"{place}: the prompt is empty.")
    if completion_ids is None and not text.strip():
        raise UserError(f"{place}: the completion is empty.")
    correct, reward = _outcome(given, place)
    return Trajectory(
        place=place,
        problem_id=str(given.get("problem_id", given.get("id", f"{Path(origin).stem}/{number}"))),
        prompt=tuple(messages),
        prompt_ids=_ids(given, ("behavior_prompt_ids", "prompt_ids"), place),
        completion=text,
        completion_ids=completion_ids,
        correct=correct,
        reward=reward,
        carried={name: str(given.get(name, default)) for name, default in _CARRIED.items()},
    )


def tokenize(
    trajectory: Trajectory, tokenizer: "PreTrainedTokenizerBase", stop_ids: Sequence[int], vocabulary: int
) -> dict[str, Any]:
    """A row of the buffer, without its log-probs. Text is encoded once, here; ids are used as they are.

    The ids come as arrays, which take a tenth of a list's memory.

    Args:
        trajectory: what was read.
        tokenizer: of the model that will score.
        stop_ids: ids that end a completion.
        vocabulary: ids are below this.

    Raises:
        UserError: the prompt cannot be rendered, or an id is out of range; names the row.
    """
    prompt_ids = trajectory.prompt_ids
    if prompt_ids is None:
        try:
            prompt_ids = tuple(render_prompt(tokenizer, trajectory.prompt))
        except UserError as error:
            raise UserError(f"{trajectory.place}: {error}") from None
    completion_ids = trajectory.completion_ids
    text = trajectory.completion
    if completion_ids is None:
        completion_ids = tuple(encode_completion(tokenizer, text))
    for token in (*prompt_ids, *completion_ids):
        if not 0 <= token < vocabulary:
            raise UserError(f"{trajectory.place}: the id {token} is outside the model's vocabulary of {vocabulary}.")
    if not text:
        text = decode_completion(tokenizer, completion_ids, stop_ids)
    return {
        "problem_id": trajectory.problem_id,
        "prompt": list(trajectory.prompt),
        "behavior_prompt_ids": array("i", prompt_ids),
        "completion_ids": array("i", completion_ids),
        "behavior_processed_log_probs": None,
        "completion": text,
        "correct": trajectory.correct,
        "reward": trajectory.reward,
        "finish": "stop" if completion_ids[-1] in stop_ids else "length",
        **trajectory.carried,
    }


def _messages(value: Any, name: str, place: str) -> list[dict[str, str]]:
    if isinstance(value, str):
        return [{"role": "user", "content": value}] if value.strip() else []
    if not isinstance(value, (list, tuple)) or not value:
        raise UserError(f"{place}: `{name}` must be text or a list of messages, got {type(value).__name__}.")
    messages = []
    for message in value:
        role, content = (message.get("role"), message.get("content")) if isinstance(message, Mapping) else (None, None)
        if not isinstance(role, str) or not isinstance(content, str):
            raise UserError(f"{place}: each of its `{name}` must have a `role` and a `content` that are text.")
        messages.append({"role": role, "content": content})
    return messages


def _completion_text(value: Any, place: str) -> str:
    if isinstance(value, str):
        return value
    messages = _messages(value, "completion", place)
    if len(messages) != 1 or messages[0]["role"] != "assistant":
        raise UserError(f"{place}: `completion` must be text or one assistant message.")
    return messages[0]["content"]


def _ids(given: Mapping[str, Any], names: Sequence[str], place: str) -> tuple[int, ...] | None:
    for name in names:
        if name in given:
            values = given[name]
            whole = isinstance(values, (list, tuple)) and all(type(value) is int for value in values)
            if not whole or not values:
                raise UserError(f"{place}: `{name}` must be a list of whole numbers, with at least one.")
            return tuple(values)
    return None


def _outcome(given: Mapping[str, Any], place: str) -> tuple[bool, float]:
    """`correct` and `reward`; each follows from the other where only one is there (right: a reward above 0)."""
    reward = given.get("reward")
    if reward is not None and (
        isinstance(reward, str) or not isinstance(reward, (int, float)) or not math.isfinite(reward)
    ):
        raise UserError(f"{place}: `reward` must be a finite number, got {reward!r}.")
    correct = given.get("correct", True if reward is None else reward > 0)
    if correct not in (True, False):
        raise UserError(f"{place}: `correct` must be true or false, got {correct!r}.")
    return bool(correct), float(correct) if reward is None else float(reward)
