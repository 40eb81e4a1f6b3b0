"""The reward of GRPO: the verifier's word on the completion's own token ids."""

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from pear.data.rendering import decode_completion
from pear.tasks import TASKS, Problem
from pear.tasks.protocol import Tags

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

RewardFunction = Callable[..., list[float | None]]


def verifier_reward(
    tokenizer: "PreTrainedTokenizerBase", stop_ids: Collection[int] | None = None, tags: Tags = "strict"
) -> RewardFunction:
    """A reward function for `trl.GRPOTrainer`: 1.0 where the task's verifier says the completion is correct, else 0.0.

    It reads the columns `task` and `problem` (JSON text of a `Problem`) and decodes `completion_ids` itself. TRL's own
    text of a completion leaves special tokens out; where the tags are special tokens, every reward would be 0.

    Args:
        tokenizer: the one that the ids are of.
        stop_ids: ids that end a completion; the tokenizer's EOS where none are given.
        tags: strict asks for a right answer in the format; lenient for a right answer wherever it is found.

    Returns:
        A function named `verifier`, so that TRL logs `rewards/verifier/mean`. No completion makes it raise.
    """

    # TRL passes every column and more than that by keyword; what is not named here is not needed.
    def verifier(
        *, task: Sequence[str], problem: Sequence[str], completion_ids: Sequence[Sequence[int]], **_: object
    ) -> list[float | None]:
        problems = {text: Problem.from_json(text) for text in dict.fromkeys(problem)}
        texts = [decode_completion(tokenizer, ids, stop_ids) for ids in completion_ids]
        rewards: list[float | None] = [0.0] * len(texts)
        for name in dict.fromkeys(task):
            rows = [row for row, other in enumerate(task) if other == name]
            verdicts = TASKS[name].verify_many([problems[problem[row]] for row in rows], [texts[row] for row in rows])
            for row, verdict in zip(rows, verdicts, strict=True):
                rewards[row] = float(verdict.by(tags).correct)
        return rewards

    return verifier
