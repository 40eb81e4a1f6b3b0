"""Space reasoning: answers that are almost right, and rows in the published format."""

from typing import Any

from pear.tasks import Problem


def near_misses(problem: Problem) -> list[str]:
    state = problem.state
    target = state["target"]
    others = sorted(set(state["signs"]) - {target})
    return [
        *(rf"\boxed{{{other}}}" for other in others[:6]),
        others[0],
        rf"\boxed{{{target}, {others[0]}}}",
        rf"\boxed{{{target}s}}",
        rf"\boxed{{{target[:-1]}}}",
        rf"\boxed{{the {target}}}",
        rf"\boxed{{{target}}} or \boxed{{{others[0]}}}",
        rf"\boxed{{{target[::-1]}x}}",
        r"\boxed{}",
        f"{target} {target}",
    ]


def _game(answer: str) -> dict[str, Any]:
    metadata = {"shape": "square", "language": "en", "num_waypoints": 3, "unknown_node_num": 1, "n": 3}
    return {
        "question": "What do you find?",
        "answer": answer,
        "difficulty": 1,
        "metadata": metadata,
        "gpt_response": "",
    }


GAMES: list[dict[str, Any]] = [
    {
        "game": _game("brown bear"),
        "right": [r"\boxed{brown bear}", r"\boxed{Brown Bear}", r"You find \boxed{brown bear}.", "brown bear"],
        "wrong": [r"\boxed{bear}", r"\boxed{brown bear, otter}", "brownbear", r"\boxed{otter}"],
    },
    {
        "game": _game(r"\boxed{苹果}"),
        "right": [r"\boxed{苹果}", "苹果"],
        "wrong": [r"\boxed{梨}", r"\boxed{苹果梨}"],
    },
]
