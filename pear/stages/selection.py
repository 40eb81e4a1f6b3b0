"""The problems that a buffer is made of: sets in order or as a weighted mix, without duplicates and leaks."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from pear.data.decontamination import LeakIndex, LeakWords
from pear.errors import UserError
from pear.tasks import TASKS, FileTask, Problem
from pear.tasks.problems import ProblemSet, load_problems, open_set, task_versions

if TYPE_CHECKING:
    from pear.data.deduplication import NearDuplicates

REMOVED = "removed.json"
VERSION = 1
Reason = Literal["evaluation", "evaluation_words", "duplicate", "near_duplicate"]
_REASONS: dict[Reason, str] = {
    "evaluation": "are in an evaluation set",
    "evaluation_words": "share words with an evaluation set",
    "duplicate": "are there already",
    "near_duplicate": "are nearly there already",
}


@dataclass(frozen=True, kw_only=True)
class Removed:
    """A problem that was left out.

    Args:
        problem_id: which.
        task: of which task.
        problem_set: the place of its set among `problems`, from 0.
        reason: `evaluation` (an evaluation problem has the same canonical form or text), `evaluation_words` (it shares
            a run of words with one), `duplicate` (a problem before it has the same canonical form or text) or
            `near_duplicate` (one before it has nearly the same words).
        matches: the id of that problem.
        detail: the run of words that is shared, or how similar the words are; "" for equal ones.
    """

    problem_id: str
    task: str
    problem_set: int
    reason: Reason
    matches: str
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The problems of a buffer, the split that each was taken from, and what was left out."""

    problems: list[Problem]
    splits: list[str]
    removed: list[Removed]

    def report(self) -> dict[str, Any]:
        """What `removed.json` holds."""
        return {"kept": len(self.problems), **self.counts(), "removed": [asdict(item) for item in self.removed]}

    def counts(self) -> dict[str, int]:
        """How many problems were left out, by reason."""
        found = Counter(item.reason for item in self.removed)
        return {f"removed_{reason}": found[reason] for reason in _REASONS}

    def sentence(self) -> str:
        """The counts for people."""
        found = Counter(item.reason for item in self.removed)
        parts = ", ".join(f"{found[reason]} {words}" for reason, words in _REASONS.items() if found[reason])
        return f"{len(self.removed)} problems were left out: {parts} ({REMOVED} names them)."


def selection_versions(sets: Sequence[ProblemSet], evaluation: Sequence[ProblemSet]) -> dict[str, int]:
    """What decides a selection beside the configuration, for fingerprints: the versions of the tasks and, where
    anything can be left out, of this file."""
    versions = {**task_versions(sets), **task_versions(evaluation)}
    may_remove = evaluation or len(sets) > len(task_versions(sets))
    if may_remove or any(isinstance(TASKS[item.task], FileTask) for item in sets):
        versions["selection"] = VERSION
    return versions


def select_problems(
    sets: Sequence[ProblemSet],
    *,
    size: int | None = None,
    evaluation: Sequence[ProblemSet] = (),
    leak_words: LeakWords = 8,
    near_duplicates: float = 0.8,
) -> Selection:
    """Takes the problems of the sets that are neither in an evaluation set nor there already.

    What is left out is made up for by the next problems of the same set, so that sizes and weights are those of what is
    kept; a file's set without a size just gets smaller. The same in every process.

    Args:
        sets: one after another, each with its own `size`; or, with `size`, a mix by their weights (`take_turns`).
        size: how many problems a mix has.
        evaluation: problems that must not be in the result.
        leak_words: for free text, any run of so many words that an evaluation problem has too is a leak.
        near_duplicates: for free text, the similarity from which a problem is a near-duplicate of an earlier one.

    Raises:
        UserError: a set cannot be had, or has too few problems that are not left out.
    """
    if not sets:
        raise UserError("problems: no set of problems is given.")
    checks = _Checks(load_problems(evaluation) if evaluation else [], leak_words, near_duplicates)
    streams = [_kept(open_set(item), place, checks) for place, item in enumerate(sets)]
    problems: list[Problem] = []
    splits: list[str] = []
    if size is None:
        turns = [(place, item.size) for place, item in enumerate(sets)]
    else:
        turns = [(place, 1) for place in take_turns([item.weight or 0 for item in sets], size)]
    for place, count in turns:
        found = _take(streams[place], count)
        problems += found
        splits += [sets[place].split or ""] * len(found)
    if not problems:
        raise UserError("problems: none is left, all of them are in the evaluation sets.")
    return Selection(problems=problems, splits=splits, removed=checks.removed)


def take_turns(weights: Sequence[float], count: int) -> Iterator[int]:
    """Whose turn it is, `count` times, in proportion to the weights at every moment: highest averages (Webster).

    A shorter sequence is the beginning of a longer one. Of equal averages, the first has its turn.

    >>> list(take_turns([2, 1], 6))
    [0, 1, 0, 0, 1, 0]
    """
    taken = [0] * len(weights)
    for _ in range(count):
        place = max(range(len(weights)), key=lambda index: weights[index] / (2 * taken[index] + 1))
        taken[place] += 1
        yield place


def _take(stream: Iterator[Problem], count: int | None) -> list[Problem]:
    """The next `count` problems, or all. A stream that ends before that raises."""
    return list(stream) if count is None else [next(stream) for _ in range(count)]


class _Checks:
    """Why a problem is left out, given the evaluation's and those taken before it."""

    def __init__(self, evaluation: Sequence[Problem], leak_words: LeakWords, near_duplicates: float) -> None:
        self.removed: list[Removed] = []
        self._evaluation: dict[bytes, str] = {}
        self._leaks, self._leaked_ids = LeakIndex(leak_words), list[str]()
        self._taken: dict[bytes, str] = {}
        self._threshold = near_duplicates
        self._near: NearDuplicates | None = None
        self._near_ids: list[str] = []
        for problem in evaluation:
            self._evaluation.setdefault(_key(problem), problem.id)
            text = TASKS[problem.task].wording(problem)
            if text is not None:
                self._leaks.add(text)
                self._leaked_ids.append(problem.id)

    def take(self, problem: Problem, problem_set: int) -> bool:
        """Whether to take a problem; notes the reason where not."""
        found = self._fault(problem)
        if found is None:
            return True
        reason, matches, detail = found
        self.removed.append(
            Removed(
                problem_id=problem.id,
                task=problem.task,
                problem_set=problem_set,
                reason=reason,
                matches=matches,
                detail=detail,
            )
        )
        return False

    def _fault(self, problem: Problem) -> tuple[Reason, str, str] | None:
        key, text = _key(problem), TASKS[problem.task].wording(problem)
        if key in self._evaluation:
            return "evaluation", self._evaluation[key], ""
        leak = None if text is None else self._leaks.find(text)
        if leak is not None:
            return "evaluation_words", self._leaked_ids[leak[0]], leak[1]
        if key in self._taken:
            return "duplicate", self._taken[key], ""
        if text is not None:
            near = self._near_index().find_or_add(text)
            if near is not None:
                return "near_duplicate", self._near_ids[near[0]], f"{near[1]:.3f}"
            self._near_ids.append(problem.id)
        self._taken[key] = problem.id
        return None

    def _near_index(self) -> "NearDuplicates":
        """Made when the first free text comes: puzzles need none."""
        from pear.data.deduplication import NearDuplicates

        if self._near is None:
            self._near = NearDuplicates(self._threshold)
        return self._near


def _key(problem: Problem) -> bytes:
    """Equal for problems that are the same: puzzles by their canonical form, free text by its words in any task."""
    task = TASKS[problem.task]
    text = task.wording(problem)
    same = task.canonical(problem) if text is None else "text:" + " ".join(text.casefold().split())
    return hashlib.sha256(same.encode("utf-8", "surrogatepass")).digest()


def _kept(found: Iterator[Problem], place: int, checks: _Checks) -> Iterator[Problem]:
    left_out = 0
    try:
        for problem in found:
            if checks.take(problem, place):
                yield problem
            else:
                left_out += 1
    except UserError as error:
        if not left_out:
            raise
        raise UserError(f"{error} {left_out} were left out as duplicates or as evaluation problems.") from None
