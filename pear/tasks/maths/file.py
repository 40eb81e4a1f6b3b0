"""Any other file of mathematical problems: the user names the two columns."""

from dataclasses import dataclass
from typing import Any

from pear.tasks.maths.task import MathsTask, Question, read_gold, read_text


@dataclass(frozen=True)
class MathsFile(MathsTask):
    """Rows with a problem and its final answer.

    Args:
        problem_column: the column that holds the problem.
        answer_column: the column that holds the final answer alone, as text or number.
    """

    problem_column: str = "problem"
    answer_column: str = "answer"

    name = "maths/file"
    source = "a file of the user's (`problem_column`, `answer_column`); equality by math-verify 0.9"

    def with_columns(self, problem: str | None, answer: str | None) -> "MathsFile":
        return MathsFile(problem or self.problem_column, answer or self.answer_column)

    def question(self, row: dict[str, Any], where: str) -> Question:
        return Question(
            text=read_text(row, (self.problem_column,), where), gold=read_gold(row, (self.answer_column,), where)
        )
