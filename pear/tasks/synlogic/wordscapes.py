"""Wordscapes: put given words into the cells of a crossword."""

import json
import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pear.tasks.extraction import INSTRUCTION, unwrap
from pear.tasks.levels import read_level
from pear.tasks.protocol import GeneratedTask, Problem
from pear.tasks.synlogic.grids import Place, text_grid, transposed, write_rows
from pear.tasks.synlogic.words import WORDS

Grid = list[list[str]]
_FREE, _BLOCKED = "X", "0"
_LENGTHS = range(3, 9)
_ROWS = re.compile(r"\[\s*\[(?P<rows>[^\[\]]*(?:\]\s*,\s*\[[^\[\]]*)*)\]\s*\]")
_CELL = re.compile(r"\"(?P<double>[^\"]*)\"|'(?P<single>[^']*)'|(?P<bare>[^\s,'\"]+)")
_EMPTY = ("", " ", _BLOCKED)
# Trials of a solver for published rows; a crossword of 20 words takes some hundred.
_MOST_STEPS = 20_000


@dataclass(frozen=True, kw_only=True)
class _Knobs:
    size: int
    words: int

    def __post_init__(self) -> None:
        if not 6 <= self.size <= 20:
            raise ValueError("size is from 6 to 20")
        if not 2 <= self.words <= self.size:
            raise ValueError("words are from 2 to size")


_LEVELS = {
    "easy": _Knobs(size=8, words=4),
    "medium": _Knobs(size=11, words=8),
    "hard": _Knobs(size=14, words=14),
}


@dataclass(frozen=True)
class _Run:
    """A row or column of free cells that cannot be made longer."""

    places: tuple[Place, ...]
    down: bool


class Wordscapes(GeneratedTask):
    """A crossword and the words that stand in it across and down, without saying where. There may be several
    solutions, as in SynLogic.

    Levels differ in the largest side of the grid and in the number of words: easy 8, 4; medium 11, 8; hard 14, 14.

    The answer is the filled grid, a list of rows with a letter for each X and 0 for each 0; upper and lower case are
    the same.
    """

    name = "synlogic/wordscapes"
    knobs = _LEVELS
    levels = tuple(knobs)
    many_solutions = True
    source = "the rules of SynLogic's task `wordscapes` (arXiv 2505.19641); words, generator and verifier are ours"

    def generate(self, seed: int, level: str) -> Problem:
        knobs = read_level(level, _LEVELS)
        # A text seed goes through sha512, not through hash().
        draw = random.Random(f"{self.name}/{level}/{seed}")
        filled = None
        while filled is None:
            filled = _draw_crossword(draw, knobs)
        grid = [[_FREE if letter != _BLOCKED else _BLOCKED for letter in row] for row in filled]
        words: dict[bool, list[str]] = {False: [], True: []}
        for run in _runs(grid):
            words[run.down].append(_text(run, filled))
        state = {"grid": grid, "across_words": sorted(words[False]), "down_words": sorted(words[True])}
        return Problem(
            task=self.name,
            level=level,
            id=f"{self.name}/{level}/{seed}",
            prompt=({"role": "user", "content": _question(state)},),
            state=state,
            answer=json.dumps(filled),
        )

    def check(self, problem: Problem, answer: str) -> tuple[str, str]:
        filled = _read_letters(answer, problem.state["grid"])
        return json.dumps(filled), _broken_rule(problem.state, filled)

    def canonical(self, problem: Problem) -> str:
        """What the order of the words and swapping rows and columns leave alone."""
        state = problem.state
        across, down = sorted(state["across_words"]), sorted(state["down_words"])
        views = [[state["grid"], across, down], [transposed(state["grid"]), down, across]]
        return f"{self.name}:{min(map(json.dumps, views))}"

    def solve(self, problem: Problem) -> str:
        placed = next(_solutions(problem.state))
        steps = [
            f"'{word}' goes {'down' if run.down else 'across'} from row {run.places[0][0] + 1}, column "
            f"{run.places[0][1] + 1}."
            for run, word in placed
        ]
        filled = json.dumps(_filled(problem.state["grid"], placed))
        return f"<think> {' '.join(steps)} </think> <answer> {filled} </answer>"


def from_game(game: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The state and a right answer of a published row (`grid`, `across_words`, `down_words`, in `metadata` or beside
    it), "" where none is found soon. Raises `ValueError` where a field is missing or has another shape."""
    metadata = game.get("metadata")
    fields = {**game, **(metadata if isinstance(metadata, Mapping) else {})}
    grid = fields.get("grid")
    if not isinstance(grid, list) or not grid or not isinstance(grid[0], list) or not grid[0]:
        raise ValueError("metadata: grid is not a grid")
    read = text_grid(grid, len(grid), len(grid[0]))
    if any(cell not in (_FREE, _BLOCKED) for row in read for cell in row):
        raise ValueError("metadata: a cell of the grid is neither X nor 0")
    state: dict[str, Any] = {"grid": read}
    for key in ("across_words", "down_words"):
        words = fields.get(key)
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise ValueError(f"metadata: {key} is not a list of texts")
        state[key] = sorted(word.lower() for word in words if word)
    placed = next(_solutions(state), None)
    return state, "" if placed is None else json.dumps(_filled(read, placed))


def _question(state: Mapping[str, Any]) -> str:
    return (
        f"{INSTRUCTION}\n\n"
        "Fill the crossword below. Write one letter into every X and leave every 0 as it is. Read from left to right, "
        "the across words stand in the rows; read from top to bottom, the down words stand in the columns. Every word "
        "is used exactly once, and wherever two or more X follow each other in a row or a column, they are one whole "
        "word from start to end. A cell where two words cross has one letter for both.\n\n"
        f"{write_rows(state['grid'])}\n\n"
        f"Across: {', '.join(state['across_words'])}\n"
        f"Down: {', '.join(state['down_words'])}\n\n"
        'The answer is the filled grid, a list of rows, like [["0", "d", "0"], ["o", "a", "k"], ["0", "y", "0"]].'
    )


def _read_letters(answer: str, grid: Grid) -> Grid:
    match = _ROWS.fullmatch(unwrap(answer))
    if match is None:
        raise ValueError("the answer is not a list of rows")
    rows = [_read_row(text) for text in re.split(r"\]\s*,\s*\[", match["rows"])]
    return text_grid(rows, len(grid), len(grid[0]))


def _read_row(text: str) -> list[str]:
    if _CELL.sub("", text).strip(", \t\n"):
        raise ValueError("a row of the answer is not a list of letters")
    cells = []
    for match in _CELL.finditer(text):
        cell = next(value for value in match.groups() if value is not None)
        if cell in _EMPTY:
            cells.append(_BLOCKED)
        elif re.fullmatch(r"[A-Za-z]", cell):
            cells.append(cell.lower())
        else:
            raise ValueError("a cell of the answer is neither a letter nor 0")
    return cells


def _broken_rule(state: Mapping[str, Any], filled: Grid) -> str:
    grid = state["grid"]
    for row, line in enumerate(grid):
        for column, cell in enumerate(line):
            if (cell == _FREE) != (filled[row][column] != _BLOCKED):
                return "letters do not stand where the X are"
    for down, key in ((False, "across_words"), (True, "down_words")):
        words = state[key]
        found = [_text(run, filled) for run in _runs(grid) if run.down == down]
        if sorted(map(len, found)) == sorted(map(len, words)):
            right = Counter(found) == Counter(words)
        else:
            # Published grids may have words side by side, which make longer runs.
            right = all(any(word in text for text in found) for word in words)
        if not right:
            return f"the words {'down' if down else 'across'} are not the given ones"
    return ""


def _runs(grid: Grid) -> list[_Run]:
    """The runs of two or more free cells: across, then down, each in reading order."""
    found = []
    for down, lines in ((False, grid), (True, transposed(grid))):
        for at, line in enumerate(lines):
            for match in re.finditer(f"{_FREE}{{2,}}", "".join(line)):
                places = [(at, other) for other in range(*match.span())]
                found.append(_Run(tuple((other, at) if down else (at, other) for at, other in places), down))
    return found


def _text(run: _Run, filled: Grid) -> str:
    return "".join(filled[row][column] for row, column in run.places)


def _filled(grid: Grid, placed: Sequence[tuple[_Run, str]]) -> Grid:
    filled = [[_BLOCKED] * len(row) for row in grid]
    for run, word in placed:
        for (row, column), letter in zip(run.places, word, strict=True):
            filled[row][column] = letter
    return filled


def _solutions(state: Mapping[str, Any]) -> Iterator[list[tuple[_Run, str]]]:
    """Ways to give every run a word of its own: the run that fewest words fit goes first."""
    runs = _runs(state["grid"])
    words = {False: Counter(state["across_words"]), True: Counter(state["down_words"])}
    lengths = {down: Counter(len(run.places) for run in runs if run.down == down) for down in words}
    crossed = {place for run in runs for place in run.places}
    lonely = any(
        cell == _FREE and (row, column) not in crossed
        for row, line in enumerate(state["grid"])
        for column, cell in enumerate(line)
    )
    if lonely or any(
        lengths[down] != Counter(length for word, count in chosen.items() for length in [len(word)] * count)
        for down, chosen in words.items()
    ):
        return iter(())
    steps = 0

    def fitting(run: _Run, letters: Mapping[Place, str]) -> list[str]:
        known = [letters.get(place) for place in run.places]
        return [
            word
            for word, count in sorted(words[run.down].items())
            if count
            and len(word) == len(known)
            and all(letter in (None, own) for letter, own in zip(known, word, strict=True))
        ]

    def place_next(left: list[_Run], letters: dict[Place, str], placed: list[tuple[_Run, str]]) -> Any:
        nonlocal steps
        steps += 1
        if not left:
            yield placed
            return
        options = {run: fitting(run, letters) for run in left}
        run = min(left, key=lambda item: len(options[item]))
        for word in options[run]:
            if steps > _MOST_STEPS:
                return
            words[run.down][word] -= 1
            known = {**letters, **dict(zip(run.places, word, strict=True))}
            yield from place_next([item for item in left if item != run], known, [*placed, (run, word)])
            words[run.down][word] += 1

    found: Iterator[list[tuple[_Run, str]]] = place_next(runs, {}, [])
    return found


def _draw_crossword(draw: random.Random, knobs: _Knobs) -> Grid | None:
    """Words that hang together, no two of a direction side by side; None where there was no room for all."""
    pool = [word for word in WORDS if len(word) in _LENGTHS and len(word) <= knobs.size]
    first = draw.choice(pool)
    letters: dict[Place, str] = {(0, column): letter for column, letter in enumerate(first)}
    lines: dict[Place, set[bool]] = {place: {False} for place in letters}
    used = {first}
    for _ in range(knobs.words - 1):
        for _ in range(200):
            word = draw.choice(pool)
            place, down = draw.choice(sorted(letters)), draw.random() < 0.5
            at = word.find(letters[place])
            if word in used or at < 0 or down in lines[place]:
                continue
            start = (place[0] - at, place[1]) if down else (place[0], place[1] - at)
            places = [(start[0] + step, start[1]) if down else (start[0], start[1] + step) for step in range(len(word))]
            if _fits(places, word, down, letters, lines) and _side([*letters, *places]) <= knobs.size:
                break
        else:
            return None
        used.add(word)
        for cell, letter in zip(places, word, strict=True):
            letters[cell] = letter
            lines.setdefault(cell, set()).add(down)
    top, left = (min(place[axis] for place in letters) for axis in (0, 1))
    rows, columns = (max(place[axis] for place in letters) + 1 for axis in (0, 1))
    return [[letters.get((row, column), _BLOCKED) for column in range(left, columns)] for row in range(top, rows)]


def _fits(
    places: Sequence[Place], word: str, down: bool, letters: Mapping[Place, str], lines: Mapping[Place, set[bool]]
) -> bool:
    ahead, aside = ((1, 0), (0, 1)) if down else ((0, 1), (1, 0))
    (row, column), (last_row, last_column) = places[0], places[-1]
    if (row - ahead[0], column - ahead[1]) in letters or (last_row + ahead[0], last_column + ahead[1]) in letters:
        return False
    for (row, column), letter in zip(places, word, strict=True):
        if (row, column) in letters:
            if letters[row, column] != letter or down in lines[row, column]:
                return False
        elif any((row + sign * aside[0], column + sign * aside[1]) in letters for sign in (-1, 1)):
            return False
    return True


def _side(places: Sequence[Place]) -> int:
    """The larger side of the rectangle around cells."""
    return max(max(place[axis] for place in places) - min(place[axis] for place in places) + 1 for axis in (0, 1))
