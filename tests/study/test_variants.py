"""One file, several studies."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from pear import cli
from pear.configuration import read_yaml
from pear.errors import UserError
from pear.models import recipes_directory
from pear.study import StudyConfig, parse_studies
from pear.study.plan import make_plan

EVAL = {"task": "tiny/affine_chain", "level": "n2", "split": "eval", "size": 4}

PAPER_SCALE = ("paper_maths", "paper_games", "grpo_vllm")


def bases_only(**changes: Any) -> dict[str, Any]:
    trainer = {"max_steps": 2, "per_device_train_batch_size": 4}
    problems = [{"task": "tiny/affine_chain", "level": "n1", "split": "sft", "size": 20}]
    base = {"pretrain": {"problems": problems, "hidden_size": 16, "num_layers": 1, "num_heads": 2, "trainer": trainer}}
    return {
        "name": "both",
        "base": base,
        "tasks": {"eval": [EVAL]},
        "evaluate": {"samples": 2, "k": [1], "max_tokens": 8},
        **changes,
    }


def run(monkeypatch, tmp_path: Path, values: dict[str, Any], *options: str) -> int | str | None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["pear", "study", "recipe.yaml", *options])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return stopped.value.code


def test_a_variant_is_the_rest_of_the_file_with_its_own_keys() -> None:
    values = bases_only(
        seeds=[3, 4], variants={"a": {"evaluate": {"samples": 4}}, "b": {"name": "other", "seeds": [5]}}
    )
    studies = parse_studies(values, source="test")
    assert list(studies) == ["a", "b"]
    rest = {key: value for key, value in values.items() if key != "variants"}
    a = {**rest, "name": "both, a", "evaluate": {**rest["evaluate"], "samples": 4}}
    assert studies["a"] == StudyConfig.parse(a, source="test")
    assert studies["b"] == StudyConfig.parse({**rest, "name": "other", "seeds": [5]}, source="test")
    assert parse_studies(rest, source="test") == {None: StudyConfig.parse(rest, source="test")}


@pytest.mark.parametrize(
    ("variants", "sentence"),
    [
        ({}, "variants: expected names with the keys"),
        ([{"seeds": [1]}], "variants: expected names with the keys"),
        ({"a": None}, "variants: expected names with the keys"),
        ({"../a": {}}, r"'\.\./a' names a directory"),
        ({"..": {}}, r"'\.\.' names a directory"),
        ({1: {}}, "'1' names a directory"),
        ({"a": {"sede": [1]}}, r"test: variants\.a: .*Unknown key 'sede'.*seeds"),
        ({"a": {"variants": {}}}, "Unknown key 'variants'"),
    ],
)
def test_variants_that_cannot_be_used_are_named(variants: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        parse_studies(bases_only(variants=variants), source="test")


@pytest.mark.slow
def test_each_variant_is_a_study_of_its_own_and_one_can_be_run_alone(monkeypatch, tmp_path: Path) -> None:
    values = bases_only(variants={"a": {}, "b": {"seeds": [7]}})
    assert run(monkeypatch, tmp_path, values, "--variant", "b") == 0
    directory = tmp_path / "studies" / "both"
    assert [path.name for path in directory.iterdir()] == ["b"]
    first = (directory / "b" / "report.html").read_bytes()
    assert run(monkeypatch, tmp_path, values) == 0
    assert sorted(path.name for path in directory.iterdir()) == ["a", "b"]
    assert (directory / "b" / "report.html").read_bytes() == first
    assert "both, a" in (directory / "a" / "report.html").read_text()


def test_a_mistake_in_the_last_variant_stops_the_first(monkeypatch, tmp_path: Path, capsys) -> None:
    values = bases_only(variants={"a": {}, "b": {"tasks": {"eval": [{**EVAL, "task": "tiny/afine_chain"}]}}})
    assert run(monkeypatch, tmp_path, values) == 2
    assert "Did you mean 'tiny/affine_chain'?" in capsys.readouterr().err
    assert not (tmp_path / "studies").exists()


def test_an_unknown_variant_is_named_with_the_nearest(monkeypatch, tmp_path: Path, capsys) -> None:
    assert run(monkeypatch, tmp_path, bases_only(variants={"first": {}}), "--variant", "frist") == 2
    assert "Did you mean 'first'?" in capsys.readouterr().err
    assert run(monkeypatch, tmp_path, bases_only(), "--variant", "first") == 2
    assert "has no variants" in capsys.readouterr().err


@pytest.mark.parametrize("recipe", sorted(recipes_directory().glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_can_be_planned(recipe: Path, tmp_path: Path) -> None:
    for name, config in parse_studies(read_yaml(recipe), source=recipe.name).items():
        # Data and hours of generation are the user's; `tests/study/test_dry_run.py` plans these without.
        if recipe.stem not in PAPER_SCALE:
            assert make_plan(config, tmp_path / str(name)).nodes
