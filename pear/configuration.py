"""Strict configuration: YAML in, validated pydantic models out, every mistake one sentence."""

from pathlib import Path
from typing import Any, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from pear.errors import UserError, unknown_name


class NotHashed:
    """Marks a field (`Annotated[..., NotHashed()]`) that leaves a stage's numbers alone: paths, logging, executor."""


class StrictModel(BaseModel):
    """A frozen pydantic model that refuses unknown keys.

    Values are coerced to the field's type, so `1e-5`, which YAML reads as a string, is a number where one is asked for.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuses `yes` or `true` for a number, which pydantic would take for 1."""
        annotation = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and not {bool, Any} & _types(annotation):
            raise ValueError("true and false, which YAML also writes yes and no, are not allowed here")
        return value

    @classmethod
    def parse(cls, values: Any, *, source: str) -> Self:
        """Validates `values`; raises `UserError` naming `source`, the key and, for an unknown key, the nearest one."""
        if not isinstance(values, dict):
            raise UserError(f"{source}: expected a mapping of keys to values, got {type(values).__name__}.")
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise UserError(f"{source}: {sentences(error, cls)}") from None

    @classmethod
    def hashed_fields(cls) -> list[str]:
        """Names of the fields that go into a fingerprint."""
        return [
            name
            for name, field in cls.model_fields.items()
            if not any(isinstance(item, NotHashed) for item in field.metadata)
        ]

    def hashed(self) -> dict[str, Any]:
        """The JSON-ready values of the fields that go into a fingerprint, nested models' too."""
        values = self.model_dump(mode="json", include=set(self.hashed_fields()))
        return {name: _hashed(getattr(self, name), dumped) for name, dumped in values.items()}


def _types(annotation: Any) -> set[Any]:
    """An annotation and those inside of it."""
    return {annotation}.union(*(_types(inner) for inner in get_args(annotation)))


def _hashed(value: Any, dumped: Any) -> Any:
    if isinstance(value, StrictModel):
        return value.hashed()
    if isinstance(value, list | tuple):
        return [_hashed(item, item_dumped) for item, item_dumped in zip(value, dumped, strict=True)]
    return dumped


def sentences(error: ValidationError, model: type[BaseModel] | None = None) -> str:
    """A pydantic error as one sentence per key; with the model, an unknown key is answered with the nearest."""
    return " ".join(_sentence(model, item) for item in error.errors())


def _sentence(model: type[BaseModel] | None, error: Any) -> str:
    location = [str(part) for part in error["loc"]]
    key = ".".join(location)
    if error["type"] == "extra_forbidden":
        known = _fields_at(model, location[:-1])
        return f"{key}: {unknown_name('key', location[-1], known)}"
    if error["type"] == "missing":
        return f"{key}: this key is required."
    message = error["msg"].removeprefix("Value error, ")
    return f"{key}: {message} (got {error['input']!r})."


def _fields_at(model: type[BaseModel] | None, location: list[str]) -> list[str]:
    """The keys allowed at a nested location, found by walking the models' annotations."""
    current: Any = model
    for part in location:
        fields = getattr(current, "model_fields", {})
        if part in fields:
            current = _inner_model(fields[part].annotation)
    return list(getattr(current, "model_fields", {}))


def _inner_model(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _inner_model(argument)
        if found is not None:
            return found
    return None


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML mapping. Raises `UserError` where the file is missing, unreadable or not a mapping."""
    if not path.is_file():
        raise UserError(f"{path}: no such file.")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML: {str(error).splitlines()[0]}.") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a mapping of keys to values.")
    return values


def with_override(values: dict[str, Any], assignment: str) -> dict[str, Any]:
    """Applies one `--set a.b=c` to nested YAML values; the right side is read as YAML.

    >>> with_override({"rl": {"steps": 60}}, "rl.steps=10")
    {'rl': {'steps': 10}}
    """
    key, separator, text = assignment.partition("=")
    if not separator or not key:
        raise UserError(f"--set {assignment}: expected key=value, such as --set rl.steps=10.")
    result = dict(values)
    node = result
    *parents, last = key.split(".")
    for part in parents:
        child = node.get(part, {})
        if not isinstance(child, dict):
            raise UserError(f"--set {assignment}: '{part}' is a value, not a mapping.")
        node[part] = dict(child)
        node = node[part]
    try:
        node[last] = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"--set {assignment}: '{text}' is not valid YAML.") from None
    return result
