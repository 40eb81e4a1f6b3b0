"""Breaks the code one line at a time; each break must turn a named test red.

`python tests/mutants.py` copies the package and the tests to a temporary folder, applies one break there, runs the
tests that should notice, and fails when one survives.
"""

import concurrent.futures
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """In `file`, `old` (which occurs once) becomes `new`; `tests` must fail."""

    file: str
    old: str
    new: str
    tests: str


RATIOS = {"file": "pear/ops/ratios.py", "tests": "tests/ops"}
MUTANTS: tuple[Mutant, ...] = ()


def survives(mutant: Mutant) -> bool:
    """Whether the named tests still pass with the break in place."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("pear", "tests", "recipes"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        path = copy / mutant.file
        path.write_text(path.read_text().replace(mutant.old, mutant.new))
        result = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not slow and not gpu", mutant.tests],
            cwd=copy,
            env={**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            check=False,
        )
    return result.returncode == 0


def main() -> None:
    for mutant in MUTANTS:
        count = (ROOT / mutant.file).read_text().count(mutant.old)
        if count != 1:
            sys.exit(f"{mutant.file}: the text {mutant.old!r} occurs {count} times, expected once.")
    with concurrent.futures.ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        outcomes = list(pool.map(survives, MUTANTS))
    for mutant, alive in zip(MUTANTS, outcomes, strict=True):
        print(f"{'SURVIVED' if alive else 'killed':9} {mutant.file}: {mutant.old.strip()!r} -> {mutant.new.strip()!r}")
    print(f"{outcomes.count(False)} of {len(MUTANTS)} killed")
    sys.exit(any(outcomes))


if __name__ == "__main__":
    main()
