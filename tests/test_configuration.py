from pathlib import Path
from typing import Annotated

import pytest

from pear.configuration import NotHashed, StrictModel, read_yaml, with_override
from pear.errors import UserError


class Inner(StrictModel):
    learning_rate: float = 1.0
    steps: int = 1
    note: Annotated[str, NotHashed()] = ""


class Outer(StrictModel):
    inner: Inner = Inner()
    many: list[Inner] = []
    output_dir: Annotated[Path, NotHashed()] = Path("x")


def test_yaml_text_becomes_a_number(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("inner: {learning_rate: 1e-5}")
    values = read_yaml(path)
    assert values["inner"]["learning_rate"] == "1e-5"
    assert Outer.parse(values, source="a").inner.learning_rate == 1e-5


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"inner": {"learning_rat": 1}},
            "a: inner.learning_rat: Unknown key 'learning_rat'. Did you mean 'learning_rate'? Known: learning_rate,",
        ),
        (
            {"many": [{"step": 1}]},
            "a: many.0.step: Unknown key 'step'. Did you mean 'steps'? Known: learning_rate, note, steps.",
        ),
        ({"iner": {}}, "a: iner: Unknown key 'iner'. Did you mean 'inner'? Known: inner, many, output_dir."),
        ({"inner": {"steps": "many"}}, "a: inner.steps: Input should be a valid integer"),
        ([1], "a: expected a mapping of keys to values, got list."),
    ],
)
def test_a_mistake_is_one_sentence(values: object, sentence: str) -> None:
    with pytest.raises(UserError) as error:
        Outer.parse(values, source="a")
    assert str(error.value).startswith(sentence)
    assert "\n" not in str(error.value)


def test_only_what_changes_numbers_is_hashed() -> None:
    assert Outer(output_dir=Path("y")).hashed() == Outer().hashed()
    assert Outer(inner=Inner(steps=2)).hashed() != Outer().hashed()
    assert Outer(many=[Inner(note="x")]).hashed() == Outer(many=[Inner()]).hashed()


@pytest.mark.parametrize(
    ("text", "sentence"), [("missing.yaml", "no such file"), ("bad.yaml", "not valid YAML"), ("list.yaml", "mapping")]
)
def test_yaml_that_cannot_be_read(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "bad.yaml").write_text("a: [1")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(UserError, match=sentence):
        read_yaml(tmp_path / text)


def test_overrides_leave_the_given_values_alone() -> None:
    values = {"rl": {"steps": 60}}
    assert with_override(values, "rl.lr=1e-3") == {"rl": {"steps": 60, "lr": "1e-3"}}
    assert values == {"rl": {"steps": 60}}
    for wrong in ("rl", "=1", "rl.steps.more=1", "rl.steps=[1"):
        with pytest.raises(UserError):
            with_override(values, wrong)
