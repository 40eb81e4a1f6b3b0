"""Keys that are misspelled and values of the wrong type: in the study file, in flags, in the trainers' mappings."""

import copy
import math
from collections.abc import Callable, Iterator
from difflib import SequenceMatcher
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel

import pear.study.run
from pear.engines.protocol import Sampling
from pear.errors import UserError
from pear.stages import STAGES, load_stage
from pear.study.config import Analyze, Arm, Pretrained, Probe, StudyConfig, TaskSets
from pear.study.machine import Machine
from pear.tasks.problems import ProblemSet
from tests.bad_input.commands import N2, PROBLEMS, Cli, the_sentence


def misspellings(name: str) -> list[str]:
    """A name with a letter left out, with another in its place, and with one twice."""
    middle = len(name) // 2
    left_out = [name[:middle] + name[middle + 1 :]] if len(name) > 2 else []
    replaced = name[:middle] + ("q" if name[middle] != "q" else "z") + name[middle + 1 :]
    # Of one letter, nothing is left.
    return [*left_out, *([replaced] if len(name) > 1 else []), name + name[-1]]


PRETRAIN = {"pretrain": {"problems": [{**N2, "split": "sft", "size": 40}]}}


def study_file() -> dict[str, Any]:
    return {
        "name": "study",
        "base": "pear:affine_chain/base_1",
        "behavior": {"model": "pear:affine_chain/behavior", "sampling": {"max_tokens": 32}},
        "tasks": {split: [{**N2, "split": split, "size": 8}] for split in ("sft", "rl", "eval")},
        "arms": {"nll": {"objective": "nll"}, "pear_token": {"objective": "pear_token"}},
        "sft": {"trainer": {"max_steps": 4}},
        "rl": {"steps": 6, "prompts_per_step": 4, "group_size": 4, "max_completion_tokens": 32},
        "evaluate": {"samples": 8, "k": [1, 4], "max_tokens": 32, "at_rl_steps": [2]},
        "analyze": {"analyses": ["weight_drift"]},
        "probe": {"share": 0.5},
        "machine": {"threads": 1},
    }


Place = tuple[str | int, ...]
# Where a model's fields are written in the file, and those that the study sets itself.
BLOCKS: list[tuple[Place, type[BaseModel], set[str]]] = [
    ((), StudyConfig, set()),
    (("tasks",), TaskSets, set()),
    (("tasks", "rl", 0), ProblemSet, set()),
    (("arms", "nll"), Arm, set()),
    (("analyze",), Analyze, set()),
    (("probe",), Probe, set()),
    (("machine",), Machine, set()),
    (("behavior",), load_stage("collect")[0], {"model", "output_dir"}),
    (("behavior", "sampling"), Sampling, set()),
    (("sft",), load_stage("sft")[0], {"model", "buffer", "objective", "objective_kwargs", "seed", "output_dir"}),
    (("rl",), load_stage("grpo")[0], {"model", "problems", "steps", "checkpoint_steps", "seed", "output_dir"}),
    (("evaluate",), load_stage("evaluate")[0], {"model", "problems", "output_dir"}),
    (("base",), Pretrained, set()),
    (("base", "pretrain"), load_stage("pretrain")[0], {"seed", "output_dir"}),
]
FIELDS = [
    (place, name, field.annotation)
    for place, model, ours in BLOCKS
    for name, field in model.model_fields.items()
    if name not in ours
]
# Keys that the study itself reads, or that stand for something else there.
MORE_KEYS: list[tuple[Place, str]] = [
    (("behavior",), "model"),
    (("behavior",), "buffer"),
    (("rl",), "steps"),
    (("evaluate",), "at_rl_steps"),
]


def with_value(place: Place, name: str, value: Any, *, without: str | None = None) -> dict[str, Any]:
    """The study file with one key set, and one left out."""
    values = study_file()
    if place[:1] == ("base",):
        values["base"] = copy.deepcopy(PRETRAIN)
    node: Any = values
    for part in place:
        node = node[part]
    if without is not None:
        value = node.pop(without, value)
    node[name] = value
    return values


def refused(cli: Cli, folder: Path, values: Any) -> str:
    """The sentence for a study file, after which nothing but the file is there."""
    recipe = folder / "study.yaml"
    recipe.write_text(values if isinstance(values, str) else yaml.safe_dump(values))
    code, text = cli("study", recipe, "--output-dir", folder / "study")
    assert code == 2, text
    assert [path.name for path in folder.iterdir()] == ["study.yaml"]
    return the_sentence(text)


def offered(sentence: str) -> str:
    assert "Did you mean '" in sentence, sentence
    return sentence.split("Did you mean '")[1].split("'")[0]


def likeness(first: str, second: str) -> float:
    return SequenceMatcher(None, first, second).ratio()


def check_spelling(cli: Cli, folder: Path, place: Place, name: str, wrong: str) -> None:
    sentence = refused(cli, folder, with_value(place, wrong, 1, without=name))
    assert f"Unknown key '{wrong}'" in sentence
    # Two names may be equally near.
    nearest = offered(sentence)
    assert nearest == name or likeness(nearest, wrong) >= likeness(name, wrong), sentence


def place_id(value: Any) -> str | None:
    return ".".join(map(str, value)) or "top" if isinstance(value, tuple) else None


@pytest.mark.parametrize(("place", "name"), [*(field[:2] for field in FIELDS), *MORE_KEYS], ids=place_id)
def test_a_misspelled_key_of_a_study_is_answered_with_the_nearest(
    cli: Cli, tmp_path: Path, place: Place, name: str
) -> None:
    check_spelling(cli, tmp_path, place, name, misspellings(name)[0])


@pytest.mark.slow
@pytest.mark.parametrize(("place", "name"), [*(field[:2] for field in FIELDS), *MORE_KEYS], ids=place_id)
def test_every_misspelling_of_a_study_is_answered(cli: Cli, tmp_path: Path, place: Place, name: str) -> None:
    for wrong in misspellings(name)[1:]:
        check_spelling(cli, tmp_path, place, name, wrong)


def wrong_values(annotation: Any) -> Iterator[Any]:
    """Values that are none of an annotation's types: a word for a number, a list for a string, true for 1, ..."""
    types = kinds(annotation)
    if types & {int, float}:
        yield from ["many", True]
    if float in types:
        yield from [math.nan, math.inf]
    if list not in types:
        yield ["one", "two"]
    if not types & {dict, BaseModel}:
        yield {"one": 1}
    if not types & {int, float}:
        yield 7


def kinds(annotation: Any) -> set[Any]:
    """The types of which a value may be, without what is inside of them."""
    if annotation is not None and isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {BaseModel}
    if get_origin(annotation) in (Union, UnionType, Annotated):
        inner = get_args(annotation)
        return set().union(*map(kinds, inner[:1] if get_origin(annotation) is Annotated else inner))
    return {get_origin(annotation) or annotation}


@pytest.mark.parametrize(("place", "name", "annotation"), FIELDS, ids=place_id)
def test_a_value_of_the_wrong_type_is_named_with_its_key(
    cli: Cli, tmp_path: Path, place: Place, name: str, annotation: Any
) -> None:
    given = list(wrong_values(annotation))
    assert given
    for value in given:
        sentence = refused(cli, tmp_path, with_value(place, name, value))
        assert name in sentence, f"{value!r}: {sentence}"


FILES: dict[str, tuple[str, str]] = {
    "not YAML": ("name: [", "study.yaml: not valid YAML: while parsing a flow node."),
    "a list": ("- name", "study.yaml: expected a mapping of keys to values."),
    "empty": ("", "study.yaml: expected a mapping of keys to values."),
    "not text": ("\x00", "study.yaml: not valid YAML"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_study_file_that_is_none(cli: Cli, tmp_path: Path, case: str) -> None:
    text, sentence = FILES[case]
    assert sentence in refused(cli, tmp_path, text)


def test_a_number_with_an_exponent_is_text_for_yaml_and_a_number_here(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = study_file()
    assert yaml.safe_load("1e-5") == "1e-5"
    values["rl"]["learning_rate"] = values["sft"]["trainer"]["learning_rate"] = "1e-5"
    checked: list[Any] = []

    def checked_only(nodes: Any, machine: Any) -> None:
        checked.extend(nodes)
        raise UserError("That far it is right.")

    monkeypatch.setattr(pear.study.run, "check_trainers", checked_only)
    assert refused(cli, tmp_path, values) == "pear: That far it is right."
    assert {node.config.learning_rate for node in checked if node.stage == "grpo"} == {1e-5}


def flags(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from flags(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}".replace("_", "-")


def check_flags(cli: Cli, folder: Path, stage: str, misspelled: Callable[[str], list[str]]) -> None:
    for flag in flags(load_stage(stage)[0]):
        *blocks, name = flag.split(".")
        for wrong in misspelled(name):
            code, text = cli(stage, f"--{'.'.join([*blocks, wrong])}", "1", *required(stage, folder, but=flag))
            assert code == 2, text
            assert f"--{flag}" in text, f"{wrong}: {text}"
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("stage", STAGES)
def test_a_misspelled_flag_of_a_stage_is_answered_with_the_nearest(cli: Cli, tmp_path: Path, stage: str) -> None:
    check_flags(cli, tmp_path, stage, lambda name: misspellings(name)[:1])


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_every_misspelling_of_a_flag_is_answered(cli: Cli, tmp_path: Path, stage: str) -> None:
    check_flags(cli, tmp_path, stage, lambda name: misspellings(name)[1:])


def required(stage: str, folder: Path, but: str) -> list[str]:
    """The flags that a stage needs, without one."""
    values = {
        "model": "model",
        "problems": PROBLEMS,
        "inputs": "rows.jsonl",
        "buffer": "buffer",
        "steps": "1",
        "max-completion-tokens": "8",
        "analysis": "divergence",
        "before": "model",
        "base": "model",
        "norm-of": "model",
        "output-dir": str(folder / "out"),
    }
    fields = load_stage(stage)[0].model_fields
    needed = [name.replace("_", "-") for name, field in fields.items() if field.is_required()]
    return [word for name in needed if name != but for word in (f"--{name}", values[name])]


@pytest.mark.parametrize(
    ("stage", "words", "sentence"),
    [
        ("collect", ["--shard-problems", "many"], "Error parsing --shard-problems"),
        ("collect", ["--sampling.temperature", "warm"], "Error parsing --sampling.temperature"),
        ("collect", ["--dtype", "float33"], "invalid choice 'float33' for argument '--dtype'"),
        ("evaluate", ["--samples", "1.5"], "Error parsing --samples"),
        ("evaluate", ["--samples", "0"], "samples: Input should be greater than 0"),
        ("grpo", ["--learning-rate", "nan"], "learning_rate: Input should be"),
        ("grpo", ["--group-size", "1"], "group_size: Input should be greater than or equal to 2"),
        ("sft", ["--trainer", "7"], "expected a YAML mapping"),
        ("sft", ["--trainer", "{"], "is not valid YAML"),
    ],
)
def test_a_flag_with_a_value_of_the_wrong_type(
    cli: Cli, tmp_path: Path, stage: str, words: list[str], sentence: str
) -> None:
    code, text = cli(stage, *required(stage, tmp_path, but=""), *words)
    assert code == 2
    assert sentence in " ".join(text.split())
    assert "Traceback" not in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_misspelled_key_of_the_trainers_is_answered_with_the_nearest() -> None:
    from trl.trainer.grpo_config import GRPOConfig

    from pear.training.sft_config import PearConfig
    from pear.training.trainer_arguments import checked_arguments

    for config_class in (PearConfig, GRPOConfig):
        fields = config_class.__dataclass_fields__
        for name in fields:
            wrong = misspellings(name)[0]
            if wrong in fields:
                continue
            with pytest.raises(UserError) as error:
                checked_arguments(config_class, {wrong: 1}, source="trainer")
            nearest = offered(str(error.value))
            assert nearest == name or likeness(nearest, wrong) >= likeness(name, wrong), str(error.value)
