"""MATH-500, AIME, AMC: a problem and its final answer in two columns, under the names that are about."""

from typing import Any

from pear.tasks.maths.task import MathsTask, Question, read_gold, read_text

_EQUALITY = "equality by math-verify 0.9"


class Math500(MathsTask):
    """Rows with `problem` and `answer`."""

    name = "maths/math500"
    source = f"MATH-500 (arXiv 2305.20050; HuggingFaceH4/MATH-500); {_EQUALITY}"

    def question(self, row: dict[str, Any], where: str) -> Question:
        return _question(row, where)


class Aime24(MathsTask):
    """Rows with `problem` and `answer`."""

    name = "maths/aime24"
    source = f"AIME 2024 (HuggingFaceH4/aime_2024); {_EQUALITY}"

    def question(self, row: dict[str, Any], where: str) -> Question:
        return _question(row, where)


class Aime25(MathsTask):
    """Rows with `problem` and `answer` or `expected_answer`."""

    name = "maths/aime25"
    source = f"AIME 2025 (yentinglin/aime_2025); {_EQUALITY}"

    def question(self, row: dict[str, Any], where: str) -> Question:
        return _question(row, where)


class Amc23(MathsTask):
    """Rows with `problem` (or `question`) and `answer`, a float with no decimals."""

    name = "maths/amc23"
    source = f"AMC 2023 (math-ai/amc23); {_EQUALITY}"

    def question(self, row: dict[str, Any], where: str) -> Question:
        return _question(row, where)


def _question(row: dict[str, Any], where: str) -> Question:
    return Question(
        text=read_text(row, ("problem", "question"), where), gold=read_gold(row, ("answer", "expected_answer"), where)
    )
