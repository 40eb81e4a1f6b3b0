"""Word sorting with a mistake: which step of a sorting by letters is the first wrong one, if any?"""

import json
import random
import re
import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pear.tasks.extraction import INSTRUCTION
from pear.tasks.levels import read_level
from pear.tasks.protocol import GeneratedTask, Problem
from pear.tasks.synlogic.boxed import box, published_text, read_box
from pear.tasks.synlogic.words import WORDS

# Words in order: groups whose words are not told apart yet, the first group first.
Groups = list[list[str]]
# A step notes a letter of each word of one group, or the order of all groups that follows from that.
Step = dict[str, Any]
_NONE = "No"


@dataclass(frozen=True, kw_only=True)
class _Knobs:
    words: int
    mistake_rate: float

    def __post_init__(self) -> None:
        if not 4 <= self.words <= 30:
            raise ValueError("words must be from 4 to 30")
        if not 0 <= self.mistake_rate <= 1:
            raise ValueError("mistake_rate must be from 0 to 1")


_LEVELS = {
    "easy": _Knobs(words=5, mistake_rate=0.8),
    "medium": _Knobs(words=10, mistake_rate=0.8),
    "hard": _Knobs(words=20, mistake_rate=0.8),
}


class WordSortingMistake(GeneratedTask):
    """Finds the first wrong step of a radix sort in words: a letter noted wrongly, or an order that does not follow.

    Levels differ in the number of words, 5, 10 or 20; four of five problems have a mistake. The steps after it go on
    from the wrong one.

    The answer is `\\boxed{}` around the number of the step, or `\\boxed{No}` where all are right.
    """

    name = "synlogic/word_sorting_mistake"
    knobs = _LEVELS
    levels = tuple(knobs)
    source = "the rules of SynLogic's task `word_sorting_mistake` (arXiv 2505.19641); words, steps are this package's"

    def generate(self, seed: int, level: str) -> Problem:
        knobs = read_level(level, _LEVELS)
        # A text seed goes through sha512, not through hash().
        draw = random.Random(f"{self.name}/{level}/{seed}")
        while True:
            words = draw.sample(WORDS, knobs.words)
            count = len(_sorting(words, None, draw))
            mistake = draw.randrange(count) if draw.random() < knobs.mistake_rate else None
            steps = _sorting(words, mistake, draw)
            first = _first_mistake(words, steps)
            if first == mistake:
                break
        answer = _NONE if first is None else str(first + 1)
        state = {"words": words, "steps": steps, "mistake": answer}
        return Problem(
            task=self.name,
            level=level,
            id=f"{self.name}/{level}/{seed}",
            prompt=({"role": "user", "content": _question(state)},),
            state=state,
            answer=box(answer),
        )

    def check(self, problem: Problem, answer: str) -> tuple[str, str]:
        found = _canonical_answer(read_box(answer))
        return found, "" if found == problem.state["mistake"] else "that is not the first wrong step"

    def canonical(self, problem: Problem) -> str:
        """The words and the steps; of a published problem its text."""
        state = problem.state
        told = state["text"] if "text" in state else [sorted(state["words"]), state["steps"]]
        return f"{self.name}:{json.dumps(told, ensure_ascii=False, sort_keys=True)}"

    def solve(self, problem: Problem) -> str | None:
        state = problem.state
        if "text" in state:
            return None
        last = len(state["steps"]) if state["mistake"] == _NONE else int(state["mistake"]) - 1
        steps = [f"Step {number} is right." for number in range(1, last + 1)]
        if state["mistake"] != _NONE:
            steps.append(f"Step {state['mistake']} is wrong: {_why(state['words'], state['steps'], last)}.")
        return f"<think> {' '.join(steps)} </think> <answer> {problem.answer} </answer>"


def from_game(game: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The state and the answer of a published row (`question`, and `answer`: the number of a step, or null where all
    are right). Raises `ValueError` where a field is missing or has another shape."""
    if "answer" not in game:
        raise ValueError("answer is missing")
    answer = game["answer"]
    if answer is None or answer == "":
        mistake = _NONE
    elif isinstance(answer, str) or type(answer) is int:
        mistake = _canonical_answer(str(answer).strip())
    else:
        raise ValueError("answer is neither a number nor null")
    return {"text": published_text(game, "question"), "mistake": mistake}, box(mistake)


def _canonical_answer(text: str) -> str:
    if text.isascii() and text.lower() == _NONE.lower():
        return _NONE
    if not re.fullmatch(r"[1-9][0-9]{0,5}", text):
        raise ValueError("the answer is neither the number of a step nor No")
    return text


def _letter(word: str, position: int) -> str:
    return word[position : position + 1]


def _grouped(letters: Mapping[str, str]) -> Groups:
    """The words by the letters noted for them, in the alphabet's order; words that have ended come first."""
    return [
        group for letter in sorted(set(letters.values())) if (group := [w for w in letters if letters[w] == letter])
    ]


def _sorting(words: list[str], mistake: int | None, draw: random.Random) -> list[Step]:
    """The steps of sorting the words, of which the one at an index, if any, is wrong."""
    steps: list[Step] = []
    groups: Groups = [words]
    position = 0
    while any(len(group) > 1 for group in groups) and position <= max(map(len, words)):
        done: Groups = []
        for number, group in enumerate(groups):
            if len(group) == 1:
                done.append(group)
                continue
            letters = {word: _letter(word, position) for word in group}
            if len(steps) == mistake:
                wrong = draw.choice(group)
                letters[wrong] = draw.choice([other for other in string.ascii_lowercase if other != letters[wrong]])
            steps.append({"position": position, "letters": [[word, letter] for word, letter in letters.items()]})
            parts = _grouped(letters)
            if len(steps) == mistake:
                parts = _disordered(parts, draw)
            done += parts
            steps.append({"groups": [list(part) for part in done + groups[number + 1 :]]})
        groups = done
        position += 1
    return steps


def _disordered(parts: Groups, draw: random.Random) -> Groups:
    """Groups in another order; where there is one group only, it is split where nothing splits it."""
    if len(parts) == 1:
        cut = draw.randrange(1, len(parts[0]))
        return [parts[0][:cut], parts[0][cut:]]
    one, other = draw.sample(range(len(parts)), 2)
    changed = list(parts)
    if draw.random() < 0.5:
        changed[one], changed[other] = changed[other], changed[one]
    else:
        changed[one] = parts[one] + parts[other]
        del changed[other]
    return changed


def _first_mistake(words: list[str], steps: list[Step]) -> int | None:
    """The index of the first step that does not follow from the words and the steps before it."""
    groups: Groups = [words]
    for index, step in enumerate(steps):
        if "letters" in step:
            if any(_letter(word, step["position"]) != letter for word, letter in step["letters"]):
                return index
            continue
        letters = dict(steps[index - 1]["letters"])
        at = groups.index(list(letters))
        groups = [*groups[:at], *_grouped(letters), *groups[at + 1 :]]
        if step["groups"] != groups:
            return index
    return None


def _why(words: list[str], steps: list[Step], index: int) -> str:
    step = steps[index]
    if "letters" not in step:
        parts = _grouped(dict(steps[index - 1]["letters"]))
        return f"by the letters noted in step {index} the part becomes {_written(parts)}"
    position = step["position"]
    word = next(word for word, letter in step["letters"] if _letter(word, position) != letter)
    return f"letter {position + 1} of {word} is {_letter(word, position) or 'missing'}"


def _written(groups: Groups) -> str:
    return " < ".join(group[0] if len(group) == 1 else f"[{', '.join(group)}]" for group in groups)


def _told(step: Step) -> str:
    if "groups" in step:
        return f"The order is now {_written(step['groups'])}."
    letters = ", ".join(f"{word}: {letter or 'none'}" for word, letter in step["letters"])
    return f"Letter {step['position'] + 1} of the words of one group. {letters}."


def _question(state: Mapping[str, Any]) -> str:
    steps = "\n".join(f"Step {number}: {_told(step)}" for number, step in enumerate(state["steps"], 1))
    return (
        f"{INSTRUCTION}\n\n"
        "Somebody sorts words in the order of a dictionary, letter by letter. A step either notes a letter of each "
        "word of a group, or writes the order that follows from the letters noted in the step before: the group falls "
        "apart by these letters, from a to z, and a word without such a letter comes before those with one. "
        "Words in brackets are a group: not yet told apart, they stay in the order in which they stood. "
        "A step is wrong if it notes a letter that the word does not have at that place (or none where it has one), or "
        "if the order does not follow from the letters noted and the order before. Later steps go on from it.\n\n"
        f"The words: {', '.join(state['words'])}\n\n"
        f"{steps}\n\n"
        "Which step is the first wrong one?\n\n"
        f"The answer is its number in \\boxed{{}}, like {box('100')}, or {box(_NONE)} if no step is wrong."
    )
