"""What a task is: problems from seeds, a verifier, a canonical form."""

import dataclasses
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pear.errors import UserError
from pear.tasks.extraction import extract_answer, lenient_answer, refuse_long

Message = dict[str, str]
Tags = Literal["strict", "lenient"]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One instance of a task.

    Args:
        task: the task's name in `TASKS`.
        level: one of the task's levels.
        id: unique among all problems, and stable: `task/level/seed` for generated ones.
        prompt: chat messages, without the assistant's turn.
        state: JSON values, all that the verifier needs.
        answer: a right answer, as text between the answer tags; for people and tests, never for string comparison.
    """

    task: str
    level: str
    id: str
    prompt: tuple[Message, ...]
    state: dict[str, Any]
    answer: str

    def to_json(self) -> str:
        """The JSON text that the columns `problem` of a buffer and of GRPO's data carry."""
        return json.dumps(
            {
                "task": self.task,
                "level": self.level,
                "id": self.id,
                "prompt": list(self.prompt),
                "state": self.state,
                "answer": self.answer,
            },
            ensure_ascii=False,
            sort_keys=True,
        )

    @classmethod
    def from_json(cls, text: str) -> "Problem":
        """The inverse of `to_json`."""
        values = json.loads(text)
        return cls(**{**values, "prompt": tuple(values["prompt"])})


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The verifier's word on one completion.

    Args:
        correct: the answer is right and the format is kept. The reward is 1.0 or 0.0 by this alone.
        well_formed: the format is kept (tags, shape), whether or not the answer is right.
        reason: "" when correct, otherwise a few words for people.
        answer: the extracted answer in canonical text, or None where none could be read (for majority votes).
        accurate: the answer is right, whether or not the format is kept; always so where it is correct.
        lenient_answer: as `answer`, of what is read whether or not the format is kept; the same wherever it is kept.
    """

    correct: bool
    well_formed: bool
    reason: str = ""
    answer: str | None = None
    accurate: bool = False
    lenient_answer: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "accurate", self.accurate or self.correct)
        if self.lenient_answer is None:
            object.__setattr__(self, "lenient_answer", self.answer)

    def by(self, tags: Tags) -> "Verdict":
        """The verdict by a rule about the format. `strict`, SynLogic's: correct is what keeps the format and is right.
        `lenient`: correct is what is accurate, and votes go by what was read. `well_formed` is the same by both.

        >>> Verdict(correct=False, well_formed=False, reason="no tags", accurate=True).by("lenient").correct
        True
        """
        if tags == "strict":
            return self
        reason = "" if self.accurate else self.reason
        return dataclasses.replace(self, correct=self.accurate, reason=reason, answer=self.lenient_answer)


class Task(ABC):
    """A family of problems with a verifier. Subclasses are final and stateless; one file each."""

    name: ClassVar[str]
    version: ClassVar[int] = 1
    levels: ClassVar[tuple[str, ...]]
    source: ClassVar[str]
    many_solutions: ClassVar[bool] = False
    """Whether a problem may have several right answers: a majority vote counts each of them on its own."""

    @abstractmethod
    def verify(self, problem: Problem, completion: str) -> Verdict:
        """Checks a completion by the task's rules. Pure; never evaluates the text; never raises on any text."""

    def verify_many(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Verdict]:
        """`verify` of each pair, in order; a task whose checks are slow runs them side by side."""
        return [self.verify(problem, text) for problem, text in zip(problems, completions, strict=True)]

    @abstractmethod
    def canonical(self, problem: Problem) -> str:
        """A text that is equal for problems that are the same up to what does not matter. Splits and de-duplication
        go by it."""

    def wording(self, problem: Problem) -> str | None:
        """What a problem in free text asks, without the instruction: near-duplicates and leaks are found by its words.
        None for puzzles, whose prompts share a template; `canonical` alone tells those apart."""
        return None


class GeneratedTask(Task):
    """A task whose problems come from a seed.

    A task with a small `vocabulary` (every word of its prompts and solver traces) can train a word-level model from
    scratch; tasks in natural language leave it empty. A task with `knobs` names, for each of its levels, a frozen
    dataclass of difficulty settings; a level's text may change some of them (`levels.read_level`).
    """

    vocabulary: ClassVar[tuple[str, ...]] = ()
    knobs: ClassVar[Mapping[str, Any]] = {}

    @abstractmethod
    def generate(self, seed: int, level: str) -> Problem:
        """The problem of a seed: equal in every process, whatever PYTHONHASHSEED."""

    @abstractmethod
    def check(self, problem: Problem, answer: str) -> tuple[str, str]:
        """Reads the text of an answer: its canonical text and, where it is wrong, the reason in a few words ("" where
        it is right). Pure, and never evaluates the text. Raises `ValueError`, with words for people, on text that is
        no answer to such a problem."""

    def verify(self, problem: Problem, completion: str) -> Verdict:
        """Checks a completion in the answer format; the rules are those of `check`."""
        return judge(completion, lambda answer: self.check(problem, answer))

    def solve(self, problem: Problem) -> str | None:
        """A right completion with its reasoning, from a solver, or None where the task has none."""
        return None


class FileTask(Task):
    """A task whose problems are rows of a file."""

    @abstractmethod
    def read(self, rows: Sequence[dict[str, Any]], *, origin: str) -> list[Problem]:
        """The problems of a file's rows. `origin` is named in errors. Raises `UserError` on a row it cannot use."""

    def with_columns(self, problem: str | None, answer: str | None) -> "FileTask":
        """This task for files whose columns have these names; None is the usual name. Raises `UserError` where the
        task's files have columns of their own."""
        raise UserError(
            f"{self.name}: its files have columns of their own; leave `problem_column` and `answer_column` out, or use "
            "the task maths/file."
        )


def judge(completion: str, check: Callable[[str], tuple[str, str]]) -> Verdict:
    """The verdict on a completion in the answer format.

    `check` reads the answer's text: its canonical text and, where it is wrong, the reason ("" where it is right). It
    raises `ValueError`, with words for people, on text that is no answer to such a problem.
    """
    extracted = extract_answer(completion)
    if extracted.answer is None:
        answer, accurate = _read_leniently(lenient_answer(completion), check)
        return Verdict(
            correct=False, well_formed=False, reason=extracted.reason, accurate=accurate, lenient_answer=answer
        )
    try:
        refuse_long(extracted.answer)
        canonical, reason = check(extracted.answer)
    except ValueError as error:
        return Verdict(correct=False, well_formed=False, reason=str(error))
    return Verdict(correct=not reason, well_formed=True, reason=reason, answer=canonical)


def _read_leniently(answer: str | None, check: Callable[[str], tuple[str, str]]) -> tuple[str | None, bool]:
    """The canonical text of an answer, or None where it is none to such a problem, and whether it is right."""
    if answer is None:
        return None, False
    try:
        refuse_long(answer)
        canonical, reason = check(answer)
    except ValueError:
        return None, False
    return canonical, not reason
