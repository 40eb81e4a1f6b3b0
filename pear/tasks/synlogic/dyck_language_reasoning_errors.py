"""Dyck language reasoning errors: which steps of a reading of brackets are wrong."""

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

_MAX_ANSWER = 2_000
_NUMBERS = re.compile(r"(?P<open>\[)?\s*[1-9][0-9]{0,3}(?:\s*,\s*[1-9][0-9]{0,3})*\s*(?(open)\])")
_NONE = ('""', "no", "no error", "no errors", "no mistakes", "all correct")
# The first two thoughts say how to go on; the brackets are read from the third on.
_FIRST = 3
_STEP = re.compile(r"Thought [0-9]{1,4}: *(?P<bracket>\S) *; *(?:栈|[Ss]tack): *(?P<stack>[^\s;]*) *")


@dataclass(frozen=True, kw_only=True)
class _Knobs:
    types: int
    length: int
    errors: int

    def __post_init__(self) -> None:
        if not 1 <= self.types <= len(PAIRS):
            raise ValueError(f"types must be from 1 to {len(PAIRS)}, got {self.types}")
        if not 4 <= self.length <= 200 or self.length % 2:
            raise ValueError(f"length must be even and from 4 to 200, got {self.length}")
        if not 1 <= self.errors <= self.length:
            raise ValueError(f"errors must be from 1 to length, got {self.errors}")


_LEVELS = {
    "easy": _Knobs(types=2, length=12, errors=2),
    "medium": _Knobs(types=3, length=24, errors=4),
    "hard": _Knobs(types=4, length=48, errors=8),
}


class DyckLanguageReasoningErrors(GeneratedTask):
    """Thoughts that read a sequence of brackets one by one and note which are open; some note the wrong ones.

    Levels differ in how many kinds of brackets there may be, the length of the sequence, and how many thoughts are
    wrong at most: easy 2, 12, 2; medium 3, 24, 4; hard 4, 48, 8. Any number of errors from none is equally likely.

    The answer is the numbers of the wrong thoughts, separated by commas, in any order; `no errors` where there
    are none.
    """

    name = "synlogic/dyck_language_reasoning_errors"
    knobs = _LEVELS
    levels = tuple(knobs)
    source = (
        "the rules of SynLogic's `dyck_language_reasoning_errors` (arXiv 2505.19641); the generator is this package's"
    )

    def generate(self, seed: int, level: str) -> Problem:
        knobs = read_level(level, _LEVELS)
        # A text seed goes through sha512, not through hash().
        draw = random.Random(f"{self.name}/{level}/{seed}")
        pairs = draw.sample(PAIRS, knobs.types)
        sequence = draw_brackets(draw, pairs, knobs.length, 0)
        stacks = [open_brackets(sequence[: step + 1]) for step in range(len(sequence))]
        wrong = draw.sample(range(len(sequence) + 1), draw.randint(0, knobs.errors))
        for step in sorted(wrong):
            if step < len(sequence):
                stacks[step] = _wrong_stack(draw, pairs, sequence, step)
        state = {"sequence": sequence, "stacks": stacks, "ends_empty": len(sequence) not in wrong}
        return Problem(
            task=self.name,
            level=level,
            id=f"{self.name}/{level}/{seed}",
            prompt=({"role": "user", "content": _question(state)},),
            state=state,
            answer=_written(_errors(state)),
        )

    def check(self, problem: Problem, answer: str) -> tuple[str, str]:
        found = _read_numbers(answer)
        errors = _errors(problem.state)
        if extra := [number for number in found if number not in errors]:
            return _written(found), f"thought {extra[0]} is not wrong, or does not exist"
        return _written(found), "" if found == errors else "a wrong thought is missing"

    def canonical(self, problem: Problem) -> str:
        """The sequence and what is noted, up to the names of the kinds of brackets."""
        state = problem.state
        texts = [state["sequence"], *state["stacks"]]
        names = renamed("".join(texts))
        lengths = ",".join(str(len(text)) for text in texts)
        return f"{self.name}:{names} {lengths} {state['ends_empty']}"

    def solve(self, problem: Problem) -> str:
        sequence, stacks = problem.state["sequence"], problem.state["stacks"]
        steps = []
        for step, stack in enumerate(stacks):
            right = open_brackets(sequence[: step + 1])
            word = "right" if stack == right else f"wrong, noted is {stack or 'empty'}"
            steps.append(f"{step + _FIRST}: {sequence[step]} makes {right or 'empty'}, {word}")
        last = "right" if problem.state["ends_empty"] else "wrong"
        steps.append(f"{len(sequence) + _FIRST}: at the end the stack is empty, {last}")
        return f"<think> {'; '.join(steps)}. </think> <answer> {_written(_errors(problem.state))} </answer>"


def from_game(game: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The state and the answer of a published row, from `dyck_sequence` and `thoughts` of its metadata, which are in
    Chinese or English. Raises `ValueError` where they are missing, or where a thought cannot be read."""
    metadata = game.get("metadata")
    if not isinstance(metadata, Mapping):
        raise ValueError("metadata is missing")
    sequence, thoughts = metadata.get("dyck_sequence"), metadata.get("thoughts")
    if not isinstance(sequence, str) or not only_brackets(sequence):
        raise ValueError("metadata.dyck_sequence is not a text of brackets")
    if first_error(sequence) is not None or open_brackets(sequence):
        raise ValueError("metadata.dyck_sequence is not complete")
    if not isinstance(thoughts, list) or not all(isinstance(thought, str) for thought in thoughts):
        raise ValueError("metadata.thoughts is not a list of texts")
    if len(thoughts) != len(sequence) + _FIRST:
        raise ValueError(f"metadata.thoughts has {len(thoughts)} entries, expected {len(sequence) + _FIRST}")
    stacks = []
    for bracket, thought in zip(sequence, thoughts[_FIRST - 1 : -1], strict=True):
        match = _STEP.fullmatch(thought)
        stack = "" if match is None or match["stack"] in ("空", "empty") else match["stack"]
        if match is None or match["bracket"] != bracket or (stack and not only_brackets(stack)):
            raise ValueError(f"metadata.thoughts: cannot read '{thought[:50]}'")
        stacks.append(stack)
    ends_empty = "不" not in thoughts[-1] and "not empty" not in thoughts[-1]
    state = {"sequence": sequence, "stacks": stacks, "ends_empty": ends_empty}
    return state, _written(_errors(state))


def _errors(state: Mapping[str, Any]) -> list[int]:
    """The numbers of the thoughts whose stack is not the one that the sequence up to there leaves."""
    wrong, right = [], ""
    for number, (bracket, stack) in enumerate(zip(state["sequence"], state["stacks"], strict=True), _FIRST):
        right = right + bracket if bracket in CLOSING else right[:-1]
        if stack != right:
            wrong.append(number)
    return wrong if state["ends_empty"] else [*wrong, len(state["sequence"]) + _FIRST]


def _wrong_stack(draw: random.Random, pairs: list[str], sequence: str, step: int) -> str:
    """A stack as somebody might note who forgets to push or pop, pops too much, or takes one bracket for another."""
    right, before = open_brackets(sequence[: step + 1]), open_brackets(sequence[:step])
    bracket = draw.choice(pairs)[0]
    place = draw.randrange(len(right)) if right else 0
    choices = [before, right[:-1], right + bracket, right[:place] + bracket + right[place + 1 :]]
    return draw.choice([stack for stack in choices if stack != right])


def _question(state: Mapping[str, Any]) -> str:
    sequence = state["sequence"]
    thoughts = ["The brackets are read one by one, and the stack holds those that are open.", "stack: empty"]
    thoughts += [
        f"{bracket} ; stack: {stack or 'empty'}" for bracket, stack in zip(sequence, state["stacks"], strict=True)
    ]
    thoughts.append(f"That was the last bracket, and the stack is {'' if state['ends_empty'] else 'not '}empty.")
    lines = "\n".join(f"Thought {number}: {thought}" for number, thought in enumerate(thoughts, 1))
    return (
        f"{INSTRUCTION}\n\n"
        f"There are these kinds of brackets: {', '.join(f'{pair[0]} and {pair[1]}' for pair in PAIRS)}. Somebody wants "
        f"to know whether in {sequence} every opening bracket is closed by one of its own kind, those opened last "
        "first. An opening bracket is put on top of a stack, at its right end; a closing bracket takes its partner "
        "away from there. These were the thoughts:\n\n"
        f"{lines}\n\n"
        f"Which thoughts from thought {_FIRST} on are wrong? A thought is wrong if its stack is not the true stack "
        "right after that bracket, whatever the thoughts before it say; the last one is wrong if what it says of the "
        "true stack is false. There may be none.\n"
        "The answer is the numbers of all wrong thoughts, separated by commas, like 101, 104; or the words no errors."
    )


def _written(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers)) or "no errors"


def _read_numbers(answer: str) -> list[int]:
    if len(answer) > _MAX_ANSWER:
        raise ValueError("the answer is too long for a list of numbers")
    text = answer.strip()
    if text.lower() in _NONE:
        return []
    if not _NUMBERS.fullmatch(text):
        raise ValueError("the answer is neither a list of numbers like 101, 104 nor the words no errors")
    numbers = sorted(int(number) for number in re.findall(r"[0-9]+", text))
    if len(set(numbers)) < len(numbers):
        raise ValueError("a number stands twice")
    return numbers
