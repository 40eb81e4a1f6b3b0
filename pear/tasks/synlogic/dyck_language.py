"""Dyck language: close all brackets that a sequence leaves open."""

import random
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

_MAX_ANSWER = 10_000


@dataclass(frozen=True, kw_only=True)
class _Knobs:
    types: int
    length: int
    fill: int
    depth: int

    def __post_init__(self) -> None:
        if not 1 <= self.types <= len(PAIRS):
            raise ValueError(f"types must be from 1 to {len(PAIRS)}, got {self.types}")
        if not 4 <= self.length <= 400 or self.length % 2:
            raise ValueError(f"length must be even and from 4 to 400, got {self.length}")
        if not 1 <= self.fill <= self.length // 2:
            raise ValueError(f"fill must be from 1 to half of length, got {self.fill}")
        if not 0 <= self.depth <= self.length // 2:
            raise ValueError(f"depth must be from 0 to half of length, got {self.depth}")


_LEVELS = {
    "easy": _Knobs(types=3, length=20, fill=4, depth=0),
    "medium": _Knobs(types=4, length=40, fill=8, depth=4),
    "hard": _Knobs(types=4, length=80, fill=16, depth=10),
}


class DyckLanguage(GeneratedTask):
    """The beginning of a sequence of brackets, to be completed by closing what is open and nothing else.

    Levels differ in how many kinds of brackets there may be, the length of the complete sequence, how many brackets
    are to be closed, and how many opening brackets it starts with at least:
    easy 3, 20, 4, 0; medium 4, 40, 8, 4; hard 4, 80, 16, 10.

    The answer is the complete sequence, the given beginning included; spaces do not count.
    """

    name = "synlogic/dyck_language"
    knobs = _LEVELS
    levels = tuple(knobs)
    source = (
        "the rules of SynLogic's task `dyck_language` (arXiv 2505.19641); generator and verifier are this package's"
    )

    def generate(self, seed: int, level: str) -> Problem:
        knobs = read_level(level, _LEVELS)
        # A text seed goes through sha512, not through hash().
        draw = random.Random(f"{self.name}/{level}/{seed}")
        pairs = draw.sample(PAIRS, knobs.types)
        sequence = draw_brackets(draw, pairs, knobs.length - knobs.fill, knobs.fill, knobs.depth)
        return Problem(
            task=self.name,
            level=level,
            id=f"{self.name}/{level}/{seed}",
            prompt=({"role": "user", "content": _question(sequence)},),
            state={"sequence": sequence},
            answer=sequence + _closing(sequence),
        )

    def check(self, problem: Problem, answer: str) -> tuple[str, str]:
        if len(answer) > _MAX_ANSWER:
            raise ValueError(f"the answer is longer than {_MAX_ANSWER:,} characters")
        found = "".join(answer.split())
        if not only_brackets(found):
            raise ValueError("the answer is not a sequence of brackets alone")
        given = problem.state["sequence"]
        if not found.startswith(given):
            return found, "it does not start with the given sequence"
        place = first_error(found)
        if place is not None:
            return found, f"bracket {place + 1} closes what is not open"
        if open_brackets(found):
            return found, "a bracket is left open"
        return found, "" if len(found) == len(given) + len(open_brackets(given)) else "it opens more brackets"

    def canonical(self, problem: Problem) -> str:
        """The given sequence up to the names of the kinds of brackets."""
        return f"{self.name}:{renamed(problem.state['sequence'])}"

    def solve(self, problem: Problem) -> str:
        sequence = problem.state["sequence"]
        steps = [f"{sequence[place]} open: {open_brackets(sequence[: place + 1])}" for place in range(len(sequence))]
        steps.append(f"from the last to the first these are closed by {_closing(sequence)}")
        return f"<think> {'; '.join(steps)}. </think> <answer> {sequence + _closing(sequence)} </answer>"


def from_game(game: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The state and the answer of a published row, from `metadata.question_sequence`. Raises `ValueError` where it is
    missing, has other characters than brackets, closes what is not open, or leaves nothing open."""
    metadata = game.get("metadata")
    sequence = metadata.get("question_sequence") if isinstance(metadata, Mapping) else None
    if not isinstance(sequence, str) or not only_brackets(sequence):
        raise ValueError("metadata.question_sequence is not a text of brackets")
    if first_error(sequence) is not None or not open_brackets(sequence):
        raise ValueError("metadata.question_sequence is not the beginning of a sequence with something left to close")
    return {"sequence": sequence}, sequence + _closing(sequence)


def _closing(sequence: str) -> str:
    return "".join(CLOSING[bracket] for bracket in reversed(open_brackets(sequence)))


def _question(sequence: str) -> str:
    return (
        f"{INSTRUCTION}\n\n"
        f"There are these kinds of brackets: {', '.join(f'{pair[0]} and {pair[1]}' for pair in PAIRS)}. In a complete "
        "sequence every opening bracket is closed later by one of its own kind, and what was opened last is closed "
        "first. This is the beginning of such a sequence:\n\n"
        f"{sequence}\n\n"
        "Complete it with as few brackets as possible, that is, without opening another one.\n"
        "The answer is the whole sequence, the given beginning included, without spaces, like ([]) for ([."
    )
