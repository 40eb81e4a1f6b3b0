"""Math path: answers that are almost right, and rows in the published format."""

from typing import Any

from pear.tasks import Problem


def near_misses(problem: Problem) -> list[str]:
    puzzle, _, right = problem.state["equation"].partition(" = ")
    gold = problem.answer[2:-2].partition(" = ")[0]
    swapped = {"+": "-", "-": "+", "*": "+", "/": "*", "%": "*"}
    at = next(at for at, character in enumerate(gold) if character in swapped)
    given = [at for at, character in enumerate(puzzle) if character.isdigit()]
    changed = [gold[:at] + str((int(gold[at]) + 1) % 10) + gold[at + 1 :] for at in given]
    hidden = puzzle.index("?")
    return [
        f"[[{problem.state['equation']}]]",
        *(f"[[{text} = {right}]]" for text in changed),
        f"[[{gold} = {int(right) + 1}]]",
        f"[[{gold} + 1 = {int(right) + 1}]]",
        f"[[{gold[:at]}{swapped[gold[at]]}{gold[at + 1 :]} = {right}]]",
        f"[[({gold}) = {right}]]",
        f"[[{gold[:hidden]}({gold[hidden]}){gold[hidden + 1 :]} = {right}]]",
        f"[[{gold[:hidden]}1{gold[hidden:]} = {right}]]",
        f"[[{gold[:hidden]}0{gold[hidden:]} = {right}]]",
        f"[[{gold[:hidden]}-{gold[hidden:]} = {right}]]",
        f"[[{gold[:hidden]}{gold[hidden]}.0{gold[hidden + 1 :]} = {right}]]",
        f"[[{right} = {gold}]]",
        f"[[{gold} = {right} = {right}]]",
        f"[[{gold} == {right}]]",
        f"[[{gold}]]",
        f"[[{right} = {right}]]",
        f"[[{gold} = {right}.0]]",
        f"[[{gold} = +{right}]]",
        f"[{gold} = {right}]",
        f"{gold} = {right}",
        f"[[{gold} = {right}]] [[{gold} = {right}]]",
        f"[['{gold} = {right}']]",
    ]


GAMES: list[dict[str, Any]] = [
    {
        "game": {
            "question": "Restore ?+?*3-? = 10. Put it between [[ and ]].",
            "answer": "2 +4 *3 -4 = 10",
            "difficulty": 1,
            "metadata": {
                "trace_id": "5b1c1f0a-8f8d-4d7e-9d6b-2a4f6f1a0003",
                "ref_expr": "2 +4 *3 -4 = 10",
                "query_expr": "?+?*3-? = 10",
                "n": 3,
                "x_prob": 70,
            },
            "gpt_response": "",
        },
        "right": ["[[2 + 4 * 3 - 4 = 10]]", "[[2+4*3-4=10]]", "[[ 1 + 3 * 3 - 0 = 10 ]]", r"\boxed{[[1+3*3-0=10]]}"],
        "wrong": [
            "[[2 + 4 * 2 - 0 = 10]]",
            "[[(2 + 4) * 3 - 8 = 10]]",
            "[[2 + 4 * 3 - 5 = 10]]",
            "[[2 + 4 * 3 - 4 = 10 = 10]]",
            "[[1 - 3 * 3 + 18 = 10]]",
            "[[10 = 10]]",
        ],
    },
    {
        "game": {
            "question": "Restore (?-9)%?-?/2 = -1.",
            "answer": "",
            "difficulty": 1,
            "metadata": {"query_expr": "(?-9)%?-?/2 = -1"},
            "gpt_response": "",
        },
        # A remainder has the sign of the divisor, and fractions on the way are exact.
        "right": ["[[(8-9)%2-4/2 = -1]]", "[[(9 - 9) % 5 - 2 / 2 = -1]]", "[[(8-9)%3-6/2=-1]]"],
        "wrong": ["[[(8-9)%3-0/2 = -1]]", "[[(8-9)%0-0/2 = -1]]", "[[8-9%3-0/2 = -1]]", "(8-9)%2-4/2 = -1"],
    },
]
