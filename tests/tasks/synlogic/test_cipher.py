"""Cipher: known vectors, own twins of the ciphers, and keys that the pair gives away."""

import itertools
import json
import re

import pytest

from pear.errors import UserError
from pear.tasks import Problem
from pear.tasks.synlogic.cipher import Cipher, decrypt, encrypt, from_game
from tests.tasks.synlogic.cipher import GAMES

TASK = Cipher()
KINDS = ("caesar", "affine", "substitution", "vigenere", "rail_fence", "columnar")


def naive(cipher: str, key: object, text: str) -> str:
    """The encryption, letter by letter in arithmetic, or on a drawn grid."""
    numbers = [ord(letter) - 65 for letter in text]
    if cipher == "caesar":
        return "".join(chr(65 + (number + key) % 26) for number in numbers)
    if cipher == "affine":
        return "".join(chr(65 + (key[0] * number + key[1]) % 26) for number in numbers)
    if cipher == "substitution":
        return "".join(key[number] for number in numbers)
    if cipher == "vigenere":
        return "".join(
            chr(65 + (number + ord(letter) - 65) % 26) for number, letter in zip(numbers, itertools.cycle(key))
        )
    if cipher == "columnar":
        columns = ["".join(text[start :: len(key)]) for start in range(len(key))]
        return "".join(columns[number - 1] for number in key)
    rails, row, step = [""] * key, 0, 1
    for letter in text:
        rails[row] += letter
        step = 1 if row == 0 else -1 if row == key - 1 else step
        row += step
    return "".join(rails)


@pytest.mark.parametrize(
    ("cipher", "key", "plain", "code"),
    [
        ("caesar", 3, "THEQUICKBROWNFOX", "WKHTXLFNEURZQIRA"),
        ("affine", [5, 8], "AFFINECIPHER", "IHHWVCSWFRCP"),
        ("substitution", "ZYXWVUTSRQPONMLKJIHGFEDCBA", "WIZARD", "DRAZIW"),
        ("vigenere", "LEMON", "ATTACKATDAWN", "LXFOPVEFRNHR"),
        ("rail_fence", 3, "WEAREDISCOVEREDFLEEATONCE", "WECRLTEERDSOEEFEAOCAIVDEN"),
        ("columnar", [5, 3, 2, 4, 6, 1], "WEAREDISCOVEREDFLEEATONCE", "EVLNACDTESEAROFODEECWIREE"),
    ],
)
def test_known_vectors(cipher: str, key: object, plain: str, code: str) -> None:
    assert encrypt(cipher, key, plain) == code
    assert decrypt(cipher, key, code) == plain


@pytest.mark.parametrize("cipher", KINDS)
@pytest.mark.parametrize("level", TASK.levels)
def test_answers_agree_with_the_naive_ciphers(cipher: str, level: str) -> None:
    directions = set()
    for seed in range(20):
        problem = TASK.generate(seed, f"{level}(cipher={cipher})")
        state, answer = problem.state, json.loads(problem.answer)[0][0]
        plain, code = (answer, state["text"]) if state["decrypt"] else (state["text"], answer)
        assert naive(cipher, state["key"], plain) == code != plain
        assert len(plain) >= TASK.knobs[level].letters
        directions.add(state["decrypt"])
        prompt = problem.prompt[0]["content"]
        assert answer not in prompt
        assert (" is not known" in prompt or " are not known" in prompt) == (not TASK.knobs[level].explained)
    assert directions == {True, False}


@pytest.mark.parametrize("cipher", KINDS)
def test_the_pair_gives_one_answer(cipher: str) -> None:
    for seed in range(8):
        problem = TASK.generate(seed, f"hard(cipher={cipher})")
        known, code, text = re.findall(r"^[A-Z]+$", problem.prompt[0]["content"], re.MULTILINE)
        state, answer = problem.state, json.loads(problem.answer)[0][0]
        plain, result = (answer, text) if state["decrypt"] else (text, answer)
        if cipher == "substitution":
            table = dict(zip(known, code, strict=True))
            assert "".join(table[letter] for letter in plain) == result
            continue
        if cipher == "vigenere":
            shifts = [(ord(after) - ord(before)) % 26 for before, after in zip(known, code, strict=True)]
            keys = ["".join(chr(65 + shift) for shift in shifts[:5])]
        elif cipher == "affine":
            keys = [[a, b] for a in range(1, 26, 2) if a != 13 for b in range(26)]
        elif cipher == "columnar":
            keys = [list(order) for order in itertools.permutations(range(1, 6))]
        else:
            keys = list(range(26)) if cipher == "caesar" else list(range(2, 7))
        fitting = [key for key in keys if naive(cipher, key, known) == code]
        assert state["key"] in fitting
        assert all((naive(cipher, key, plain) == result) for key in fitting)


@pytest.mark.parametrize(
    "knobs", ["cipher=enigma", "letters=7", "letters=201", "width=1", "width=6", "explained=maybe"]
)
def test_knobs_out_of_range_are_refused(knobs: str) -> None:
    with pytest.raises(UserError):
        TASK.generate(0, f"easy({knobs})")


def test_all_ciphers_occur() -> None:
    assert {TASK.generate(seed, "medium").state["cipher"] for seed in range(60)} == set(KINDS)


@pytest.mark.parametrize("row", GAMES)
def test_published_rows(row: dict) -> None:
    state, answer = from_game(row["game"])
    message = {"role": "user", "content": "x"}
    problem = Problem(task=TASK.name, level="published", id="x", prompt=(message,), state=state, answer=answer)
    for text in [answer, *row["right"]]:
        assert TASK.verify(problem, f"<think> x </think> <answer> {text} </answer>").correct, text
    for text in row["wrong"]:
        assert not TASK.verify(problem, f"<think> x </think> <answer> {text} </answer>").correct, text


@pytest.mark.parametrize("change", [{"answer": None}, {"answer": "ABC"}, {"answer": "[[]]"}, {"question": None}])
def test_broken_rows_are_refused(change: dict) -> None:
    with pytest.raises(ValueError, match="text"):
        from_game({**GAMES[0]["game"], **change})
