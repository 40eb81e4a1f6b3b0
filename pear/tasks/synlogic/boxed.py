"""Answers in a box: what stands in `\\boxed{}`, as text, number or list of names."""

import re
from collections.abc import Mapping
from typing import Any

from pear.tasks.extraction import last_box
from pear.tasks.synlogic.grids import digits

_MAX_ANSWER = 20_000
# Prose and the marks of mathematics, bold and sentences, fullwidth ones too; no quotes, lists or invisible marks.
_AROUND = re.compile(r"(?:[\w\s.,:;'*$()=\uff0c\u3002\uff1a-]|\\[()\[\]])*")


def box(content: str) -> str:
    """A text in a box.

    >>> print(box("42"))
    \\boxed{42}
    """
    return f"\\boxed{{{content}}}"


def read_box(answer: str) -> str:
    """The content of an answer's only `\\boxed{}`, with plain prose around it or none; an answer without a box is its
    own content. Raises `ValueError` on any other text.

    >>> read_box("It is \\\\boxed{42}."), read_box("42")
    ('42', '42')
    """
    if len(answer) > _MAX_ANSWER:
        raise ValueError(f"the answer is longer than {_MAX_ANSWER:,} characters")
    if "\\boxed" not in answer:
        return answer.strip()
    content = last_box(answer)
    if content is None:
        raise ValueError("the box of the answer is not closed")
    for opening in ("\\boxed{", "\\boxed {"):
        before, found, after = answer.partition(f"{opening}{content}}}")
        if found and _AROUND.fullmatch(before) and _AROUND.fullmatch(after):
            return content.strip()
    raise ValueError("the answer is not one box")


def read_count(answer: str) -> int:
    """The number in the box: ASCII digits only, no sign, no zero in front. Raises `ValueError` on any other.

    >>> read_count("\\\\boxed{42}")
    42
    """
    content = read_box(answer)
    if content.startswith("0") and content != "0":
        raise ValueError("the answer is not a whole number without zeros in front")
    return digits(content)


def read_names(answer: str) -> list[str]:
    """The names in the box, which are apart by commas, fullwidth ones too; spaces around them do not count. Raises
    `ValueError` where a name is empty.

    >>> read_names("\\\\boxed{red cup, lamp}")
    ['red cup', 'lamp']
    """
    names = [name.strip() for name in read_box(answer).replace("\uff0c", ",").split(",")]
    if not all(names):
        raise ValueError("the answer is not a list of names apart by commas")
    return names


def published_text(game: Mapping[str, Any], key: str) -> str:
    """A field of a published row that is a text with something in it. Raises `ValueError` on any other."""
    text = game.get(key)
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{key} is not a text")
    return text.strip()
