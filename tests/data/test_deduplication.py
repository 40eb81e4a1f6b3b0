"""Near-duplicates: against the Jaccard index of all pairs, in plain loops."""

import random
from functools import cache

import pytest

from pear.data.deduplication import NearDuplicates, bands_for, shingles, similarity

WORDS = [f"w{number}" for number in range(400)]


@cache
def runs(text: str) -> dict[tuple[str, ...], None]:
    words = text.lower().split()
    return dict.fromkeys(tuple(words[start : start + 3]) for start in range(max(1, len(words) - 2)))


def naive_similarity(first: str, second: str) -> float:
    shared = [run for run in runs(first) if run in runs(second)]
    return len(shared) / (len(runs(first)) + len(runs(second)) - len(shared))


def changed(text: str, draw: random.Random, count: int) -> str:
    words = text.split()
    for place in draw.sample(range(len(words)), count):
        words[place] = draw.choice(WORDS)
    return " ".join(words)


def test_pairs_are_those_of_all_comparisons() -> None:
    draw = random.Random(0)
    texts: list[str] = []
    for _ in range(60):
        texts.append(" ".join(draw.choices(WORDS, k=draw.randint(30, 80))))
        texts += [changed(texts[-1], draw, count) for count in (0, 1, 2, 4)]
    draw.shuffle(texts)
    index, added, missed, found_pairs = NearDuplicates(0.8), list[str](), 0, 0
    for text in texts:
        alike = [naive_similarity(text, other) for other in added]
        first = next((number for number, value in enumerate(alike) if value >= 0.8), None)
        found = index.find_or_add(text)
        if found is None:
            added.append(text)
            missed += first is not None
        else:
            assert found[1] == pytest.approx(alike[found[0]], abs=1e-12)
            assert found[1] >= 0.8
            found_pairs += 1
    assert found_pairs > 60
    assert missed <= 2  # one in a hundred of those that are just above the threshold


def test_equal_in_everything_but_case_and_spaces() -> None:
    index = NearDuplicates(1.0)
    assert index.find_or_add("What is  Two plus two?") is None
    assert index.find_or_add(" what is two PLUS two?\n") == (0, 1.0)
    assert index.find_or_add("What is two plus three?") is None
    assert index.find_or_add("What is two plus three?") == (1, 1.0)


@pytest.mark.parametrize("text", ["", "one", "one two", "a\ud800 b c d"])
def test_short_and_broken_texts(text: str) -> None:
    index = NearDuplicates(0.8)
    assert index.find_or_add("three other words") is None
    assert index.find_or_add(text) is None
    assert index.find_or_add(text) == (1, 1.0)
    assert similarity(shingles(text), shingles(text)) == 1.0


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 0.9, 0.99])
def test_bands_find_pairs_at_the_threshold(threshold: float) -> None:
    bands, rows = bands_for(threshold)
    assert bands * rows <= 128
    assert 1 - (1 - threshold**rows) ** bands >= 0.99
    assert 1 - (1 - threshold ** (rows + 1)) ** (128 // (rows + 1)) < 0.99
