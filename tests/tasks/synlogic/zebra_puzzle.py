"""Zebra puzzle: answers that are almost right, and rows in the published format."""

import json
from typing import Any

from pear.tasks import Problem


def near_misses(problem: Problem) -> list[str]:
    gold = json.loads(problem.answer)
    header, rows = gold["header"], gold["rows"]

    def swapped(column: int, one: int, other: int) -> list[list[Any]]:
        copies = [list(row) for row in rows]
        copies[one][column], copies[other][column] = copies[other][column], copies[one][column]
        return copies

    wrong: list[Any] = [
        *({"header": header, "rows": swapped(column, 0, 1)} for column in range(len(header))),
        *({"header": header, "rows": swapped(column, 0, -1)} for column in range(len(header))),
        {"header": header, "rows": rows[:-1]},
        {"header": header, "rows": [*rows, rows[0]]},
        {"header": header, "rows": [rows[0], *rows[:-1]]},
        {"header": header, "rows": [[house, *["..."] * (len(header) - 1)] for house, *_ in rows]},
        {"header": header, "rows": [row[:-1] for row in rows]},
        {"header": header, "rows": [[0, *row[1:]] for row in rows]},
        {"header": header, "rows": [[True, *row[1:]] if row[0] == 1 else row for row in rows]},
        {"header": [*header[:-1], "Planet"], "rows": rows},
        {"header": [header[0], header[2], header[1], *header[3:]], "rows": rows},
        {"header": header},
        {"rows": rows},
        {"header": header, "rows": rows, "note": "x"},
        rows,
        [gold],
        {"header": header, "rows": {str(row[0]): row for row in rows}},
    ]
    return [json.dumps(value) for value in wrong]


def _game(answer: Any) -> dict[str, Any]:
    return {"question": "Who owns the zebra?", "answer": answer, "difficulty": 1, "metadata": {}, "gpt_response": ""}


_TABLE = {"header": ["House", "Name"], "rows": [["1", "Arnold"], ["2", "Peter"]]}
GAMES: list[dict[str, Any]] = [
    {
        "game": _game(_TABLE),
        "right": [
            '{"header": ["House", "Name"], "rows": [["1", "Arnold"], ["2", "Peter"]]}',
            '```json\n{"rows": [["1", "arnold"], ["2", "PETER"]], "header": ["House", "Name"]}\n```',
        ],
        "wrong": [
            '{"header": ["House", "Name"], "rows": [["1", "Peter"], ["2", "Arnold"]]}',
            '{"header": ["House", "Name"], "rows": [["1", "Arnold"]]}',
            '{"header": ["House", "Name"], "rows": [[1, "Arnold"], [2, "Peter"]]}',
            '[["1", "Arnold"], ["2", "Peter"]]',
            '{"header": ["House", "Name"]}',
        ],
    },
    {
        "game": _game('{"zebra": "Japanese", "water": "Norwegian"}'),
        "right": ['{"zebra": "Japanese", "water": "Norwegian"}', '{"water": "norwegian", "Zebra": "japanese "}'],
        "wrong": ['{"zebra": "Japanese"}', '{"zebra": "Norwegian", "water": "Japanese"}', "Japanese", "{}"],
    },
]
