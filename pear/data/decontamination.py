"""Free text that an evaluation asks about, found in training text: any shared run of words is a leak."""

from collections.abc import Iterator
from typing import Literal

LeakWords = Literal[8, 13]


def word_runs(text: str, count: int) -> Iterator[str]:
    """Every `count` words in a row, lower-cased and split at white space; none where there are fewer.

    >>> list(word_runs("Find the  LAST digit.", 3))
    ['find the last', 'the last digit.']
    """
    words = text.lower().split()
    return (" ".join(words[start : start + count]) for start in range(len(words) - count + 1))


class LeakIndex:
    """The runs of words of evaluation texts.

    A text that shares any run of `count` words with one of them leaks it: the rule of s1 (arXiv 2501.19393) and open-r1
    with 8 words; 13, as GPT-3's, lets more of the common phrases pass. Texts with fewer words than that never leak by
    this rule; compare them whole.
    """

    def __init__(self, count: LeakWords) -> None:
        self.count = count
        self._first: dict[str, int] = {}
        self._size = 0

    def add(self, text: str) -> None:
        """Adds an evaluation text; the first has number 0."""
        for run in word_runs(text, self.count):
            self._first.setdefault(run, self._size)
        self._size += 1

    def find(self, text: str) -> tuple[int, str] | None:
        """The first run of words of `text` that an evaluation text has: that one's number, and the run. Or None."""
        if not self._first:
            return None
        return next(((self._first[run], run) for run in word_runs(text, self.count) if run in self._first), None)
