"""The `<think> ... </think> <answer> ... </answer>` format, read in one place."""

import json
import re
from dataclasses import dataclass
from typing import Any

INSTRUCTION = (
    "Solve the problem step by step. Put your reasoning inside <think> </think> tags and your final answer inside "
    "<answer> </answer> tags."
)
_STRICT = re.compile(r"\s*<think>(.*)</think>\s*<answer>(.*)</answer>\s*", re.DOTALL)
_MAX_JSON = 20_000
_TAGS = ("<think>", "</think>", "<answer>", "</answer>")


@dataclass(frozen=True)
class Extracted:
    """An answer read from a completion: its text, or None with the reason."""

    answer: str | None
    reason: str = ""


def extract_answer(completion: str) -> Extracted:
    """The text between the answer tags, if the completion is `<think>..</think> <answer>..</answer>` and nothing else.

    Each tag occurs exactly once, so that reasoning cannot smuggle in a second answer.

    >>> extract_answer("<think> 2+2 </think> <answer> 4 </answer>").answer
    '4'
    >>> extract_answer("<answer> 4 </answer>").reason
    'the tag <think> occurs 0 times'
    """
    for tag in _TAGS:
        if (count := completion.count(tag)) != 1:
            return Extracted(None, f"the tag {tag} occurs {count} times")
    match = _STRICT.fullmatch(completion)
    if match is None:
        return Extracted(None, "the tags are out of order, or text stands outside them")
    answer = match.group(2).strip()
    if not answer:
        return Extracted(None, "the answer is empty")
    return Extracted(answer)


def parse_json(answer: str) -> Any:
    """The JSON value of an answer. Raises `ValueError`, with words for people, on anything else.

    >>> parse_json("[[1, 2], [3, 4]]")
    [[1, 2], [3, 4]]
    """
    if len(answer) > _MAX_JSON:
        raise ValueError(f"the answer is longer than {_MAX_JSON:,} characters")
    try:
        return json.loads(answer)
    except (ValueError, RecursionError):
        raise ValueError("the answer is not JSON") from None
