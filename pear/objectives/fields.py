"""Hyper-parameters of an objective as a recipe gives them, coerced to the types of its fields."""

from collections.abc import Mapping
from dataclasses import fields
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pear.errors import UserError, unknown_name


def read_fields(objective: type, values: dict[str, Any], *, source: str) -> dict[str, Any]:
    """The values coerced to the dataclass's field types.

    Those may be int, float, bool, str, a Literal, a Mapping, one of these or None, or a tuple of them.

    Raises:
        UserError: a key that is no field, or a value that is not of its field's type; `source` goes in front.
    """
    if not isinstance(values, dict):
        raise UserError(f"{source}: hyper-parameters must be a mapping of keys to values, got {type(values).__name__}.")
    hints = get_type_hints(objective)
    known = [item.name for item in fields(objective)]
    result = {}
    for key, value in values.items():
        if key not in known:
            if not known:
                raise UserError(f"{source}: has no hyper-parameters, got '{key}'. Remove it.")
            raise UserError(f"{source}: {unknown_name('key', str(key), known)}")
        try:
            result[key] = _coerce(value, hints[key])
        except ValueError as error:
            raise UserError(f"{source}: {key} must be {error}, got {value!r}.") from None
    return result


def _coerce(value: Any, kind: Any) -> Any:
    """`value` as `kind`; the `ValueError` says what was expected."""
    origin, kinds = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        if value is None and NoneType in kinds:
            return None
        (inner,) = (item for item in kinds if item is not NoneType)
        return _coerce(value, inner)
    if origin is Literal:
        if value not in kinds:
            raise ValueError(f"one of {', '.join(map(str, kinds))}")
        return value
    if origin is Mapping:
        if not isinstance(value, Mapping):
            raise ValueError("a mapping of keys to values")
        return dict(value)
    if origin is tuple:
        if not isinstance(value, list | tuple) or len(value) != len(kinds):
            raise ValueError(f"a list of {len(kinds)} numbers")
        return tuple(_coerce(item, inner) for item, inner in zip(value, kinds, strict=True))
    if kind is str or kind is bool:
        if not isinstance(value, kind):
            raise ValueError("text" if kind is str else "true or false")
        return value
    word = "a whole number" if kind is int else "a number"
    # YAML reads 1e-5 as text, and True is an int to Python.
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(word)
    try:
        number = float(value)
    except ValueError:
        raise ValueError(word) from None
    if kind is int:
        if not number.is_integer():
            raise ValueError(word)
        return int(number)
    return number
