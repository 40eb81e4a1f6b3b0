"""Leaks: any shared run of words, and nothing less."""

import random
from typing import get_args

import pytest

from pear.data.decontamination import LeakIndex, LeakWords, word_runs

WORDS = [f"w{number}" for number in range(6)]
EIGHT = "one two three four five six seven eight"


def naive_leak(text: str, other: str, count: int) -> bool:
    first, second = text.lower().split(), other.lower().split()
    return any(
        first[start : start + count] == second[place : place + count]
        for start in range(len(first) - count + 1)
        for place in range(len(second) - count + 1)
    )


@pytest.mark.parametrize("count", get_args(LeakWords))
def test_leaks_are_those_of_all_comparisons(count: LeakWords) -> None:
    draw = random.Random(0)
    seen = set()
    for _ in range(300):
        others = [" ".join(draw.choices(WORDS, k=draw.randint(0, 30))) for _ in range(3)]
        words = draw.choices(WORDS, k=10)
        if draw.random() < 0.5:
            source = draw.choice(others).split()
            words[3:3] = source[: draw.randint(0, len(source))]
        text = " ".join(words)
        index = LeakIndex(count)
        for other in others:
            index.add(other)
        found = index.find(text)
        assert (found is not None) == any(naive_leak(text, other, count) for other in others)
        seen.add(found is not None)
        if found is not None:
            assert found[1] in word_runs(text, count)
            assert naive_leak(found[1], others[found[0]], count)
    assert seen == {True, False}


def test_case_and_spaces_do_not_hide_a_leak_and_seven_words_are_none() -> None:
    index = LeakIndex(8)
    index.add("nothing")
    index.add(f"Before. {EIGHT} after")
    assert index.find(EIGHT.upper().replace(" ", "\n ")) == (1, EIGHT)
    assert index.find("zero " + EIGHT.rpartition(" ")[0]) is None
    assert index.find("nothing") is None
    assert LeakIndex(13).find(EIGHT) is None
