r"""SYNTHETIC-2's verified mathematics: the answer is the box of a solution that was found right."""

from typing import Any

from pear.errors import UserError
from pear.tasks.maths.answers import extract_boxed
from pear.tasks.maths.task import MathsTask, Question, gold_text

_KIND = "verifiable_math"


class Synthetic2(MathsTask):
    r"""Rows with `problem_id`, `task_type`, `reward` and `messages` (a user's and an assistant's).

    Rows of another `task_type` than verifiable_math, with a `reward` below 1, or whose solution has no `\boxed{}`
    after its reasoning are left out. The file has no column with the answer: it is the box of the first solution of
    a problem. Later solutions of it may write the same answer in another way.
    """

    name = "maths/synthetic2"
    source = "SYNTHETIC-2 (PrimeIntellect/SYNTHETIC-2-SFT-verified); equality by math-verify 0.9"

    def question(self, row: dict[str, Any], where: str) -> Question | None:
        missing = [name for name in ("task_type", "reward", "messages") if name not in row]
        if missing:
            raise UserError(f"{where}: the column '{missing[0]}' is missing. Use the published columns.")
        if row["task_type"] != _KIND or not isinstance(row["reward"], int | float) or row["reward"] < 1:
            return None
        problem, solution = _turns(row["messages"], where)
        box = extract_boxed(solution).answer
        return None if box is None else Question(text=problem, gold=gold_text(box, f"{where}, 'messages'"))

    def same_answer(self, first: str, second: str) -> bool:
        """Always: both were verified."""
        return True


def _turns(messages: Any, where: str) -> tuple[str, str]:
    texts = {}
    for message in messages if isinstance(messages, list) else []:
        if isinstance(message, dict) and isinstance(message.get("content"), str):
            texts[message.get("role")] = message["content"].strip()
    if not texts.get("user") or not texts.get("assistant"):
        raise UserError(f"{where}: expected 'messages' with the texts of a user and an assistant.")
    return texts["user"], texts["assistant"]
