"""Sequences of brackets: drawing them, the brackets that are open after each, and what is the same up to renaming."""

import random
from math import comb

PAIRS = ("()", "[]", "{}", "<>")
CLOSING = {pair[0]: pair[1] for pair in PAIRS}
_KIND = {bracket: number for number, pair in enumerate(PAIRS) for bracket in pair}


def draw_brackets(draw: random.Random, pairs: list[str], length: int, left_open: int, first: int = 0) -> str:
    """A sequence of so many brackets of these pairs that opens before it closes and leaves so many open, starting with
    `first` opening brackets; all shapes are equally likely.

    Raises:
        ValueError: there is no such sequence.
    """
    if not _paths(length - first, first, left_open):
        raise ValueError("no sequence of brackets has that length, that many left open and that many first")
    sequence, stack = "", ""
    for step in range(length):
        left = length - step - 1
        up, down = (_paths(left, len(stack) + change, left_open) for change in (1, -1))
        if step < first or draw.randrange(up + down) < up:
            pair = draw.choice(pairs)
            sequence, stack = sequence + pair[0], stack + pair[1]
        else:
            sequence, stack = sequence + stack[-1], stack[:-1]
    return sequence


def first_error(sequence: str) -> int | None:
    """The place, from 0, of the first bracket that closes nothing or another kind than is open; None without one.

    >>> first_error("([)]"), first_error("(["), first_error("())")
    (2, None, 2)
    """
    stack: list[str] = []
    for place, bracket in enumerate(sequence):
        if bracket in CLOSING:
            stack.append(CLOSING[bracket])
        elif not stack or stack.pop() != bracket:
            return place
    return None


def open_brackets(sequence: str) -> str:
    """The brackets that are open at the end of a sequence without an error, in their order.

    >>> open_brackets("{[](<")
    '{(<'
    """
    stack = ""
    for bracket in sequence:
        stack = stack + bracket if bracket in CLOSING else stack[:-1]
    return stack


def renamed(sequence: str) -> str:
    """The sequence with its kinds of brackets named in the order in which they occur first.

    >>> renamed("<[]>"), renamed(")]")
    ('([])', ')]')
    """
    order: list[int] = []
    for bracket in sequence:
        if _KIND[bracket] not in order:
            order.append(_KIND[bracket])
    return "".join(PAIRS[order.index(_KIND[bracket])][bracket not in CLOSING] for bracket in sequence)


def only_brackets(text: str) -> bool:
    """Whether a text is nothing but brackets, at least one."""
    return bool(text) and all(bracket in _KIND for bracket in text)


def _paths(steps: int, start: int, end: int) -> int:
    """How many walks of steps up and down lead from one height to another without going below zero (by reflection)."""
    if min(steps, start, end) < 0 or (steps + end - start) % 2 or abs(end - start) > steps:
        return 0
    up = (steps + end - start) // 2
    below = up + start + 1
    return comb(steps, up) - (comb(steps, below) if below <= steps else 0)
