"""The tasks of reasoning-gym, through one adapter: its generators and scorers, our prompt, tags and splits."""

import dataclasses
import importlib
import importlib.metadata
import json
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, ClassVar

from pear.errors import UserError, missing_extra
from pear.tasks.extraction import INSTRUCTION
from pear.tasks.levels import read_level
from pear.tasks.protocol import GeneratedTask, Problem

# Problems and scores are part of a run's fingerprint, and both change between versions.
VERSION = "0.1.25"
_LEVEL = "default"
# What says which problem, not of what kind.
_NOT_KNOBS = ("seed", "size")

# The data sets that keep the contract of the tests; docs/reasoning_gym.md says what the others break.
ALLOWED = (
    "aiw",
    "arc_1d",
    "base_conversion",
    "basic_arithmetic",
    "binary_alternation",
    "caesar_cipher",
    "calendar_arithmetic",
    "chain_sum",
    "circuit_logic",
    "color_cube_rotation",
    "count_bits",
    "count_primes",
    "course_schedule",
    "decimal_chain_sum",
    "dice",
    "emoji_mystery",
    "family_relationships",
    "figlet_font",
    "game_of_life",
    "gcd",
    "group_anagrams",
    "jugs",
    "largest_island",
    "lcm",
    "leg_counting",
    "letter_counting",
    "mahjong_puzzle",
    "manipulate_matrix",
    "maze",
    "mini_sudoku",
    "modulo_grid",
    "needle_haystack",
    "number_filtering",
    "number_format",
    "palindrome_generation",
    "palindrome_partitioning",
    "path_star",
    "prime_factorization",
    "products",
    "rotate_matrix",
    "rotten_oranges",
    "self_reference",
    "sentence_reordering",
    "shortest_path",
    "simple_equations",
    "simple_geometry",
    "spell_backward",
    "string_manipulation",
    "sudoku",
    "syllogism",
    "word_sequence_reversal",
    "word_sorting",
)


class ReasoningGym(GeneratedTask):
    """A data set of reasoning-gym. The right answer is one that its scorer gives exactly 1.0: partial credit, common
    there, counts as wrong. The knobs are the settings of the data set that are numbers, texts or switches."""

    dataset: ClassVar[str]
    levels = (_LEVEL,)
    many_solutions = True

    def generate(self, seed: int, level: str) -> Problem:
        entry = _open(self.dataset, level)[seed]
        return Problem(
            task=self.name,
            level=level,
            id=f"{self.name}/{level}/{seed}",
            prompt=({"role": "user", "content": f"{INSTRUCTION}\n\n{entry['question']}"},),
            state={"entry": json.loads(json.dumps(entry))},
            answer=entry["answer"],
        )

    def check(self, problem: Problem, answer: str) -> tuple[str, str]:
        scorer = _open(self.dataset, problem.level)
        try:
            score = scorer.score_answer(answer, problem.state["entry"])
        except Exception as error:  # of any kind: the scorers read the text as they please
            raise ValueError("the scorer of reasoning-gym cannot read the answer") from error
        return " ".join(answer.split()), "" if score == 1.0 else "the answer is wrong"

    def canonical(self, problem: Problem) -> str:
        return f"{self.name}:{problem.state['entry']['question']}"


class _Knobs(Mapping[str, Any]):
    """The settings of a data set, read when they are asked for: listing the tasks does without the package."""

    def __init__(self, dataset: str) -> None:
        self._dataset = dataset

    def __getitem__(self, level: str) -> Any:
        if level != _LEVEL:
            raise KeyError(level)
        return _settings(self._dataset)()

    def __iter__(self) -> Iterator[str]:
        return iter((_LEVEL,))

    def __len__(self) -> int:
        return 1


@cache
def _package() -> Any:
    try:
        package = importlib.import_module("reasoning_gym")
    except ImportError:
        raise missing_extra("reasoning-gym", "reasoning-gym") from None
    if (found := importlib.metadata.version("reasoning-gym")) != VERSION:
        raise UserError(
            f"reasoning-gym {found} is installed, and other problems than those of {VERSION} come from it. "
            f"Install that: pip install 'reasoning-gym=={VERSION}'"
        )
    return package


@cache
def _settings(dataset: str) -> type:
    """A frozen dataclass with the data set's own defaults, which refuses what the data set refuses."""
    config = _package().factory.DATASETS[dataset][1]
    defaults = config()
    names = [
        field.name
        for field in dataclasses.fields(config)
        if field.name not in _NOT_KNOBS and type(getattr(defaults, field.name)) in (int, float, bool, str)
    ]

    def refuse(self: Any) -> None:
        try:
            config(**dataclasses.asdict(self)).validate()
        except AssertionError as error:
            raise ValueError(str(error) or "the data set refuses these settings") from None

    return dataclasses.make_dataclass(
        dataset,
        [(name, type(getattr(defaults, name)), getattr(defaults, name)) for name in names],
        frozen=True,
        namespace={"__post_init__": refuse},
    )


@cache
def _open(dataset: str, level: str) -> Any:
    knobs = read_level(level, _Knobs(dataset))
    return _package().create_dataset(dataset, seed=0, size=1, **dataclasses.asdict(knobs))


def _task(dataset: str) -> GeneratedTask:
    source = f"reasoning-gym {VERSION} (arXiv 2505.24760), its data set `{dataset}`"
    values = {"name": f"reasoning_gym/{dataset}", "dataset": dataset, "source": source, "knobs": _Knobs(dataset)}
    return type(dataset, (ReasoningGym,), {**values, "__doc__": ReasoningGym.__doc__})()


REASONING_GYM: dict[str, GeneratedTask] = {f"reasoning_gym/{dataset}": _task(dataset) for dataset in ALLOWED}
