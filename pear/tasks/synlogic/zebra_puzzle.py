"""Zebra puzzle: who lives where with what, by clues?"""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pear.tasks.extraction import INSTRUCTION, parse_json, unwrap
from pear.tasks.levels import read_level
from pear.tasks.protocol import GeneratedTask, Problem

# A key of _SAYS, and two things; or one thing and a house. Things are numbered category by category.
Clue = list[Any]
_HOUSE = "House"
_CATEGORIES = {
    "Color": ("red", "green", "blue", "white", "yellow", "black"),
    "Name": ("Alice", "Bob", "Carol", "David", "Erin", "Frank"),
    "Pet": ("cat", "dog", "fish", "horse", "parrot", "snail"),
    "Drink": ("tea", "coffee", "milk", "juice", "water", "cocoa"),
    "Job": ("baker", "doctor", "farmer", "lawyer", "painter", "pilot"),
    "Sport": ("tennis", "chess", "golf", "rowing", "skiing", "judo"),
}
_THING = {
    "Color": "the {} house",
    "Name": "{}'s house",
    "Pet": "the house with the {}",
    "Drink": "the house where {} is drunk",
    "Job": "the {}'s house",
    "Sport": "the house of the one who does {}",
}
_SAYS = {
    "at": "{0} is number {1}",
    "not_at": "{0} is not number {1}",
    "same": "{0} is also {1}",
    "different": "{0} is not {1}",
    "left": "{0} is directly to the left of {1}",
    "next": "{0} is next to {1}",
    "before": "{0} is somewhere to the left of {1}",
}


@dataclass(frozen=True, kw_only=True)
class _Knobs:
    houses: int
    categories: int

    def __post_init__(self) -> None:
        if not 2 <= self.houses <= 6:
            raise ValueError("houses are from 2 to 6")
        if not 2 <= self.categories <= len(_CATEGORIES):
            raise ValueError(f"categories are from 2 to {len(_CATEGORIES)}")


_LEVELS = {
    "easy": _Knobs(houses=3, categories=3),
    "medium": _Knobs(houses=4, categories=4),
    "hard": _Knobs(houses=5, categories=5),
}


class ZebraPuzzle(GeneratedTask):
    """Houses in a row, each with one thing of every category; the clues leave one solution.

    SynLogic has no levels for it; these differ in the number of houses and of categories: easy 3, 3; medium 4, 4;
    hard 5, 5. Published problems, whose clues are in free text, are compared with their stored answer.

    The answer is a JSON object with a header, `House` and the categories, and a row for each house; columns and rows
    may stand in any order.
    """

    name = "synlogic/zebra_puzzle"
    knobs = _LEVELS
    levels = tuple(knobs)
    source = (
        "the puzzle of SynLogic's task `zebra_puzzle` (arXiv 2505.19641); generator and verifier are this package's"
    )

    def generate(self, seed: int, level: str) -> Problem:
        knobs = read_level(level, _LEVELS)
        # A text seed goes through sha512, not through hash().
        draw = random.Random(f"{self.name}/{level}/{seed}")
        names = draw.sample(list(_CATEGORIES), knobs.categories)
        categories = [[name, *draw.sample(_CATEGORIES[name], knobs.houses)] for name in names]
        solution = [place for _ in categories for place in draw.sample(range(knobs.houses), knobs.houses)]
        clues = _draw_clues(draw, knobs.houses, solution)
        state = {"houses": knobs.houses, "categories": categories, "clues": clues}
        return Problem(
            task=self.name,
            level=level,
            id=f"{self.name}/{level}/{seed}",
            prompt=({"role": "user", "content": _question(state)},),
            state=state,
            answer=_write(state, solution),
        )

    def check(self, problem: Problem, answer: str) -> tuple[str, str]:
        state = problem.state
        value = parse_json(unwrap(answer))
        if "solution" in state:
            if not isinstance(value, dict):
                raise ValueError("the answer is not a JSON object")
            plain = _plain(value)
            wrong = plain != _plain(state["solution"])
            return json.dumps(plain, sort_keys=True), "it is not the solution" if wrong else ""
        places = _read(value, state)
        broken = [clue for clue in state["clues"] if not _holds(clue, places)]
        return _write(state, places), f"it breaks {len(broken)} of {len(state['clues'])} clues" if broken else ""

    def canonical(self, problem: Problem) -> str:
        """What the order of the clues leaves alone; of a published problem its text."""
        state = problem.state
        if "solution" in state:
            return f"{self.name}:{json.dumps(state['text'], ensure_ascii=False)}"
        clues = sorted(json.dumps(clue) for clue in state["clues"])
        return f"{self.name}:{json.dumps([state['houses'], state['categories'], clues])}"


def from_game(game: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The state and the answer of a published row (`question`, and `answer`, an object or its JSON text). Raises
    `ValueError` where one is missing or has another shape."""
    question, answer = game.get("question"), game.get("answer")
    if not isinstance(question, str) or not question:
        raise ValueError("question is missing")
    solution = parse_json(unwrap(answer)) if isinstance(answer, str) else answer
    if not isinstance(solution, dict) or not solution:
        raise ValueError("answer is not a JSON object")
    return {"text": question, "solution": solution}, json.dumps(solution, ensure_ascii=False)


def _question(state: Mapping[str, Any]) -> str:
    houses = state["houses"]
    things = "\n".join(f"- {name}: {', '.join(sorted(items))}" for name, *items in state["categories"])
    clues = "\n".join(f"{number}. {_said(state, clue)}" for number, clue in enumerate(state["clues"], 1))
    header = json.dumps([_HOUSE, *(name for name, *_ in state["categories"])])
    row = json.dumps([1, *("..." for _ in state["categories"])])
    return (
        f"{INSTRUCTION}\n\n"
        f"There are {houses} houses in a row, numbered 1 to {houses} from left to right. In each category below, every "
        "house has exactly one of the things, and no two houses have the same.\n\n"
        f"{things}\n\n"
        f"Clues:\n{clues}\n\n"
        "Find out what every house has. The answer is a JSON object with a header and one row for each house, like "
        f'{{"header": {header}, "rows": [{row}, ...]}}.'
    )


def _said(state: Mapping[str, Any], clue: Clue) -> str:
    kind, one, other = clue
    words = [_thing(state, one), str(other + 1) if kind in ("at", "not_at") else _thing(state, other)]
    text = _SAYS[kind].format(*words)
    return f"{text[0].upper()}{text[1:]}."


def _thing(state: Mapping[str, Any], number: int) -> str:
    category, item = divmod(number, state["houses"])
    name, *items = state["categories"][category]
    return _THING[name].format(items[item])


def _write(state: Mapping[str, Any], places: Sequence[int]) -> str:
    houses = state["houses"]
    rows: list[list[Any]] = [[house + 1] for house in range(houses)]
    for category, (_, *items) in enumerate(state["categories"]):
        for item, text in enumerate(items):
            rows[places[category * houses + item]].append(text)
    return json.dumps({"header": [_HOUSE, *(name for name, *_ in state["categories"])], "rows": rows})


def _read(value: Any, state: Mapping[str, Any]) -> list[int]:
    """The house of each thing. Raises `ValueError` where the answer is no full table of them."""
    houses = state["houses"]
    if not isinstance(value, dict) or value.keys() != {"header", "rows"}:
        raise ValueError('the answer is not a JSON object with "header" and "rows"')
    header, rows = value["header"], value["rows"]
    names = [name for name, *_ in state["categories"]]
    if not isinstance(header, list) or sorted(map(str, header)) != sorted([_HOUSE, *names]):
        raise ValueError("the header is not House and the categories")
    if not isinstance(rows, list) or len(rows) != houses:
        raise ValueError(f"there are not {houses} rows")
    places: dict[int, int] = {}
    seen = set()
    for row in rows:
        if not isinstance(row, list) or len(row) != len(header):
            raise ValueError("a row has another length than the header")
        cells = dict(zip(header, row, strict=True))
        house = cells[_HOUSE]
        if isinstance(house, bool) or str(house) not in {str(number + 1) for number in range(houses)}:
            raise ValueError("a house is not one of the numbers")
        seen.add(str(house))
        for category, (name, *items) in enumerate(state["categories"]):
            if cells[name] not in items:
                raise ValueError(f"a cell of {name} is none of its things")
            places[category * houses + items.index(cells[name])] = int(house) - 1
    if len(seen) != houses or len(places) != houses * len(names):
        raise ValueError("a house or a thing is there twice")
    return [places[number] for number in range(len(places))]


def _plain(value: Any) -> Any:
    """A JSON value whose texts are in lower case without spaces around them."""
    if isinstance(value, dict):
        return {str(key).strip().casefold(): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return value.strip().casefold() if isinstance(value, str) else value


def _holds(clue: Clue, places: Sequence[int]) -> bool:
    kind, one, other = clue
    return bool(_allowed(kind, places[one]) >> (other if kind in ("at", "not_at") else places[other]) & 1)


def _allowed(kind: str, place: int) -> int:
    """Where the other one of a clue may be if the first is at `place`; bits, of which there may be too many."""
    here = 1 << place
    beyond = -1 << place + 1
    return {
        "at": here,
        "not_at": ~here,
        "same": here,
        "different": ~here,
        "left": here << 1,
        "next": here << 1 | here >> 1,
        "before": beyond,
    }[kind]


def _draw_clues(draw: random.Random, houses: int, solution: Sequence[int]) -> list[Clue]:
    """True clues, drawn until nothing else agrees with them: each new one is broken by what the others still allow."""
    numbers = range(len(solution))
    clues: list[Clue] = []
    while (other := _another(houses, solution, clues)) is not None:
        while True:
            kind = draw.choice(list(_SAYS))
            one = draw.choice(numbers)
            partner = draw.randrange(houses) if kind in ("at", "not_at") else draw.choice(numbers)
            apart = kind in ("at", "not_at") or one // houses != partner // houses
            clue = [kind, one, partner]
            if apart and _holds(clue, solution) and not _holds(clue, other):
                break
        clues.append(clue)
    draw.shuffle(clues)
    return clues


def _another(houses: int, solution: Sequence[int], clues: Sequence[Clue]) -> list[int] | None:
    """Another way than `solution` to place all things by the clues, or None. Domains of places are bits."""
    everywhere = (1 << houses) - 1
    domains = [everywhere] * len(solution)
    links: list[tuple[int, int, list[int]]] = []
    for kind, one, other in clues:
        forward = [_allowed(kind, place) & everywhere for place in range(houses)]
        if kind in ("at", "not_at"):
            domains[one] &= forward[other]
            continue
        backward = [
            sum(1 << place for place in range(houses) if forward[place] >> target & 1) for target in range(houses)
        ]
        links += [(one, other, forward), (other, one, backward)]

    def settle(domains: list[int]) -> bool:
        """Narrows domains as far as single clues and categories do; False where one is empty."""
        changed = True
        while changed:
            before = list(domains)
            for one, other, allowed in links:
                domains[other] &= _union(allowed, domains[one])
            for start in range(0, len(domains), houses):
                _narrow(domains, range(start, start + houses), everywhere)
            if not all(domains):
                return False
            changed = domains != before
        return True

    def search(domains: list[int]) -> list[int] | None:
        if not settle(domains):
            return None
        open_ones = [number for number, domain in enumerate(domains) if domain & domain - 1]
        if not open_ones:
            places = [domain.bit_length() - 1 for domain in domains]
            return places if places != list(solution) else None
        number = min(open_ones, key=lambda item: domains[item].bit_count())
        # The solution's own place last: another solution, where there is one, is found sooner.
        for place in sorted(range(houses), key=lambda place: place == solution[number]):
            if not domains[number] >> place & 1:
                continue
            narrowed = list(domains)
            narrowed[number] = 1 << place
            if (found := search(narrowed)) is not None:
                return found
        return None

    return search(domains)


def _union(allowed: Sequence[int], domain: int) -> int:
    found = 0
    for place, bits in enumerate(allowed):
        if domain >> place & 1:
            found |= bits
    return found


def _narrow(domains: list[int], numbers: Sequence[int], everywhere: int) -> None:
    """A thing that can be in one place alone is there, and one that alone can be in a place."""
    for number in numbers:
        if domains[number] and not domains[number] & domains[number] - 1:
            for other in numbers:
                if other != number:
                    domains[other] &= ~domains[number]
    once = twice = 0
    for number in numbers:
        twice |= once & domains[number]
        once |= domains[number]
    if once != everywhere:
        domains[numbers[0]] = 0
        return
    for number in numbers:
        if domains[number] & once & ~twice:
            domains[number] &= once & ~twice
