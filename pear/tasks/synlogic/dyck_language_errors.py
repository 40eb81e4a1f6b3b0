"""Dyck language errors: where a sequence of brackets goes wrong first."""

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pear.tasks.extraction import INSTRUCTION
from pear.tasks.levels import read_level
from pear.tasks.protocol import GeneratedTask, Problem
from pear.tasks.synlogic.brackets import (
    CLOSING,
    PAIRS,
    draw_brackets,
    first_error,
    only_brackets,
    open_brackets,
    renamed,
)

_ANSWER = re.compile(r"-1|[1-9][0-9]{0,5}")
_MAX_OPEN = 6


@dataclass(frozen=True, kw_only=True)
class _Knobs:
    types: int
    length: int

    def __post_init__(self) -> None:
        if not 1 <= self.types <= len(PAIRS):
            raise ValueError(f"types must be from 1 to {len(PAIRS)}, got {self.types}")
        if not 4 <= self.length <= 400 or self.length % 2:
            raise ValueError(f"length must be even and from 4 to 400, got {self.length}")


_LEVELS = {
    "easy": _Knobs(types=2, length=14),
    "medium": _Knobs(types=3, length=30),
    "hard": _Knobs(types=4, length=60),
}


class DyckLanguageErrors(GeneratedTask):
    """A sequence of brackets, in most cases with an error: a bracket that closes nothing or another kind than is open,
    or brackets that are never closed.

    Levels differ in how many kinds of brackets there may be, and in the length: easy 2, 14; medium 3, 30; hard 4, 60.

    The answer is the place of the first error, counted from 1; the length plus 1 where the only error is that brackets
    are left open; or -1 where there is no error.
    """

    name = "synlogic/dyck_language_errors"
    knobs = _LEVELS
    levels = tuple(knobs)
    source = (
        "the rules of SynLogic's `dyck_language_errors` (arXiv 2505.19641); generator and verifier are this package's"
    )

    def generate(self, seed: int, level: str) -> Problem:
        knobs = read_level(level, _LEVELS)
        # A text seed goes through sha512, not through hash().
        draw = random.Random(f"{self.name}/{level}/{seed}")
        sequence = _draw(draw, knobs)
        return Problem(
            task=self.name,
            level=level,
            id=f"{self.name}/{level}/{seed}",
            prompt=({"role": "user", "content": _question(sequence)},),
            state={"sequence": sequence},
            answer=str(_place(sequence)),
        )

    def check(self, problem: Problem, answer: str) -> tuple[str, str]:
        found = answer.strip()
        if not _ANSWER.fullmatch(found):
            raise ValueError("the answer is neither -1 nor a place from 1 on")
        return found, "" if int(found) == _place(problem.state["sequence"]) else "the first error is not there"

    def canonical(self, problem: Problem) -> str:
        """The sequence up to the names of the kinds of brackets."""
        return f"{self.name}:{renamed(problem.state['sequence'])}"

    def solve(self, problem: Problem) -> str:
        sequence = problem.state["sequence"]
        place = first_error(sequence)
        fine = sequence[: len(sequence) if place is None else place]
        steps = [
            f"{step}: {fine[step - 1]} open: {open_brackets(fine[:step]) or 'none'}" for step in range(1, len(fine) + 1)
        ]
        if place is not None:
            steps.append(
                f"{place + 1}: {sequence[place]} does not close {(open_brackets(fine) or ' ')[-1].strip() or 'any'}"
            )
        elif open_brackets(sequence):
            steps.append(f"{len(sequence) + 1}: the end, with brackets left open")
        else:
            steps.append("the end, with none left open")
        return f"<think> {'; '.join(steps)}. </think> <answer> {_place(sequence)} </answer>"


def from_game(game: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The state and the answer of a published row, from `metadata.bracket_string`. Raises `ValueError` where it is
    missing or has other characters than brackets.

    The published generator marks, with one kind of brackets, some places that break no rule; the rule decides here.
    """
    metadata = game.get("metadata")
    sequence = metadata.get("bracket_string") if isinstance(metadata, Mapping) else None
    if not isinstance(sequence, str) or not only_brackets(sequence):
        raise ValueError("metadata.bracket_string is not a text of brackets")
    return {"sequence": sequence}, str(_place(sequence))


def _draw(draw: random.Random, knobs: _Knobs) -> str:
    """A sequence without an error or with brackets left open, a fifth of the time each; else one in which a bracket was
    replaced by a closing one that is wrong there."""
    pairs = draw.sample(PAIRS, knobs.types)
    kind = draw.random()
    if 0.2 <= kind < 0.4:
        left_open = 2 * draw.randint(1, min(_MAX_OPEN, knobs.length) // 2)
        return draw_brackets(draw, pairs, knobs.length, left_open)
    sequence = draw_brackets(draw, pairs, knobs.length, 0)
    if kind < 0.2:
        return sequence
    wrong = []
    for place in range(knobs.length):
        allowed = CLOSING.get(open_brackets(sequence[:place])[-1:])
        wrong.append([pair[1] for pair in pairs if pair[1] != allowed])
    place = draw.choice([place for place, choices in enumerate(wrong) if choices])
    return sequence[:place] + draw.choice(wrong[place]) + sequence[place + 1 :]


def _place(sequence: str) -> int:
    place = first_error(sequence)
    if place is not None:
        return place + 1
    return len(sequence) + 1 if open_brackets(sequence) else -1


def _question(sequence: str) -> str:
    return (
        f"{INSTRUCTION}\n\n"
        f"There are these kinds of brackets: {', '.join(f'{pair[0]} and {pair[1]}' for pair in PAIRS)}. In a correct "
        "sequence every opening bracket is closed later by one of its own kind, and what was opened last is closed "
        "first. Read this sequence from the left:\n\n"
        f"{sequence}\n\n"
        "Where is its first error? A closing bracket is an error if nothing is open there, or if the bracket that was "
        "opened last is of another kind. If there is no such bracket but some are still open at the end, the error is "
        f"right after the end, at place {len(sequence) + 1}.\n"
        "The answer is the place of the first error, counted from 1, or -1 if the sequence is correct. For example, it "
        "is 2 for (] and 3 for (( and -1 for ()."
    )
