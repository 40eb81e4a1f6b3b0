"""Tasks: problems and verifiers. One file per task, one line here."""

from pear.tasks.maths.gsm8k import Gsm8k
from pear.tasks.protocol import FileTask, GeneratedTask, Problem, Task, Verdict
from pear.tasks.synlogic.survo import Survo
from pear.tasks.synlogic.word_sorting import WordSorting
from pear.tasks.tiny.affine_chain import AffineChain
from pear.tasks.tiny.permutation_chain import PermutationChain

TASKS: dict[str, GeneratedTask | FileTask] = {
    "tiny/affine_chain": AffineChain(),
    "tiny/permutation_chain": PermutationChain(),
    "synlogic/survo": Survo(),
    "synlogic/word_sorting": WordSorting(),
    "maths/gsm8k": Gsm8k(),
}

__all__ = ["TASKS", "FileTask", "GeneratedTask", "Problem", "Task", "Verdict"]
