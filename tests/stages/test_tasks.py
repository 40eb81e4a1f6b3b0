"""`pear tasks`, and the page made by it."""

import subprocess
import sys
from pathlib import Path

import pytest

from pear.errors import UserError
from pear.stages.tasks import task_list, task_markdown, task_page
from pear.tasks import TASKS, FileTask
from tests.tasks.near_misses import HAS_REASONING_GYM

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tasks.md"


def pear(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pear", "tasks", *arguments], capture_output=True, text=True, check=False, timeout=120
    )


needs_every_task = pytest.mark.skipif(not HAS_REASONING_GYM, reason="reasoning-gym is not installed")


@needs_every_task
def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == task_markdown(), "run: pear tasks --markdown > docs/tasks.md"


def test_the_list_names_every_task_in_a_line() -> None:
    lines = task_list().splitlines()
    assert [line.split()[0] for line in lines] == list(TASKS)
    survo = next(line for line in lines if line.startswith("synlogic/survo "))
    for words in ("easy, medium, hard", "many solutions", "solver", TASKS["synlogic/survo"].source):
        assert words in survo
    rows = next(line for line in lines if line.startswith("synlogic/rows "))
    assert "reads a file" in rows
    assert "solver" not in rows


@pytest.mark.parametrize("name", TASKS)
def test_a_task_shows_a_problem_of_any_level_and_a_right_answer(name: str) -> None:
    task = TASKS[name]
    page = task_page(name)
    assert page.startswith(f"{name}\n")
    assert task.source in page
    if isinstance(task, FileTask):
        assert f"task={name},path=FILE" in page
        return
    last = task.levels[-1]
    problem = task.generate(3, last)
    shown = task_page(name, level=last, seed=3)
    assert problem.prompt[0]["content"] in shown
    assert shown.endswith(f"A right answer:\n\n{problem.answer}")
    assert all(level in shown for level in task.levels)


def test_knobs_can_be_set() -> None:
    page = task_page("synlogic/survo", level="easy(missing=5)", seed=1)
    assert "synlogic/survo/easy(missing=5)/1" in page
    assert "easy(rows=3, columns=3, missing=4, largest=20)" in page


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("synlogic/surv", {}, "Did you mean 'synlogic/survo'"),
        ("synlogic/survo", {"level": "esy"}, "Did you mean 'easy'"),
        ("synlogic/survo", {"level": "easy(row=3)"}, "Did you mean 'rows'"),
        ("tiny/affine_chain", {"level": "n99"}, "Unknown level of tiny/affine_chain 'n99'"),
        ("maths/gsm8k", {"level": "easy"}, "has no levels and seeds"),
        ("maths/gsm8k", {"seed": 1}, "has no levels and seeds"),
    ],
)
def test_mistakes_are_sentences(name: str, values: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=r"\.$") as raised:
        task_page(name, **values)  # type: ignore[arg-type]
    assert words in str(raised.value)


def test_the_command() -> None:
    assert pear().stdout == task_list() + "\n"
    assert pear("--markdown").stdout == task_markdown()
    shown = pear("synlogic/survo", "--level", "hard", "--seed", "2")
    assert shown.stdout == task_page("synlogic/survo", level="hard", seed=2) + "\n"
    for arguments in (["--seed", "2"], ["synlogic/survo", "--markdown"], ["synlogic/surv"]):
        refused = pear(*arguments)
        assert refused.returncode == 2
        assert len(refused.stderr.strip().splitlines()) == 1
