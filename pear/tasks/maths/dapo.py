"""DAPO-Math-17k: the published file and its processed variant."""

import re
from typing import Any

from pear.errors import UserError
from pear.tasks.maths.task import MathsTask, Question, gold_text, read_text

# The published prompts ask for a last line "Answer: ..."; ours ask for a box.
_BEFORE = re.compile(
    r"Solve the following math problem step by step\. The last line of your response .*?\n\n", re.DOTALL
)
_AFTER = re.compile(r'\s*Remember to put your answer on its own line after "Answer:"\.\s*\Z')


class Dapo17k(MathsTask):
    """Rows with `prompt` (chat messages, or the problem alone) and `reward_model`, which has `ground_truth`.

    The published prompts' instruction about a line "Answer:" is removed, as the answer belongs into the box. The
    published file has every problem a hundred times: they are one.
    """

    name = "maths/dapo17k"
    source = (
        "DAPO-Math-17k (arXiv 2503.14476; BytedTsinghua-SIA/DAPO-Math-17k, open-r1/DAPO-Math-17k-Processed); equality "
        "by math-verify 0.9"
    )

    def question(self, row: dict[str, Any], where: str) -> Question:
        prompt, reward = row.get("prompt"), row.get("reward_model")
        if isinstance(prompt, list):
            row = {"prompt": _user_text(prompt, where)}
        text = _AFTER.sub("", _BEFORE.sub("", read_text(row, ("prompt",), where), count=1))
        if not isinstance(reward, dict) or reward.get("ground_truth") is None:
            raise UserError(f"{where}: 'reward_model' has no 'ground_truth'. Use the published columns.")
        return Question(
            text=read_text({"prompt": text}, ("prompt",), where),
            gold=gold_text(reward["ground_truth"], f"{where}, 'ground_truth'"),
        )


def _user_text(prompt: list[Any], where: str) -> str:
    texts = [item.get("content") for item in prompt if isinstance(item, dict) and item.get("role") == "user"]
    if len(texts) != 1 or not isinstance(texts[0], str):
        raise UserError(f"{where}: expected one user message with a text in 'prompt', found {len(texts)}.")
    return texts[0]
