r"""What the mathematical tasks share: problems from rows, and the check of what stands in `\boxed{}`."""

import hashlib
import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pear.errors import UserError
from pear.tasks.extraction import Extracted
from pear.tasks.maths.answers import (
    MAX_ANSWER,
    canonical_text,
    clean,
    compare_plain,
    extract_boxed,
    lenient_boxed,
    readable,
    unboxed_answer,
    voting_text,
)
from pear.tasks.maths.verifier import compare_answers
from pear.tasks.protocol import FileTask, Problem, Verdict

_INSTRUCTION = (
    "Solve the problem step by step. Put your reasoning inside <think> </think> tags, and then your final answer "
    r"inside \boxed{}."
)


@dataclass(frozen=True, kw_only=True)
class Question:
    """A row, read.

    Args:
        text: the problem.
        gold: the right answer, as `read_gold` returns it.
        note: what the problem's text does not say about the form of the answer.
        tolerance: how far a number may be from the right one, as a decimal; "" for not at all.
    """

    text: str
    gold: str
    note: str = ""
    tolerance: str = ""


@dataclass(frozen=True, kw_only=True)
class _Given:
    """An answer beside the right one: as the format asks for it, and wherever a box stands."""

    gold: str
    tolerance: str
    strict: Extracted
    lenient: str | None


class MathsTask(FileTask):
    r"""Problems with a final answer, from a file.

    The completion's answer is the content of the last `\boxed{}` after the reasoning (`extract_boxed`). Plain numbers
    and words are compared here; all else by math-verify in worker processes with a time limit, so equal expressions
    pass, also unsimplified ones. Rows with equal questions are one problem.
    """

    levels = ("file",)

    @abstractmethod
    def question(self, row: dict[str, Any], where: str) -> Question | None:
        """The problem and answer of a row; None for rows that are of another kind. Raises `UserError`."""

    def read(self, rows: Sequence[dict[str, Any]], *, origin: str) -> list[Problem]:
        first: dict[str, tuple[int, Problem]] = {}
        for number, row in enumerate(rows, 1):
            where = f"{origin}, row {number}"
            question = self.question(row, where)
            if question is None:
                continue
            problem = self._problem(question)
            earlier, same = first.setdefault(problem.id, (number, problem))
            if not self.same_answer(same.state["gold"], problem.state["gold"]):
                raise UserError(
                    f"{where}: the answer '{problem.state['gold']}' is another than in row {earlier}, which has the "
                    f"same question ('{same.state['gold']}'). Remove one of them."
                )
        return [problem for _, problem in first.values()]

    def same_answer(self, first: str, second: str) -> bool:
        """Whether two rows with the same question may have these answers."""
        return first == second

    def verify(self, problem: Problem, completion: str) -> Verdict:
        return self.verify_many([problem], [completion])[0]

    def verify_many(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Verdict]:
        given = [
            _Given(
                gold=problem.state["gold"],
                tolerance=problem.state.get("tolerance", ""),
                strict=extract_boxed(completion),
                lenient=lenient_boxed(completion),
            )
            for problem, completion in zip(problems, completions, strict=True)
        ]
        keys = [(item.gold, item.lenient, item.tolerance) for item in given if item.lenient is not None]
        equal = {key: compare_plain(*key) for key in keys}
        unknown = [key for key, value in equal.items() if value is None]
        pairs = [(readable(gold), readable(answer)) for gold, answer, _ in unknown]
        equal.update(zip(unknown, compare_answers(pairs), strict=True))
        return [
            _verdict(item, None if item.lenient is None else equal[item.gold, item.lenient, item.tolerance], completion)
            for item, completion in zip(given, completions, strict=True)
        ]

    def canonical(self, problem: Problem) -> str:
        """The question in lower case with single spaces."""
        return self._canonical(problem.state["question"])

    def wording(self, problem: Problem) -> str:
        return str(problem.state["question"])

    def _canonical(self, question: str) -> str:
        return f"{self.name}:{' '.join(question.casefold().split())}"

    def _problem(self, question: Question) -> Problem:
        digest = hashlib.sha256(self._canonical(question.text).encode()).hexdigest()[:16]
        state = {"question": question.text, "gold": question.gold}
        return Problem(
            task=self.name,
            level=self.levels[0],
            id=f"{self.name}/file/{digest}",
            prompt=(
                {"role": "user", "content": "\n\n".join(filter(None, [_INSTRUCTION, question.text, question.note]))},
            ),
            state={**state, "tolerance": question.tolerance} if question.tolerance else state,
            answer=f"\\boxed{{{question.gold}}}",
        )


def read_text(row: dict[str, Any], names: Sequence[str], where: str) -> str:
    """The text in the first of these columns that the row has. Raises `UserError`, naming the columns, without one."""
    column = _column(row, names)
    if column is None:
        raise _missing(row, names, where)
    text = row[column]
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"{where}: '{column}' is not a text with something in it.")
    return text.strip()


def read_gold(row: dict[str, Any], names: Sequence[str], where: str) -> str:
    """The answer in the first of these columns that the row has (`gold_text`)."""
    column = _column(row, names)
    if column is None:
        raise _missing(row, names, where)
    return gold_text(row[column], f"{where}, '{column}'")


def gold_text(value: Any, where: str) -> str:
    """A final answer as text. Raises `UserError` on one that no answer in a box could be compared with."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UserError(f"{where}: the answer is neither a text nor a number, but {type(value).__name__}.")
    gold = clean(str(value))
    boxed = extract_boxed(f"\\boxed{{{gold}}}")
    if boxed.answer != gold or (isinstance(value, float) and not math.isfinite(value)):
        raise UserError(
            f"{where}: the final answer {gold[:40]!r} cannot be used ({boxed.reason or 'not a value'}). Expected an "
            f"expression with balanced braces of 1 to {MAX_ANSWER} characters."
        )
    return canonical_text(gold)


def _column(row: dict[str, Any], names: Sequence[str]) -> str | None:
    """The first of these columns with a value, else the first that the row has at all."""
    present = [name for name in names if name in row]
    return next((name for name in present if row[name] is not None), present[0] if present else None)


def _missing(row: dict[str, Any], names: Sequence[str], where: str) -> UserError:
    wanted = " or ".join(f"'{name}'" for name in names)
    found = ", ".join(f"'{name}'" for name in row) or "none"
    return UserError(
        f"{where}: expected the column {wanted}, found {found}. Rename the file's columns, or use the task maths/file "
        "and name them there."
    )


def _verdict(given: _Given, equal: bool | None, completion: str) -> Verdict:
    """`equal` is about the lenient reading, which is the strict one wherever there is a strict one."""
    if given.strict.answer is None:
        # Without a box, plain numbers and equal text alone: math-verify finds answers in whole sentences.
        unboxed = unboxed_answer(completion) if given.lenient is None else None
        accurate = bool(equal) or (unboxed is not None and compare_plain(given.gold, unboxed, given.tolerance) is True)
        found = unboxed if given.lenient is None else given.lenient
        return Verdict(
            correct=False,
            well_formed=False,
            reason=given.strict.reason,
            accurate=accurate,
            lenient_answer=None if found is None else voting_text(found),
        )
    reason = "the answer is another" if equal is False else "the answer could not be checked in time"
    text = voting_text(given.strict.answer)
    return Verdict(correct=bool(equal), well_formed=True, reason="" if equal else reason, answer=text)
