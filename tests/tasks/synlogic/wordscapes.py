"""Wordscapes: a naive rule checker, answers that are almost right, and rows in the published format."""

import json
from typing import Any

from pear.tasks import Problem


def naive(state: dict[str, Any], filled: list[list[str]]) -> bool:
    """The rules as the puzzle states them, by splitting lines at the cells without letters."""
    if [["0" if cell == "0" else "X" for cell in row] for row in filled] != state["grid"]:
        return False
    columns = ["".join(row[at] for row in filled) for at in range(len(filled[0]))]
    rows = ["".join(row) for row in filled]
    return all(
        sorted(part for line in lines for part in line.split("0") if len(part) > 1) == sorted(words)
        for lines, words in ((rows, state["across_words"]), (columns, state["down_words"]))
    )


def near_misses(problem: Problem) -> list[str]:
    filled = json.loads(problem.answer)
    places = [(row, at) for row, line in enumerate(filled) for at, cell in enumerate(line) if cell != "0"]
    empty = next((row, at) for row, line in enumerate(filled) for at, cell in enumerate(line) if cell == "0")

    def changed(place: tuple[int, int], letter: str) -> str:
        grid = [list(row) for row in filled]
        grid[place[0]][place[1]] = letter
        return json.dumps(grid)

    first, last = places[0], places[-1]
    other = "z" if filled[first[0]][first[1]] != "z" else "q"
    return [
        changed(first, other),
        changed(last, "q" if filled[last[0]][last[1]] != "q" else "z"),
        changed(first, "0"),
        changed(last, "X"),
        changed(last, filled[last[0]][last[1]] * 2),
        changed(last, "é"),
        changed(empty, "a"),
        json.dumps(problem.state["grid"]),
        json.dumps(filled[:-1]),
        json.dumps([*filled, filled[-1]]),
        json.dumps([[*row, "0"] for row in filled]),
        json.dumps(["".join(row) for row in filled]),
        json.dumps([[0 if cell == "0" else [cell] for cell in row] for row in filled]),
        json.dumps(problem.state["across_words"]),
    ]


def _game(grid: list[str], across: list[str], down: list[str], **beside: Any) -> dict[str, Any]:
    metadata = {"grid": [list(row) for row in grid], "across_words": across, "down_words": down}
    return {"question": "Wordscapes", "answer": "", "difficulty": 1, "metadata": metadata, "gpt_response": "", **beside}


GAMES: list[dict[str, Any]] = [
    {
        "game": _game(["XXX", "X0X", "XXX"], ["cat", "dog"], ["Cod", "tag"]),
        "right": [
            '[["c", "a", "t"], ["o", "0", "a"], ["d", "o", "g"]]',
            "[[c,a,t],[o,0,a],[d,o,g]]",
            "[['C', 'A', 'T'], ['O', ' ', 'A'], ['D', 'O', 'G']]",
            '```\n[["c","a","t"],\n ["o","","a"],\n ["d","o","g"]]\n```',
            "[[c a t], [o 0 a], [d o g]]",
        ],
        "wrong": [
            "[[c,a,t],[o,x,a],[d,o,g]]",
            "[[c,o,d],[a,0,o],[t,a,g]]",
            "[[c,a,t],[o,0,a],[d,i,g]]",
            "[[c,a,t],[o,0,a]]",
            "cat dog cod tag",
            "[[d,o,g],[o,0,a],[c,a,t]]",
        ],
    },
    {
        # Words side by side, as some published grids have them.
        "game": _game(["XXXX", "XXX0"], ["cat", "ore"], ["co"]),
        "right": ["[[c,a,t,s],[o,r,e,0]]"],
        "wrong": ["[[c,a,r,s],[o,r,e,0]]", "[[x,c,a,t],[o,r,e,0]]", "[[c,a,t,0],[o,r,e,0]]"],
    },
]
