"""Answers as text: the `<think> ... </think> <answer> ... </answer>` format, and what stands in it."""

import ast
import json
import re
from dataclasses import dataclass
from typing import Any

INSTRUCTION = (
    "Solve the problem step by step. Put your reasoning inside <think> </think> tags and your final answer inside "
    "<answer> </answer> tags."
)
_STRICT = re.compile(r"\s*<think>(.*)</think>\s*<answer>(.*)</answer>\s*", re.DOTALL)
# Longer ones are not read: no answer of a task comes near, and reading a megabyte takes time.
_MAX_ANSWER = 20_000
_MAX_DEPTH = 20
_FENCE = re.compile(r"```[a-zA-Z]*\n(.*?)```", re.DOTALL)
_BOX_TOKEN = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)
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


def parse_json(answer: str) -> Any:
    """The JSON value of an answer. Raises `ValueError`, with words for people, on anything else.

    >>> parse_json("[[1, 2], [3, 4]]")
    [[1, 2], [3, 4]]
    """
    refuse_long(answer)
    try:
        return json.loads(answer)
    except (ValueError, RecursionError):
        raise ValueError("the answer is not JSON") from None


def parse_literal(answer: str) -> Any:
    """The value of an answer that is a literal, in JSON or in Python: numbers, texts, lists, tuples, sets, dicts.
    Raises `ValueError`, with words for people, on anything else. Nothing is ever run.

    >>> parse_literal("[[1, 'X'], (3, 4)]")
    [[1, 'X'], (3, 4)]
    """
    refuse_long(answer)
    depth = 0
    for character in answer:
        depth += (character in "([{") - (character in ")]}")
        if depth > _MAX_DEPTH:
            raise ValueError("the answer has too many brackets inside each other")
    try:
        return json.loads(answer)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(answer)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise ValueError("the answer is neither JSON nor a Python literal") from None


def unwrap(answer: str) -> str:
    r"""What an answer wraps: the content of its last code block, else of its last balanced `\boxed{}`, else all of it.

    >>> unwrap("so:\n```python\n[1, 2]\n```"), unwrap(r"It is \boxed{42}."), unwrap(" 42 ")
    ('[1, 2]', '42', '42')
    """
    if blocks := _FENCE.findall(answer):
        return str(blocks[-1]).strip()
    box = last_box(answer)
    return (answer if box is None else box).strip()


def last_box(text: str) -> str | None:
    """The content of the `\\boxed{}` that closes last, in one pass; escaped braces do not count. None without one."""
    if "\\boxed" not in text:
        return None
    starts: list[int | None] = []
    last: tuple[int, int] | None = None
    for token in _BOX_TOKEN.finditer(text):
        kind = token.group()
        if kind == "}":
            start = starts.pop() if starts else None
            if start is not None:
                last = (start, token.start())
        elif kind == "{" or kind.startswith("\\boxed"):
            starts.append(None if kind == "{" else token.end())
    return None if last is None else text[last[0] : last[1]]


def refuse_long(answer: str) -> None:
    """Raises `ValueError`, with words for people, on an answer that is too long to be one (20,000 characters)."""
    if len(answer) > _MAX_ANSWER:
        raise ValueError(f"the answer is longer than {_MAX_ANSWER:,} characters")
