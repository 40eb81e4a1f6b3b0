"""Near-duplicates of free text: MinHash finds candidates among the texts so far, and their words decide."""

import functools
from collections.abc import Set
from typing import TYPE_CHECKING

import numpy

if TYPE_CHECKING:
    from datasketch import MinHash

_PERMUTATIONS = 128
_SHINGLE_WORDS = 3
_RECALL = 0.99
# Odd numbers: products modulo 2**64 keep every bit of a factor.
_MULTIPLIERS = numpy.random.default_rng(0).integers(1 << 62, size=_PERMUTATIONS, dtype=numpy.uint64) * 2 + 1


def shingles(text: str) -> frozenset[str]:
    """Every three words in a row of a text, lower-cased and split at white space; all words where there are fewer.

    >>> sorted(shingles("How many apples are left?"))
    ['apples are left?', 'how many apples', 'many apples are']
    """
    words = text.lower().split()
    count = max(len(words) - _SHINGLE_WORDS, 0) + 1
    return frozenset(" ".join(words[start : start + _SHINGLE_WORDS]) for start in range(count))


def similarity(first: Set[str], second: Set[str]) -> float:
    """The Jaccard index of two sets, which are not both empty: the part of their union that they share.

    >>> similarity({"a", "b", "c"}, {"b", "c", "d"})
    0.5
    """
    shared = len(first & second)
    return shared / (len(first) + len(second) - shared)


def bands_for(threshold: float) -> tuple[int, int]:
    """How 128 hash values are banded: (bands, values in a band).

    As many values in a band as leave sets of similarity `threshold` a chance of 99% to agree in all of one band, so
    that there are few candidates and nearly every near-duplicate is one.

    >>> bands_for(0.8), bands_for(0.5), bands_for(1.0)
    ((21, 6), (42, 3), (1, 128))
    """
    sizes = (rows for rows in range(_PERMUTATIONS, 0, -1) if _recall(threshold, rows) >= _RECALL)
    rows = next(sizes, 1)
    return _PERMUTATIONS // rows, rows


def _recall(threshold: float, rows: int) -> float:
    return 1 - float((1 - threshold**rows) ** (_PERMUTATIONS // rows))


class NearDuplicates:
    """An index of texts that finds, among those added, one that says nearly the same.

    Two texts are near-duplicates where the Jaccard index of their `shingles` is at least `threshold`, in (0, 1].
    MinHash (Broder, 1997) proposes the pairs, missing at most about one in a hundred at the threshold and fewer above
    it; the shingles themselves decide, so that nothing else is ever found. Equal texts in equal order give equal
    results. About 4 kB a text beside the texts.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self._shape = bands_for(threshold)
        self._tables: list[dict[int, list[int]]] = [{} for _ in range(self._shape[0])]
        self._texts: list[str] = []

    def find_or_add(self, text: str) -> tuple[int, float] | None:
        """The number and the similarity of the first added text that `text` is a near-duplicate of. Where there is
        none, adds `text` and returns None; the first that is added has number 0."""
        own = shingles(text)
        keys = self._keys(own)
        found = [table.get(key, ()) for table, key in zip(self._tables, keys, strict=True)]
        for number in sorted(set().union(*found)):
            alike = similarity(own, shingles(self._texts[number]))
            if alike >= self.threshold:
                return number, alike
        for table, key in zip(self._tables, keys, strict=True):
            table.setdefault(key, []).append(len(self._texts))
        self._texts.append(text)
        return None

    def _keys(self, own: Set[str]) -> list[int]:
        """One number a band, equal where all the band's hash values are."""
        signature = _empty_signature().copy()
        signature.update_batch([shingle.encode("utf-8", "surrogatepass") for shingle in own])
        bands, rows = self._shape
        values = numpy.asarray(signature.hashvalues[: bands * rows], dtype=numpy.uint64)
        mixed = (values * _MULTIPLIERS[: bands * rows]).reshape(bands, rows).sum(axis=1, dtype=numpy.uint64)
        keys: list[int] = mixed.tolist()
        return keys


@functools.cache
def _empty_signature() -> "MinHash":
    from datasketch import MinHash

    return MinHash(num_perm=_PERMUTATIONS, seed=1)
