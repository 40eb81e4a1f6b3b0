"""Cipher: encrypt or decrypt a text with a classical cipher."""

import json
import random
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import permutations
from typing import Any

from pear.tasks.extraction import INSTRUCTION, parse_literal, unwrap
from pear.tasks.levels import read_level
from pear.tasks.protocol import GeneratedTask, Problem
from pear.tasks.synlogic.boxed import published_text
from pear.tasks.synlogic.words import WORDS

_RULES = {
    "caesar": "Every letter is replaced by the one that stands a fixed number of places, the shift, after it in the "
    "alphabet; after Z comes A.",
    "affine": "The letters are numbered A = 0 to Z = 25. The letter with number x is replaced by the one with number "
    "(a * x + b) mod 26.",
    "substitution": "Every letter is replaced by the one at its place in a cipher alphabet: A by the first letter of "
    "the cipher alphabet, B by the second, and so on.",
    "vigenere": "A key word is written under the text again and again. The letters are numbered A = 0 to Z = 25, and "
    "every letter is replaced by the one whose number is the sum, mod 26, of its number and that of the key letter "
    "under it.",
    "rail_fence": "The letters are written in a zigzag on some rails: the first on the top rail, the next one rail "
    "lower each, from the bottom rail upwards again, and so on. Then the rails are read from the top one to the bottom "
    "one, each from left to right.",
    "columnar": "The text is written in rows below each other, each as wide as the number of columns; the last row may "
    "be shorter. Then the columns are read from top to bottom, one after another in the order that the key gives, the "
    "columns being numbered from 1 on the left.",
}
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_MAX_RAILS = 6
_BARE = re.compile(r"\[\[\s*([A-Z]+)\s*\]\]")


@dataclass(frozen=True, kw_only=True)
class _Knobs:
    cipher: str
    letters: int
    explained: bool
    width: int

    def __post_init__(self) -> None:
        if self.cipher not in ("any", *_RULES):
            raise ValueError(f"cipher must be any or one of {', '.join(_RULES)}, got '{self.cipher}'")
        if not 8 <= self.letters <= 200:
            raise ValueError(f"letters must be from 8 to 200, got {self.letters}")
        if not 2 <= self.width <= 5:
            raise ValueError(f"width must be from 2 to 5, got {self.width}")


_LEVELS = {
    "easy": _Knobs(cipher="any", letters=10, explained=True, width=3),
    "medium": _Knobs(cipher="any", letters=20, explained=True, width=4),
    "hard": _Knobs(cipher="any", letters=30, explained=False, width=5),
}


class Cipher(GeneratedTask):
    """A text to be encrypted or decrypted by a cipher whose rule is explained.

    Levels differ in the least number of letters, in whether the key is given or has to be found from a pair of a text
    and its encryption, and in the length of a key word and the number of columns:
    easy 10, given, 3; medium 20, given, 4; hard 30, to be found, 5. The knob `cipher` picks one of the ciphers.

    The answer is the text in two pairs of brackets, `[["TEXT"]]`, in a code block or not; the quotes may be left out.
    """

    name = "synlogic/cipher"
    knobs = _LEVELS
    levels = tuple(knobs)
    source = (
        "classical ciphers in the answer format of SynLogic's task `cipher` (arXiv 2505.19641), which has no generator"
    )

    def generate(self, seed: int, level: str) -> Problem:
        knobs = read_level(level, _LEVELS)
        # A text seed goes through sha512, not through hash().
        draw = random.Random(f"{self.name}/{level}/{seed}")
        cipher = draw.choice(list(_RULES)) if knobs.cipher == "any" else knobs.cipher
        decrypt = draw.random() < 0.5
        while True:
            key = _draw_key(draw, cipher, knobs.width)
            plain, known = _draw_text(draw, knobs.letters), _draw_text(draw, 2 * knobs.letters)
            if cipher == "substitution" and not knobs.explained:
                known = _draw_covering(draw, plain)
            text = encrypt(cipher, key, plain) if decrypt else plain
            state = {"cipher": cipher, "key": key, "text": text, "decrypt": decrypt}
            answer = _result(state)
            same = knobs.explained or _only_answer(state, known, knobs.width)
            if text != answer and answer != known and same:
                break
        pair = None if knobs.explained else (known, encrypt(cipher, key, known))
        return Problem(
            task=self.name,
            level=level,
            id=f"{self.name}/{level}/{seed}",
            prompt=({"role": "user", "content": _question(state, pair, knobs.width)},),
            state=state,
            answer=_written(answer),
        )

    def check(self, problem: Problem, answer: str) -> tuple[str, str]:
        found = _read(answer)
        state = problem.state
        expected = state["answer"] if "answer" in state else _result(state)
        return found, "" if found == expected else "the text is wrong"

    def canonical(self, problem: Problem) -> str:
        """The cipher, its key, the text and the direction; of a published problem its text."""
        return f"{self.name}:{json.dumps(problem.state, sort_keys=True, ensure_ascii=False)}"


def from_game(game: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The state and the answer of a published row, from its `question` and its `answer` like `[[TEXT]]`. Raises
    `ValueError` where one is missing or has another shape."""
    question, answer = published_text(game, "question"), published_text(game, "answer")
    text = answer[2:-2]
    if not (answer.startswith("[[") and answer.endswith("]]") and text.strip()):
        raise ValueError("answer is not a text in [[ ]]")
    return {"question": question, "answer": text}, _written(text)


def encrypt(cipher: str, key: Any, text: str) -> str:
    """The encryption of a text of capital letters.

    >>> encrypt("vigenere", "LEMON", "ATTACKATDAWN"), encrypt("rail_fence", 3, "WEAREDISCOVERED")
    ('LXFOPVEFRNHR', 'WECRERDSOEEAIVD')
    """
    if cipher in ("rail_fence", "columnar"):
        return "".join(text[place] for place in _places(cipher, key, len(text)))
    alphabets = _alphabets(cipher, key)
    return "".join(alphabets[place % len(alphabets)][ALPHABET.index(letter)] for place, letter in enumerate(text))


def decrypt(cipher: str, key: Any, text: str) -> str:
    """The text of which this is the encryption.

    >>> decrypt("caesar", 3, "DEF"), decrypt("columnar", [2, 1], "BDAC")
    ('ABC', 'ABCD')
    """
    if cipher in ("rail_fence", "columnar"):
        plain = dict(zip(_places(cipher, key, len(text)), text, strict=True))
        return "".join(plain[place] for place in range(len(text)))
    alphabets = _alphabets(cipher, key)
    return "".join(ALPHABET[alphabets[place % len(alphabets)].index(letter)] for place, letter in enumerate(text))


def _alphabets(cipher: str, key: Any) -> list[str]:
    """The cipher alphabets that the letters of a text take in turn."""
    if cipher == "substitution":
        return [key]
    if cipher == "affine":
        return ["".join(ALPHABET[(key[0] * number + key[1]) % 26] for number in range(26))]
    shifts = [key] if cipher == "caesar" else [ALPHABET.index(letter) for letter in key]
    return [ALPHABET[shift:] + ALPHABET[:shift] for shift in shifts]


def _places(cipher: str, key: Any, length: int) -> list[int]:
    """The places of the text in the order in which they are read."""
    if cipher == "columnar":
        return [place for column in key for place in range(column - 1, length, len(key))]
    turn = 2 * (key - 1)
    return sorted(range(length), key=lambda place: (min(place % turn, turn - place % turn), place))


def _keys(cipher: str, width: int) -> Iterable[Any]:
    """All keys, of the ciphers that have only few."""
    if cipher == "caesar":
        return range(1, 26)
    if cipher == "affine":
        return [[a, b] for a in range(3, 26, 2) if a != 13 for b in range(26)]
    if cipher == "rail_fence":
        return range(2, _MAX_RAILS + 1)
    return [list(order) for order in permutations(range(1, width + 1))]


def _draw_key(draw: random.Random, cipher: str, width: int) -> Any:
    if cipher == "substitution":
        return "".join(draw.sample(ALPHABET, 26))
    if cipher == "vigenere":
        return "".join(draw.sample(ALPHABET, width))
    return draw.choice(list(_keys(cipher, width)))


def _draw_text(draw: random.Random, letters: int) -> str:
    text = ""
    while len(text) < letters:
        text += draw.choice(WORDS).upper()
    return text


def _draw_covering(draw: random.Random, text: str) -> str:
    """A text with every letter of another one."""
    words = draw.sample(WORDS, len(WORDS))
    known = ""
    for word in words:
        if any(letter in text and letter not in known for letter in word.upper()):
            known += word.upper()
    return known


def _only_answer(state: Mapping[str, Any], known: str, width: int) -> bool:
    """Whether every key that fits the known pair gives the same answer."""
    cipher, key = state["cipher"], state["key"]
    if cipher == "substitution":
        return set(_result(state) if state["decrypt"] else state["text"]) <= set(known)
    if cipher == "vigenere":
        return len(known) >= width
    code = encrypt(cipher, key, known)
    fitting = [other for other in _keys(cipher, width) if encrypt(cipher, other, known) == code]
    return len({_result({**state, "key": other}) for other in fitting}) == 1


def _result(state: Mapping[str, Any]) -> str:
    return (decrypt if state["decrypt"] else encrypt)(state["cipher"], state["key"], state["text"])


def _question(state: Mapping[str, Any], pair: tuple[str, str] | None, width: int) -> str:
    key = state["key"]
    given = {
        "caesar": f"The shift is {key}.",
        "affine": "a is {} and b is {}.".format(*key) if state["cipher"] == "affine" else "",
        "substitution": f"The cipher alphabet is {key}.",
        "vigenere": f"The key word is {key}.",
        "rail_fence": f"There are {key} rails.",
        "columnar": f"There are {width} columns, and the key is {key}.",
    }
    limits = {
        "caesar": "The shift is not known.",
        "affine": "The numbers a and b are not known; a is odd, more than 1, and not 13.",
        "substitution": "The cipher alphabet is not known.",
        "vigenere": f"The key word is not known; it has {width} letters.",
        "rail_fence": f"The number of rails is not known; it is from 2 to {_MAX_RAILS}.",
        "columnar": f"There are {width} columns; the key is not known.",
    }
    rule = given[state["cipher"]]
    if pair is not None:
        rule = f"{limits[state['cipher']]} With it the text\n\n{pair[0]}\n\nis encrypted as\n\n{pair[1]}"
    task = "Decrypt this, that is, find the text that is encrypted so:" if state["decrypt"] else "Encrypt this text:"
    return (
        f"{INSTRUCTION}\n\n"
        "Texts are of capital letters, without spaces, and are encrypted by this rule. "
        f"{_RULES[state['cipher']]} {rule}\n\n{task}\n\n{state['text']}\n\n"
        'The answer is the text that you find, as a list in a list in Python, like [["EXAMPLE"]].'
    )


def _written(text: str) -> str:
    return json.dumps([[text]], ensure_ascii=False)


def _read(answer: str) -> str:
    text = unwrap(answer)
    if len(text) < 2_000 and (match := _BARE.fullmatch(text)):
        return match.group(1)
    value = parse_literal(text)
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], list) and len(value[0]) == 1:
        found = value[0][0]
        if isinstance(found, str):
            return found
    raise ValueError('the answer is not one text in two pairs of brackets, like [["EXAMPLE"]]')
