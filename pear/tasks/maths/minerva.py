r"""Minerva's problems of undergraduate courses: the answer is the box of the solution."""

import re
from typing import Any

from pear.errors import UserError
from pear.tasks.extraction import last_box
from pear.tasks.maths.task import MathsTask, Question, gold_text, read_gold, read_text

# As in np.arcsin(10/13): some solutions are written for numpy.
_NUMPY = re.compile(r"\bnp\.(?=[a-z]+\()")


class Minerva(MathsTask):
    r"""Rows with `problem` and `solution`, whose last `\boxed{}` is the answer; or with `problem` and `answer`."""

    name = "maths/minerva"
    source = "OCWCourses of Minerva (arXiv 2206.14858); equality by math-verify 0.9"

    def question(self, row: dict[str, Any], where: str) -> Question:
        text = read_text(row, ("problem", "question"), where)
        if row.get("answer") is not None:
            return Question(text=text, gold=read_gold(row, ("answer",), where))
        box = last_box(read_text(row, ("solution", "answer"), where))
        if box is None:
            raise UserError(f"{where}: 'solution' holds no \\boxed{{}}. Put the final answer into one.")
        return Question(text=text, gold=gold_text(_NUMPY.sub(r"\\", box), f"{where}, 'solution'"))
