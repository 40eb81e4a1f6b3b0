r"""Mathematical answers as text: the last `\boxed{}` after the reasoning, and plain numbers compared exactly."""

import re
from fractions import Fraction

from pear.tasks.extraction import Extracted, last_box, lenient_answer

MAX_ANSWER = 1000
# What a model writes after its reasoning is far shorter, and so is all that a base model writes.
_MAX_SEARCHED = 400_000
# A thousands separator is a comma, a thin or ordinary space, or nothing; it stands everywhere or nowhere.
_PLAIN = re.compile(
    r"(?P<sign>[+-]?)\s*(?:\\?\$)?\s*"
    r"(?P<whole>[1-9]\d{0,2}(?P<separator>,\\! ?|,|\{,\}|\\,|\\!|\s)\d{3}(?:(?P=separator)\d{3})*|\d*)"
    r"(?:\.(?P<decimals>\d*))?"
    r"(?P<power>[eE](?P<exponent>[+-]?\d{1,3})|\s*(?:\\times|\\cdot|\*|x)\s*10\^(?P<to>[+-]?\d|\{\s*[+-]?\d{1,3}\s*\}))?",
    re.ASCII,
)
_POWER_OF_TEN = re.compile(r"(?P<sign>[+-]?)\s*10\^(?P<to>[+-]?\d|\{\s*[+-]?\d{1,3}\s*\})", re.ASCII)
_SCIENTIFIC = re.compile(r"(?<![\w.\\])(\d+(?:\.\d*)?|\.\d+)[eE]([+-]?\d{1,3})(?![\w.])", re.ASCII)
_MAX_EXPONENT = 400
_SETTING = re.compile(r"\\(?:left|right|displaystyle|quad|qquad)(?![A-Za-z])|\\[,;:! ]")
_SHORT_FRACTION = re.compile(r"\\frac\s*(\d)\s*(\d)", re.ASCII)
# Between letters or digits a space means something, and beside a point it may: 4 2 is not 42, nor is 4. 2 just 4.2.
_BESIDE_SIGNS = re.compile(r"\s*([^\w\s.])\s*")
_TWO_NUMBERS = re.compile(r"\d\s+[+-]?\d+(?![\d/])", re.ASCII)
_DOLLAR = re.compile(r"(?<!\\)\$")
_BARE_POINT = re.compile(r"(?<=\d)\.(?=\s*(?:[/)}*^]|$))", re.ASCII)
_PERCENT = re.compile(r"\s*\\?%$")
_DEGREES = re.compile(r"\s*\^\s*(?:\\circ|\{\s*\\circ\s*\})$")
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mbox)\s*\{([^{}\\]*)\}")
# math-verify rounds to six decimals: plain numbers further apart than this are different for it too.
_SURELY_DIFFERENT = Fraction(1, 100_000)


def extract_boxed(completion: str) -> Extracted:
    r"""The content of the last balanced `\boxed{}` after the reasoning.

    The reasoning ends at `</think>`, which may stand once; a completion without the tags counts as a whole, as base
    models and the usual benchmarks leave them out. Reasoning that was begun and not ended holds no answer.

    >>> extract_boxed(r"<think> \boxed{41} </think> So \boxed{43}, no, \boxed{\frac{84}{2}}.").answer
    '\\frac{84}{2}'
    >>> extract_boxed(r"<think> \boxed{42}").reason
    'the reasoning has no end'
    """
    if completion.count("<think>") > 1 or completion.count("</think>") > 1:
        return Extracted(None, "a think tag occurs twice")
    before, end, after = completion.partition("</think>")
    if "<think>" in (after if end else before):
        return Extracted(None, "the reasoning has no end")
    return _boxed(after if end else before)


def lenient_boxed(completion: str) -> str | None:
    r"""The content of the last balanced `\boxed{}` of a completion, wherever the reasoning begins and ends, or None.

    It is what `extract_boxed` reads wherever that reads anything.

    >>> lenient_boxed(r"<think> So \boxed{42}, I am sure")
    '42'
    """
    strict = extract_boxed(completion).answer
    return strict if strict is not None else _boxed(completion).answer


def unboxed_answer(completion: str) -> str | None:
    r"""What stands where an answer without `\boxed{}` would (`lenient_answer`), or None.

    >>> unboxed_answer("<think> 6 * 7 </think> <answer> $42$ </answer>")
    '42'
    """
    return _content(lenient_answer(completion)).answer


def _boxed(text: str) -> Extracted:
    if len(text) > _MAX_SEARCHED:
        return Extracted(None, f"the answer is not in {_MAX_SEARCHED:,} characters")
    return _content(last_box(text))


def _content(answer: str | None) -> Extracted:
    if answer is None:
        return Extracted(None, r"no \boxed{} after the reasoning")
    answer = answer.strip().strip("$").strip()
    if not answer:
        return Extracted(None, r"\boxed{} is empty")
    if len(answer) > MAX_ANSWER:
        return Extracted(None, f"the answer is longer than {MAX_ANSWER:,} characters")
    return Extracted(answer)


def clean(answer: str) -> str:
    r"""An answer of a file without dollar signs, and without a point or comma that ends it.

    >>> clean("$69$,$84$"), clean(r"$(-\infty, 0) \cup\{1\}$."), clean(r"\$18")
    ('69,84', '(-\\infty, 0) \\cup\\{1\\}', '\\$18')
    """
    return _DOLLAR.sub("", answer).strip().rstrip(".,;").strip()


def plain_number(text: str) -> str | None:
    r"""An integer or decimal in its shortest form, read with a sign, dollar, thousands separators or a power of ten;
    None for all else.

    >>> plain_number("-1,234.50"), plain_number(r"\$18.00"), plain_number(".5"), plain_number(r"1.6 \times 10^{-3}")
    ('-1234.5', '18', '0.5', '0.0016')
    >>> plain_number("1,23") is None and plain_number(r"\frac{1}{2}") is None
    True
    """
    if power := _POWER_OF_TEN.fullmatch(text):
        return _shifted(power["sign"], "1", "", power["to"])
    match = _PLAIN.fullmatch(text)
    if match is None:
        return None
    separator, decimals = match["separator"], match["decimals"] or ""
    whole = match["whole"].replace(separator, "") if separator else match["whole"]
    if not whole + decimals:
        return None
    return _shifted(match["sign"], whole, decimals, match["exponent"] or match["to"] or "0")


def _shifted(sign: str, whole: str, decimals: str, exponent: str) -> str | None:
    """A decimal with its point moved."""
    by = int(exponent.strip("{} \t\n"))
    if abs(by) > _MAX_EXPONENT:
        return None
    if by < 0:
        whole = whole.rjust(-by, "0")
        whole, decimals = whole[:by], whole[by:] + decimals
    decimals = decimals.ljust(by, "0")
    if by > 0:
        whole, decimals = whole + decimals[:by], decimals[by:]
    whole, decimals = whole.lstrip("0") or "0", decimals.rstrip("0")
    number = f"{whole}.{decimals}" if decimals else whole
    return f"-{number}" if sign == "-" and number != "0" else number


def compare_plain(gold: str, answer: str, tolerance: str = "") -> bool | None:
    r"""Whether an answer is right, where that can be told from plain numbers and words alone; None where it cannot.

    Equal values are right ("18.00" is 18), and those within the tolerance, where there is one. Values far enough apart
    that no rounding makes them equal are wrong. A percent or degree sign may be left out or added, as it is a unit.
    Where the gold answer is a plain number, two numbers side by side are wrong: math-verify would add them up. Where
    it is words in `\text{}`, only the same words are right: math-verify would take them for products of letters.
    """
    if gold == answer:
        return True
    if (words := _words(gold)) is not None:
        return words == (_words(answer) or _words(f"\\text{{{answer}}}"))
    (gold_value, gold_percent), (value, percent) = _measured(gold), _measured(answer)
    gold_number, number = plain_number(gold_value), plain_number(value)
    if gold_number is None:
        return None
    if number is None:
        return False if _TWO_NUMBERS.search(answer) else None
    if number == gold_number:
        return True
    difference, size = abs(Fraction(number) - Fraction(gold_number)), abs(Fraction(gold_number))
    if tolerance and difference <= Fraction(tolerance):
        return True
    if percent != gold_percent:
        return None
    return False if difference > _SURELY_DIFFERENT * min(1, size or 1) else None


def _measured(answer: str) -> tuple[str, bool]:
    """An answer without a degree or percent sign behind it, and whether it was the latter."""
    answer = _DEGREES.sub("", answer)
    value = _PERCENT.sub("", answer)
    return value, value != answer


def _words(answer: str) -> str | None:
    r"""The words of `\text{}` in lower case, without parentheses or a point; None for all else."""
    match = _TEXT.fullmatch(answer.strip())
    if match is None or any(character.isdigit() for character in match[1]):
        return None
    return " ".join(match[1].casefold().split()).strip("(). ") or None


def readable(answer: str) -> str:
    r"""An answer as math-verify can read it: no dollar signs, numbers such as 4.5e33 in LaTeX, 1./3 as 1/3.

    >>> readable("-1./3"), readable("2.5e-3 x")
    ('-1/3', '2.5 \\times 10^{-3} x')
    """
    text = _SCIENTIFIC.sub(r"\1 \\times 10^{\2}", _DOLLAR.sub("", answer))
    return _BARE_POINT.sub("", text)


def canonical_text(answer: str) -> str:
    """A gold answer as text: plain numbers in one form, other text as it is."""
    return plain_number(answer) or answer


def voting_text(answer: str) -> str:
    r"""An answer as text for majority votes: plain numbers in one form, other LaTeX without what only sets it.

    Sizes of brackets, styles and short forms of fractions and spaces beside signs are dropped. It reads right and wrong
    answers alike; expressions that are equal by algebra (`2x` and `x + x`) keep votes of their own.

    >>> voting_text("1,200.0"), voting_text(r"\left( \dfrac12 , x \right)")
    ('1200', '(\\frac{1}{2},x)')
    """
    if (number := plain_number(answer)) is not None:
        return number
    text = _SETTING.sub(" ", answer).replace(r"\dfrac", r"\frac").replace(r"\tfrac", r"\frac")
    return _BESIDE_SIGNS.sub(r"\1", _SHORT_FRACTION.sub(r"\\frac{\1}{\2}", text)).strip()
