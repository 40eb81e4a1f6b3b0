"""OlympiadBench, the text-only problems with a final answer."""

from typing import Any

from pear.errors import UserError
from pear.tasks.maths.answers import plain_number
from pear.tasks.maths.task import MathsTask, Question, gold_text, read_text

_SEVERAL = "There may be several answers: put all of them into the box, separated by commas."


class OlympiadBench(MathsTask):
    """Rows with `question` and `final_answer` (a list), and `context`, `is_multiple_answer`, `unit` and `error`.

    The parts of an answer are one answer, separated by commas, and all of them are needed; their order counts for
    nothing. The prompt names the unit; an answer may leave it out. `error` is how far a number may be off.
    """

    name = "maths/olympiadbench"
    source = "OlympiadBench (arXiv 2402.14008; Hothan/OlympiadBench, OE_TO_*); equality by math-verify 0.9"

    def question(self, row: dict[str, Any], where: str) -> Question:
        if any(value is not None for name, value in row.items() if name.startswith("image")):
            raise UserError(f"{where}: has an image. Use a text-only part of the data set (OE_TO_...).")
        context, unit = row.get("context"), row.get("unit")
        text = read_text(row, ("question",), where)
        notes = [_SEVERAL] if row.get("is_multiple_answer") is True else []
        if isinstance(unit, str) and unit.strip():
            notes.append(f"Give the answer in this unit, and leave the unit out: {unit.strip()}")
        return Question(
            text=f"{context.strip()}\n\n{text}" if isinstance(context, str) and context.strip() else text,
            gold=_gold(row, where),
            note=" ".join(notes),
            tolerance=_tolerance(row.get("error"), where),
        )


def _gold(row: dict[str, Any], where: str) -> str:
    parts = row.get("final_answer")
    parts = [parts] if isinstance(parts, str) else parts
    if not isinstance(parts, list) or not parts or not all(isinstance(part, str) for part in parts):
        raise UserError(f"{where}: expected 'final_answer' to be a list of texts. Problems to prove have none.")
    return gold_text(", ".join(gold_text(part, f"{where}, 'final_answer'") for part in parts), where)


def _tolerance(value: Any, where: str) -> str:
    if value is None or not str(value).strip():
        return ""
    tolerance = plain_number(str(value).strip())
    if tolerance is None or tolerance.startswith("-"):
        raise UserError(f"{where}: 'error' is not one number from 0, but {str(value)[:40]!r}.")
    return tolerance
