"""The published rows of SynLogic: whatever task they name, as problems of that task."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pear.errors import UserError, unknown_name
from pear.tasks.protocol import FileTask, Message, Problem, Verdict
from pear.tasks.synlogic import (
    arc_agi,
    arrow_maze,
    boolean_expressions,
    buggy_tables,
    calcudoko,
    campsite,
    cipher,
    cryptarithm,
    dyck_language,
    dyck_language_errors,
    futoshiki,
    game_of_24,
    goods_exchange,
    kukurasu,
    math_path,
    minesweeper,
    norinori,
    number_wall,
    numbrix,
    object_counting,
    object_properties,
    operation,
    skyscraper_puzzle,
    space_reasoning,
    space_reasoning_tree,
    star_placement_puzzle,
    sudoku,
    survo,
    time_sequence,
    web_of_lies,
    word_sorting,
    word_sorting_mistake,
    wordscapes,
    zebra_puzzle,
)
from pear.tasks.synlogic import dyck_language_reasoning_errors as reasoning_errors

# A task's name, and its reader of a published game: the game's fields give the state and a right answer's text.
Reader = tuple[str, Callable[[Mapping[str, Any]], tuple[dict[str, Any], str]]]

# By the name that `data_source` ends in.
READERS: dict[str, Reader] = {
    "arc_agi": ("synlogic/arc_agi", arc_agi.from_game),
    "arrow_maze": ("synlogic/arrow_maze", arrow_maze.from_game),
    "boolean_expressions": ("synlogic/boolean_expressions", boolean_expressions.from_game),
    "buggy_tables": ("synlogic/buggy_tables", buggy_tables.from_game),
    "calcudoko": ("synlogic/calcudoko", calcudoko.from_game),
    "campsite": ("synlogic/campsite", campsite.from_game),
    "cipher": ("synlogic/cipher", cipher.from_game),
    "cryptarithm": ("synlogic/cryptarithm", cryptarithm.from_game),
    "dyck_language": ("synlogic/dyck_language", dyck_language.from_game),
    "dyck_language_errors": ("synlogic/dyck_language_errors", dyck_language_errors.from_game),
    "dyck_language_reasoning_errors": ("synlogic/dyck_language_reasoning_errors", reasoning_errors.from_game),
    "futoshiki": ("synlogic/futoshiki", futoshiki.from_game),
    "game_of_24": ("synlogic/game_of_24", game_of_24.from_game),
    "goods_exchange": ("synlogic/goods_exchange", goods_exchange.from_game),
    "kukurasu": ("synlogic/kukurasu", kukurasu.from_game),
    "math_path": ("synlogic/math_path", math_path.from_game),
    "mathador": ("synlogic/game_of_24", game_of_24.from_game),
    "minesweeper": ("synlogic/minesweeper", minesweeper.from_game),
    "norinori": ("synlogic/norinori", norinori.from_game),
    "number_wall": ("synlogic/number_wall", number_wall.from_game),
    "numbrix": ("synlogic/numbrix", numbrix.from_game),
    "object_counting": ("synlogic/object_counting", object_counting.from_game),
    "object_properties": ("synlogic/object_properties", object_properties.from_game),
    "operation": ("synlogic/operation", operation.from_game),
    "skyscraper_puzzle": ("synlogic/skyscraper_puzzle", skyscraper_puzzle.from_game),
    "space_reasoning": ("synlogic/space_reasoning", space_reasoning.from_game),
    "space_reasoning_tree": ("synlogic/space_reasoning_tree", space_reasoning_tree.from_game),
    "star_placement_puzzle": ("synlogic/star_placement_puzzle", star_placement_puzzle.from_game),
    "sudoku": ("synlogic/sudoku", sudoku.from_game),
    "survo": ("synlogic/survo", survo.from_game),
    "time_sequence": ("synlogic/time_sequence", time_sequence.from_game),
    "web_of_lies": ("synlogic/web_of_lies", web_of_lies.from_game),
    "word_sorting": ("synlogic/word_sorting", word_sorting.from_game),
    "word_sorting_mistake": ("synlogic/word_sorting_mistake", word_sorting_mistake.from_game),
    "wordscapes": ("synlogic/wordscapes", wordscapes.from_game),
    "zebra_puzzle": ("synlogic/zebra_puzzle", zebra_puzzle.from_game),
}
_MESSAGE_KEYS = ("role", "content")


class PublishedRows(FileTask):
    """Rows with the columns of `MiniMaxAI/SynLogic`.

    `data_source` (`val/campsite`) names the task, `prompt` is a list of chat messages and stays as it is, and
    `extra_info.game_data_str` is the JSON text of the game. The problems are of the task that a row names, at the level
    `published`, so that their answers are checked by that task's rules. Equal rows are one problem.
    """

    name = "synlogic/rows"
    levels = ("published",)
    source = "the rows of the data set MiniMaxAI/SynLogic (arXiv 2505.19641)"
    many_solutions = True

    def read(self, rows: Sequence[dict[str, Any]], *, origin: str) -> list[Problem]:
        problems: dict[str, Problem] = {}
        for number, row in enumerate(rows, 1):
            where = f"{origin}, row {number}"
            try:
                problem = self._problem(row)
            except ValueError as error:
                raise UserError(f"{where}: {error}. Expected a row as in MiniMaxAI/SynLogic.") from None
            except UserError as error:
                raise UserError(f"{where}: data_source: {error}") from None
            problems.setdefault(problem.id, problem)
        return list(problems.values())

    def verify(self, problem: Problem, completion: str) -> Verdict:
        return self._task(problem).verify(problem, completion)

    def canonical(self, problem: Problem) -> str:
        return self._task(problem).canonical(problem)

    def _task(self, problem: Problem) -> Any:
        # Not at the top: the registry imports this file.
        from pear.tasks import TASKS

        return TASKS[problem.task]

    def _problem(self, row: Mapping[str, Any]) -> Problem:
        source = row.get("data_source")
        if not isinstance(source, str) or not source:
            raise ValueError("the column 'data_source' is missing or not a text")
        name = source.rpartition("/")[2]
        if name not in READERS:
            raise unknown_name("SynLogic task", name, READERS)
        task, from_game = READERS[name]
        prompt = _prompt(row.get("prompt"))
        try:
            state, answer = from_game(_game(row.get("extra_info")))
        except ValueError as error:
            raise ValueError(f"extra_info.game_data_str of a game of {name}: {error}") from None
        content = json.dumps([prompt, state], ensure_ascii=False, sort_keys=True)
        digest = hashlib.sha256(content.encode(errors="surrogatepass")).hexdigest()[:16]
        level = self.levels[0]
        return Problem(
            task=task, level=level, id=f"{task}/{level}/{digest}", prompt=tuple(prompt), state=state, answer=answer
        )


def _prompt(value: Any) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise ValueError("the column 'prompt' is missing or not a list of chat messages")
    messages = []
    for message in value:
        if not isinstance(message, Mapping) or not all(
            isinstance(message.get(key), str) for key in ("role", "content")
        ):
            raise ValueError("a message of 'prompt' lacks 'role' or 'content' as a text")
        messages.append({key: message[key] for key in _MESSAGE_KEYS})
    return messages


def _game(extra_info: Any) -> Mapping[str, Any]:
    if not isinstance(extra_info, Mapping):
        raise ValueError("the column 'extra_info' is missing or not an object")
    text = extra_info.get("game_data_str")
    if not isinstance(text, str):
        raise ValueError("extra_info: 'game_data_str' is missing or not a text")
    try:
        game = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("extra_info: 'game_data_str' is not JSON") from None
    if not isinstance(game, dict):
        raise ValueError("extra_info: 'game_data_str' is not a JSON object")
    return game
