r"""The worker process of `verifier.py`: compares one pair of answers a line, until its input ends.

Run by its path. It says `R` once math-verify is loaded, then `1` (equal) or `0` for each JSON line `[gold, answer]`.
The kernel ends it when one comparison takes more than its CPU time, whatever C code is running then; the parent sees
that and starts another.

Both texts are parsed as one expression each (math-verify's own extraction looks for answers in whole sentences, takes
a fraction out of what it cannot read, and costs more than the parsing).
"""

import json
import math
import os
import re
import resource
import signal
import sys
from functools import lru_cache
from typing import Any

# Enough for any answer of a page; a power tower asks for more.
_MEMORY_BYTES = 2 << 30
_COMMAND = re.compile(r"\\(?:text|mbox|mathrm|textrm|textbf|operatorname)\s*\{[^{}]*\}|\\[A-Za-z]+")
_TRAILING_TEXT = re.compile(r"(?<=\S)\s*\\(?:text|mbox|mathrm|textrm)\s*\{[^{}]*\}(?:\^\{?\d\}?)?$")
# An E with an index is a symbol; the parser takes it for Euler's number and fails.
_INDEXED_E = re.compile(r"(?<![A-Za-z\\])E(?=\s*_)")
_EQUALS = re.compile(r"(?<![\\<>!])=")
# math-verify rounds to six decimals, so that all small numbers would be equal.
_RELATIVE = 1e-5
_CLEARLY = 1e-3


def has_letters(text: str) -> bool:
    """Whether an expression has letters that are no command's name and in no text: variables, not units."""
    return re.search("[A-Za-z]", _COMMAND.sub(" ", text)) is not None


def main(cpu_seconds: float) -> None:
    """Serves until end of input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    replies = os.dup(1)
    os.dup2(2, 1)
    import logging

    from math_verify import verify

    logging.disable()
    # What libraries have to say about a strange answer is of use to nobody; a failed import has been shown by now.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    parse = _parser()
    os.write(replies, b"R")
    for line in sys.stdin.buffer:
        gold, answer = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)  # replaces the last one; waiting takes no CPU time
        # A letter behind a number is a unit, unless the gold answer has variables of its own: then 6m is not 6.
        units = not has_letters(gold)
        parsed = [parse(text, units) for text in (gold, answer)]
        # Not symmetric: the gold answer is first.
        equal = not _differ(*parsed) and verify(*parsed, timeout_seconds=None) and not _far_apart(*parsed)
        os.write(replies, b"1" if equal else b"0")


def _parser() -> Any:
    """A function from a text, and whether units are dropped, to its expression; to the text where there is none."""
    from latex2sympy2_extended.latex2sympy2 import NormalizationConfig, latex2sympy, normalize_latex
    from math_verify.grader import should_treat_as_complex

    configs = {
        units: NormalizationConfig(basic_latex=True, units=units, malformed_operators=True, nits=True, boxed="last")
        for units in (False, True)
    }

    def read(text: str) -> Any:
        return latex2sympy(
            text, is_real=not should_treat_as_complex(text), convert_degrees=False, normalization_config=None
        )

    @lru_cache(1024)
    def parse(text: str, units: bool) -> Any:
        text = _INDEXED_E.sub(r"\\Xi", text if units else _TRAILING_TEXT.sub("", text))
        try:
            text = normalize_latex(f"\\boxed{{{text}}}", configs[units])
            last = text if "," in text or ";" in text else _EQUALS.split(text)[-1]
        except Exception:
            return text
        for part in (text, last):
            try:
                return read(part)
            except Exception:
                continue
        return text

    return parse


def _differ(gold: Any, answer: Any) -> bool:
    """Whether two expressions have clearly different values where their variables have some: most wrong answers do,
    and are refused without the simplification that takes seconds."""
    from sympy import Expr, Symbol, UnevaluatedExpr

    for side in (gold, answer):
        # Words may have been read as products of letters, and a percent sign may be left out: that is for math-verify.
        if not isinstance(side, Expr) or isinstance(side, Symbol) or side.has(UnevaluatedExpr):
            return False
    names = sorted({symbol.name for symbol in gold.free_symbols | answer.free_symbols})
    values = {name: 1.3 + 0.37 * number for number, name in enumerate(names)}
    try:
        first, second = (
            complex(side.doit().subs({symbol: values[symbol.name] for symbol in side.free_symbols}).evalf())
            for side in (gold, answer)
        )
    except Exception:  # an unknown function, or no finite value there
        return False
    difference, size = abs(first - second), max(abs(first), abs(second))
    return math.isfinite(size) and difference > _CLEARLY * size


def _far_apart(gold: Any, answer: Any) -> bool:
    """Whether both are numbers, and further apart than five digits of the gold answer allow."""
    if not (getattr(gold, "is_number", False) and getattr(answer, "is_number", False)):
        return False
    try:
        first, second = complex(gold.doit().evalf()), complex(answer.doit().evalf())
    except Exception:  # too large for a float: they are equal by algebra
        return False
    return first != 0 and abs(first - second) > _RELATIVE * abs(first)


if __name__ == "__main__":
    main(float(sys.argv[1]))
