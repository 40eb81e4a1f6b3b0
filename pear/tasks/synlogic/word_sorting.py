"""Word sorting: put words into the order of an alphabet that is not the usual one."""

import json
import random
import re
import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pear.tasks.extraction import INSTRUCTION, parse_json
from pear.tasks.levels import read_level
from pear.tasks.protocol import GeneratedTask, Problem
from pear.tasks.synlogic.boxed import box, read_box
from pear.tasks.synlogic.words import WORDS


@dataclass(frozen=True, kw_only=True)
class _Knobs:
    words: int
    moved: int
    prefix: int

    def __post_init__(self) -> None:
        if not 4 <= self.words <= 50:
            raise ValueError("words must be from 4 to 50")
        if not 1 <= self.moved <= 6:
            raise ValueError("moved must be from 1 to 6")
        if not 1 <= self.prefix <= 5:
            raise ValueError("prefix must be from 1 to 5")


_LEVELS = {
    "easy": _Knobs(words=5, moved=1, prefix=1),
    "medium": _Knobs(words=10, moved=3, prefix=2),
    "hard": _Knobs(words=20, moved=6, prefix=3),
}
_NEIGHBORS = 4


class WordSorting(GeneratedTask):
    """Sorts words by an alphabet of which some letters were moved to the front, forwards or backwards.

    Levels differ in the number of words, of moved letters, and of first letters that groups of words share:
    easy 5, 1, 1; medium 10, 3, 2; hard 20, 6, 3.

    The answer is `\\boxed{}` around the words, separated by commas or spaces, or around a JSON list of them.
    """

    name = "synlogic/word_sorting"
    version = 2
    knobs = _LEVELS
    levels = tuple(knobs)
    source = "the rules of SynLogic's task `word_sorting` (arXiv 2505.19641); words and generator are this package's"

    def generate(self, seed: int, level: str) -> Problem:
        knobs = read_level(level, _LEVELS)
        # A text seed goes through sha512, not through hash().
        draw = random.Random(f"{self.name}/{level}/{seed}")
        words = _draw_words(draw, knobs)
        moved, alphabet = _draw_alphabet(draw, words, knobs.moved)
        descending = draw.random() < 0.5
        state = {"words": words, "alphabet": alphabet, "descending": descending}
        return Problem(
            task=self.name,
            level=level,
            id=f"{self.name}/{level}/{seed}",
            prompt=({"role": "user", "content": _question(words, moved, descending)},),
            state=state,
            answer=box(", ".join(_sorted(words, alphabet, descending))),
        )

    def check(self, problem: Problem, answer: str) -> tuple[str, str]:
        words, found = problem.state["words"], _read_words(read_box(answer))
        reason = ""
        if sorted(found) != sorted(words):
            reason = "the words are not those to be sorted"
        elif found != _sorted(words, problem.state["alphabet"], problem.state["descending"]):
            reason = "the order is wrong"
        return ", ".join(found), reason

    def canonical(self, problem: Problem) -> str:
        """The words in usual order, the order of the letters that occur in them, and the direction."""
        words, letters = sorted(problem.state["words"]), set("".join(problem.state["words"]))
        alphabet = "".join(letter for letter in problem.state["alphabet"] if letter in letters)
        return f"{self.name}:{json.dumps([words, alphabet, problem.state['descending']])}"

    def solve(self, problem: Problem) -> str:
        words, alphabet = problem.state["words"], problem.state["alphabet"]
        steps: list[str] = []
        _note_letters(words, alphabet, 0, steps)
        if problem.state["descending"]:
            steps.append("Descending, so the other way round.")
        return f"<think> {' '.join(steps)} </think> <answer> {problem.answer} </answer>"


def from_game(game: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The state and the answer of a published row (`metadata`: words, front_letters like `b,x`, order 1 or -1). Raises
    `ValueError` where a field is missing or has another shape."""
    metadata = game.get("metadata")
    if not isinstance(metadata, Mapping):
        raise ValueError("metadata is missing")
    words, front, order = metadata.get("words"), metadata.get("front_letters"), metadata.get("order")
    if not isinstance(words, list) or not words:
        raise ValueError("metadata: words is not a list of words")
    if any(not isinstance(word, str) or not re.fullmatch(r"[a-z]+", word) for word in words):
        raise ValueError("metadata: words has an entry that is no word in lower-case letters")
    if not isinstance(front, str) or not re.fullmatch(r"[a-z](,[a-z])*", front):
        raise ValueError("metadata: front_letters is not a text of letters apart by commas")
    if type(order) is not int or order not in (1, -1):
        raise ValueError("metadata: order is neither 1 nor -1")
    alphabet = "".join(dict.fromkeys(front.split(",") + list(string.ascii_lowercase)))
    state = {"words": words, "alphabet": alphabet, "descending": order == -1}
    return state, box(", ".join(_sorted(words, alphabet, order == -1)))


def _draw_words(draw: random.Random, knobs: _Knobs) -> list[str]:
    """Distinct words, in groups of up to `_NEIGHBORS` that share their first letters."""
    words: list[str] = []
    while len(words) < knobs.words:
        start = draw.choice(WORDS)[: knobs.prefix]
        family = [word for word in WORDS if word.startswith(start) and word not in words]
        words += draw.sample(family, min(_NEIGHBORS, len(family), knobs.words - len(words)))
    draw.shuffle(words)
    return words


def _draw_alphabet(draw: random.Random, words: list[str], count: int) -> tuple[list[str], str]:
    """Letters moved to the front and the alphabet they make: one that changes the order of the words."""
    letters = sorted(set("".join(words)))
    while True:
        moved = draw.sample(letters, count)
        alphabet = "".join(moved) + "".join(letter for letter in string.ascii_lowercase if letter not in moved)
        if _sorted(words, alphabet, False) != sorted(words):
            return moved, alphabet


def _question(words: list[str], moved: list[str], descending: bool) -> str:
    first = f"the first is {moved[0]}" if len(moved) == 1 else f"the first {len(moved)} are {', '.join(moved)}"
    return (
        f"{INSTRUCTION}\n\n"
        f"Consider a new alphabet. Its letters have the same order as in the English alphabet, except that {first}. "
        f"Sort these words in {'descending' if descending else 'ascending'} order by the new alphabet, as in a "
        f"dictionary:\n\n{', '.join(words)}\n\n"
        f"The answer is the sorted words, separated by commas, in \\boxed{{}}: {box('first, second, third')}."
    )


def _sorted(words: list[str], alphabet: str, descending: bool) -> list[str]:
    return sorted(words, key=lambda word: [alphabet.index(letter) for letter in word], reverse=descending)


def _read_words(answer: str) -> list[str]:
    if not answer.startswith("["):
        # Published rows in Chinese are answered with fullwidth commas.
        return re.split(r"\s*[,\uff0c]\s*|\s+", answer)
    value = parse_json(answer)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError("the answer is not a list of words")
    return value


def _note_letters(words: list[str], alphabet: str, position: int, steps: list[str]) -> None:
    """Groups words by the letter at a position, in the alphabet's order, then each group by the next letter."""
    groups = {letter: [word for word in words if word[position : position + 1] == letter] for letter in ["", *alphabet]}
    groups = {letter: group for letter, group in groups.items() if group}
    parts = [f"{letter or 'end'}: {', '.join(group)}" for letter, group in groups.items()]
    steps.append(f"Letter {position + 1}: {'; '.join(parts)}.")
    for group in groups.values():
        if len(group) > 1:
            _note_letters(group, alphabet, position + 1, steps)
