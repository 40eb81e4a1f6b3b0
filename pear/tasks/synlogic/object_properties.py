"""Object properties: a collection changes by rules about color, size and the like; how many things fit in the end?"""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pear.tasks.extraction import INSTRUCTION
from pear.tasks.levels import read_level
from pear.tasks.protocol import GeneratedTask, Problem
from pear.tasks.synlogic.boxed import box, published_text, read_count
from pear.tasks.synlogic.grids import digits

Item = dict[str, str]
# A change: what happens, to the items of which property and value, and the new values by property.
Change = dict[str, Any]
_VALUES = {
    "color": ("red", "blue", "green", "black", "white", "yellow", "brown", "purple"),
    "size": ("tiny", "small", "medium", "large", "huge", "gigantic", "narrow", "wide"),
    "material": ("glass", "steel", "wood", "paper", "rubber", "leather", "silver", "clay"),
    "origin": ("Turkey", "France", "Japan", "Brazil", "Canada", "Kenya", "Poland", "Peru"),
    "smell": ("coffee", "garlic", "vanilla", "roses", "vinegar", "lavender", "cocoa", "smoke"),
}
_PROPERTIES = tuple(_VALUES)
_NAMES = ("pen", "ball", "bag", "key", "vase", "brush", "lamp", "bowl", "clock", "plate", "fork", "ruler", "whistle")
_KINDS = ("lose", "change", "copy", "unseen")
_MAX_ITEMS = 30
_TRIES_PER_CHANGE = 20


@dataclass(frozen=True, kw_only=True)
class _Knobs:
    items: int
    features: int
    changes: int

    def __post_init__(self) -> None:
        if not 4 <= self.items <= _MAX_ITEMS:
            raise ValueError(f"items must be from 4 to {_MAX_ITEMS}")
        if not 2 <= self.features <= 8:
            raise ValueError("features must be from 2 to 8")
        if not 1 <= self.changes <= 8:
            raise ValueError("changes must be from 1 to 8")


_LEVELS = {
    "easy": _Knobs(items=5, features=3, changes=1),
    "medium": _Knobs(items=10, features=4, changes=3),
    "hard": _Knobs(items=16, features=5, changes=5),
}


class ObjectProperties(GeneratedTask):
    """Counts the things of a collection that have one of some properties, after the collection has changed.

    Levels differ in the number of things, of values that each property takes, and of changes: easy 5, 3, 1;
    medium 10, 4, 3; hard 16, 5, 5. Things are lost, get other properties, or get copies.

    The answer is `\\boxed{}` around the number.
    """

    name = "synlogic/object_properties"
    knobs = _LEVELS
    levels = tuple(knobs)
    source = "the rules of SynLogic's task `object_properties` (arXiv 2505.19641); texts, generator are this package's"

    def generate(self, seed: int, level: str) -> Problem:
        knobs = read_level(level, _LEVELS)
        # A text seed goes through sha512, not through hash().
        draw = random.Random(f"{self.name}/{level}/{seed}")
        while True:
            values = {key: draw.sample(choices, knobs.features) for key, choices in _VALUES.items()}
            items = [_draw_item(draw, values) for _ in range(knobs.items)]
            changes, collection = _draw_changes(draw, values, items, knobs.changes)
            asked = [[key, draw.choice(values[key])] for key in draw.sample(_PROPERTIES, 2)]
            count = _count(collection, asked)
            if len(changes) == knobs.changes and 1 < count < len(collection) <= 2 * _MAX_ITEMS:
                break
        state = {"items": items, "changes": changes, "asked": asked, "count": count}
        return Problem(
            task=self.name,
            level=level,
            id=f"{self.name}/{level}/{seed}",
            prompt=({"role": "user", "content": _question(state)},),
            state=state,
            answer=box(str(count)),
        )

    def check(self, problem: Problem, answer: str) -> tuple[str, str]:
        count = read_count(answer)
        return str(count), "" if count == problem.state["count"] else "the number is wrong"

    def canonical(self, problem: Problem) -> str:
        """The things and what is asked for, each in order, and the changes; of a published problem its text."""
        state = problem.state
        if "text" in state:
            return f"{self.name}:{json.dumps(state['text'], ensure_ascii=False)}"
        items = sorted(json.dumps(item, sort_keys=True) for item in state["items"])
        return f"{self.name}:{json.dumps([items, state['changes'], sorted(state['asked'])], sort_keys=True)}"

    def solve(self, problem: Problem) -> str | None:
        state = problem.state
        if "text" in state:
            return None
        items = state["items"]
        steps = [f"At first {len(items)} things."]
        for number, change in enumerate(state["changes"], 1):
            after = _changed(items, state["items"], change)
            gone, come = _missing(items, after), _missing(after, items)
            parts = [f"{word}: {_list(part)}" for word, part in (("gone", gone), ("new", come)) if part]
            steps.append(f"Change {number}: {', '.join(parts)}. So {len(after)} things.")
            items = after
        fitting = [item for item in items if _count([item], state["asked"])]
        steps.append(f"Fitting: {_list(fitting)}. That makes {len(fitting)}.")
        return f"<think> {' '.join(steps)} </think> <answer> {problem.answer} </answer>"


def from_game(game: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The state and the answer of a published row (`question`, and `answer` as digits). Raises `ValueError` where a
    field is missing or has another shape."""
    answer = game.get("answer")
    count = answer if type(answer) is int and answer >= 0 else digits(published_text(game, "answer"))
    return {"text": published_text(game, "question"), "count": count}, box(str(count))


def _draw_item(draw: random.Random, values: Mapping[str, list[str]]) -> Item:
    return {"name": draw.choice(_NAMES), **{key: draw.choice(choices) for key, choices in values.items()}}


def _draw_changes(
    draw: random.Random, values: Mapping[str, list[str]], items: list[Item], count: int
) -> tuple[list[Change], list[Item]]:
    """Changes that each change something, and the collection after them; fewer where that did not work out."""
    changes: list[Change] = []
    collection = items
    for _ in range(_TRIES_PER_CHANGE * count):
        if len(changes) == count:
            break
        change = _draw_change(draw, values)
        after = _changed(collection, items, change)
        if after != collection:
            changes.append(change)
            collection = after
    return changes, collection


def _draw_change(draw: random.Random, values: Mapping[str, list[str]]) -> Change:
    kind = draw.choice(_KINDS)
    if kind == "unseen":
        return {"kind": kind, "pair": draw.sample(_PROPERTIES, 2)}
    key = draw.choice(_PROPERTIES)
    change: Change = {"kind": kind, "key": key, "value": draw.choice(values[key])}
    if kind != "lose":
        others = draw.sample([other for other in _PROPERTIES if other != key], draw.randint(1, 2))
        change["new"] = {other: draw.choice(values[other]) for other in others}
    return change


def _missing(items: list[Item], others: list[Item]) -> list[Item]:
    """The items that the others lack, equal ones counted one by one."""
    left = list(others)
    missing = []
    for item in items:
        if item in left:
            left.remove(item)
        else:
            missing.append(item)
    return missing


def _changed(items: list[Item], first: list[Item], change: Change) -> list[Item]:
    if change["kind"] == "unseen":
        one, other = change["pair"]
        seen = {(item[one], item[other]) for item in first}
        return items + [dict(item) for item in items if (item[one], item[other]) not in seen]
    meant = [item[change["key"]] == change["value"] for item in items]
    if change["kind"] == "lose":
        return [item for item, lost in zip(items, meant, strict=True) if not lost]
    new = [{**item, **change["new"]} if is_meant else item for item, is_meant in zip(items, meant, strict=True)]
    if change["kind"] == "change":
        return new
    return items + [item for item, is_meant in zip(new, meant, strict=True) if is_meant]


def _count(items: list[Item], asked: list[list[str]]) -> int:
    return sum(any(item[key] == value for key, value in asked) for item in items)


def _describe(item: Item) -> str:
    return f"{item['size']} {item['color']} {item['name']} of {item['material']} from {item['origin']}, {item['smell']}"


def _list(items: list[Item]) -> str:
    return "; ".join(map(_describe, items))


def _having(key: str, value: str) -> str:
    return {"smell": f"the smell {value}", "origin": f"the origin {value}"}.get(key, f"the {key} {value}")


def _told(change: Change) -> str:
    if change["kind"] == "unseen":
        one, other = change["pair"]
        return (
            f"everything whose {one} and {other}, taken together, occur in no thing of the collection as it was at "
            "first gets an exact copy, which joins the collection"
        )
    which = f"everything with {_having(change['key'], change['value'])}"
    if change["kind"] == "lose":
        return f"{which} is lost"
    new = " and ".join(_having(key, value) for key, value in change["new"].items())
    if change["kind"] == "change":
        return f"{which} is changed to have {new}; all else about it stays"
    return f"for {which}, a copy joins the collection that has {new} and is otherwise the same"


def _question(state: Mapping[str, Any]) -> str:
    items = "\n".join(
        f"- a {item['name']}: {', '.join(f'{key} {item[key]}' for key in _PROPERTIES)}" for item in state["items"]
    )
    changes = "\n".join(f"{number}. {_told(change)}." for number, change in enumerate(state["changes"], 1))
    asked = " or ".join(_having(key, value) for key, value in state["asked"])
    return (
        f"{INSTRUCTION}\n\n"
        "I have a collection of things. Things that are equal in everything still count one by one.\n\n"
        f"{items}\n\n"
        "Then this happens, one after the other, each to the collection as it is at that moment:\n\n"
        f"{changes}\n\n"
        f"How many things of my collection now have {asked} (or both)?\n\n"
        f"The answer is the number in \\boxed{{}}: if it were 1, {box('1')}."
    )
