"""Mathematical problems with a final answer, from a file: GSM8K and whatever has the same two columns."""

import hashlib
import math
from collections.abc import Sequence
from typing import Any

from pear.errors import UserError
from pear.tasks.maths.answers import MAX_ANSWER, canonical_text, compare_plain, extract_boxed
from pear.tasks.maths.verifier import compare_answers
from pear.tasks.protocol import FileTask, Problem, Verdict

_INSTRUCTION = (
    "Solve the problem step by step. Put your reasoning inside <think> </think> tags, and then your final answer "
    r"inside \boxed{}."
)


class Gsm8k(FileTask):
    r"""Rows with `question` (or `problem`) and `answer`; where an answer has `####`, as in GSM8K, what follows counts.

    The completion's answer is the content of the last `\boxed{}` after the reasoning (`extract_boxed`). Plain numbers
    are compared exactly here; all else by math-verify in worker processes with a time limit, so equal expressions
    pass, also unsimplified ones. Rows with equal questions are one problem.
    """

    name = "maths/gsm8k"
    levels = ("file",)
    source = "GSM8K (arXiv 2110.14168), or a file of the user's; equality by math-verify 0.9"

    def read(self, rows: Sequence[dict[str, Any]], *, origin: str) -> list[Problem]:
        first: dict[str, tuple[int, Problem]] = {}
        for number, row in enumerate(rows, 1):
            where = f"{origin}, row {number}"
            problem = self._problem(row, where)
            earlier, same = first.setdefault(problem.id, (number, problem))
            if same.state["gold"] != problem.state["gold"]:
                raise UserError(
                    f"{where}: the answer '{problem.state['gold']}' is another than in row {earlier}, which has the "
                    f"same question ('{same.state['gold']}'). Remove one of them."
                )
        return [problem for _, problem in first.values()]

    def verify(self, problem: Problem, completion: str) -> Verdict:
        return self.verify_many([problem], [completion])[0]

    def verify_many(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Verdict]:
        found = [extract_boxed(completion) for completion in completions]
        pairs = [
            None if item.answer is None else (problem.state["gold"], item.answer)
            for problem, item in zip(problems, found, strict=True)
        ]
        equal: dict[tuple[str, str], bool | None] = {pair: compare_plain(*pair) for pair in pairs if pair is not None}
        unknown = [pair for pair, value in equal.items() if value is None]
        equal.update(zip(unknown, compare_answers(unknown), strict=True))
        return [
            _malformed(item.reason) if pair is None else _verdict(pair[1], equal[pair])
            for item, pair in zip(found, pairs, strict=True)
        ]

    def canonical(self, problem: Problem) -> str:
        """The question in lower case with single spaces."""
        return self._canonical(problem.state["question"])

    def _canonical(self, question: str) -> str:
        return f"{self.name}:{' '.join(question.casefold().split())}"

    def _problem(self, row: dict[str, Any], where: str) -> Problem:
        question, gold = _question(row, where), _gold(row, where)
        digest = hashlib.sha256(self._canonical(question).encode()).hexdigest()[:16]
        return Problem(
            task=self.name,
            level=self.levels[0],
            id=f"{self.name}/file/{digest}",
            prompt=({"role": "user", "content": f"{_INSTRUCTION}\n\n{question}"},),
            state={"question": question, "gold": gold},
            answer=f"\\boxed{{{gold}}}",
        )


def _question(row: dict[str, Any], where: str) -> str:
    column = next((name for name in ("question", "problem") if name in row), None)
    if column is None or "answer" not in row:
        raise UserError(
            f"{where}: expected the columns 'question' (or 'problem') and 'answer', found {_columns(row)}. "
            "Rename the file's columns."
        )
    question = row[column]
    if not isinstance(question, str) or not question.strip():
        raise UserError(f"{where}: '{column}' is not a text with something in it.")
    return question.strip()


def _gold(row: dict[str, Any], where: str) -> str:
    value = row["answer"]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UserError(f"{where}: 'answer' is neither a text nor a number, but {type(value).__name__}.")
    gold = str(value).rpartition("####")[2].strip().strip("$").strip()
    boxed = extract_boxed(f"\\boxed{{{gold}}}")
    if boxed.answer != gold or (isinstance(value, float) and not math.isfinite(value)):
        raise UserError(
            f"{where}: the final answer {gold[:40]!r} cannot be used ({boxed.reason or 'not a value'}). Expected an "
            f"expression with balanced braces of 1 to {MAX_ANSWER} characters, alone or after '####'."
        )
    return canonical_text(gold)


def _columns(row: dict[str, Any]) -> str:
    return ", ".join(f"'{name}'" for name in row) or "none"


def _malformed(reason: str) -> Verdict:
    return Verdict(correct=False, well_formed=False, reason=reason)


def _verdict(answer: str, equal: bool | None) -> Verdict:
    reason = "the answer is another" if equal is False else "the answer could not be checked in time"
    return Verdict(correct=bool(equal), well_formed=True, reason="" if equal else reason, answer=canonical_text(answer))
