"""The `<think> ... </think> <answer> ... </answer>` format, read in one place."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pear.tasks.protocol import Verdict

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


def lenient_answer(completion: str) -> str | None:
    """The text that is most likely meant as the answer, whatever the tags: between the last answer tags, or behind one
    that nothing closes, or after the reasoning; None where no text is left.

    It is what `extract_answer` reads wherever that reads anything.

    >>> lenient_answer("So <answer> 3 </answer>, no: <answer> 4 </answer>. Done.")
    '4'
    >>> lenient_answer("<think> 2+2 </think> 4"), lenient_answer("4"), lenient_answer("<think> 4 </think>")
    ('4', '4', None)
    """
    closed = completion.rpartition("</answer>")[0]
    _, opened, text = (closed or completion).rpartition("<answer>")
    answer = text.partition("</answer>")[0] if opened else completion.rpartition("</think>")[2]
    return answer.strip() or None


def judge(completion: str, check: Callable[[str], tuple[str, str]]) -> Verdict:
    """The verdict on a completion in the answer format.

    `check` reads the answer's text: its canonical text and, where it is wrong, the reason ("" where it is right). It
    raises `ValueError`, with words for people, on text that is no answer to such a problem.
    """
    extracted = extract_answer(completion)
    if extracted.answer is None:
        accurate = _is_right(lenient_answer(completion), check)
        return Verdict(correct=False, well_formed=False, reason=extracted.reason, accurate=accurate)
    try:
        answer, reason = check(extracted.answer)
    except ValueError as error:
        return Verdict(correct=False, well_formed=False, reason=str(error))
    return Verdict(correct=not reason, well_formed=True, reason=reason, answer=answer)


def _is_right(answer: str | None, check: Callable[[str], tuple[str, str]]) -> bool:
    if answer is None:
        return False
    try:
        return not check(answer)[1]
    except ValueError:
        return False


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
