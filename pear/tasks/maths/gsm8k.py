"""GSM8K: word problems whose answer stands behind `####`."""

from typing import Any

from pear.tasks.maths.task import MathsTask, Question, gold_text, read_gold, read_text


class Gsm8k(MathsTask):
    """Rows with `question` (or `problem`) and `answer`; where an answer has `####`, what follows counts."""

    name = "maths/gsm8k"
    version = 2
    source = "GSM8K (arXiv 2110.14168; openai/gsm8k); equality by math-verify 0.9"

    def question(self, row: dict[str, Any], where: str) -> Question:
        text = read_text(row, ("question", "problem"), where)
        answer = row.get("answer")
        if isinstance(answer, str):
            return Question(text=text, gold=gold_text(answer.rpartition("####")[2], f"{where}, 'answer'"))
        return Question(text=text, gold=read_gold(row, ("answer",), where))
