r"""The worker process of `verifier.py`: compares one pair of answers a line, until its input ends.

Run by its path. It says `R` once math-verify is loaded, then `1` (equal) or `0` for each JSON line `[gold, answer]`.
The kernel ends it when one comparison takes more than its CPU time, whatever C code is running then; the parent sees
that and starts another.
"""

import json
import os
import resource
import signal
import sys

# Enough for any answer of a page; a power tower asks for more.
_MEMORY_BYTES = 2 << 30


def main(cpu_seconds: float) -> None:
    """Serves until end of input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    replies = os.dup(1)
    os.dup2(2, 1)
    import logging

    from math_verify import LatexExtractionConfig, parse, verify

    logging.disable()
    # What libraries have to say about a strange answer is of use to nobody; a failed import has been shown by now.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    # LaTeX alone: the other extraction of math-verify falls back to any bare number and goes through sympy's `eval`.
    latex = [LatexExtractionConfig()]
    os.write(replies, b"R")
    for line in sys.stdin.buffer:
        gold, answer = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)  # replaces the last one; waiting takes no CPU time
        # Both in a box, so that both are read alike and a single letter is read at all. Not symmetric: gold is first.
        parsed = [parse(f"\\boxed{{{text}}}", latex, parsing_timeout=None) for text in (gold, answer)]
        equal = verify(*parsed, timeout_seconds=None)
        os.write(replies, b"1" if equal else b"0")


if __name__ == "__main__":
    main(float(sys.argv[1]))
