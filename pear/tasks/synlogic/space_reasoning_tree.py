"""Space reasoning in a tree: who are the cousins of a node that is known only from what is told about its family?"""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pear.tasks.extraction import INSTRUCTION
from pear.tasks.levels import read_level
from pear.tasks.protocol import GeneratedTask, Problem
from pear.tasks.synlogic.boxed import box, published_text, read_names
from pear.tasks.synlogic.words import WORDS

# A fact: of which node what is told (children, grandchildren or siblings), and these nodes.
Fact = dict[str, Any]
_RELATIONS = ("children", "grandchildren", "siblings")


@dataclass(frozen=True, kw_only=True)
class _Knobs:
    nodes: int
    children: int
    facts: int

    def __post_init__(self) -> None:
        if not 8 <= self.nodes <= 300:
            raise ValueError("nodes must be from 8 to 300")
        if not 2 <= self.children <= 6:
            raise ValueError("children must be from 2 to 6")
        if not 0 <= self.facts <= 150:
            raise ValueError("facts must be from 0 to 150")


_LEVELS = {
    "easy": _Knobs(nodes=12, children=3, facts=4),
    "medium": _Knobs(nodes=40, children=4, facts=15),
    "hard": _Knobs(nodes=150, children=5, facts=60),
}


class SpaceReasoningTree(GeneratedTask):
    """Names all cousins of a node of a tree: the children of the siblings of its parent.

    Levels differ in the number of nodes, the most children of a node, and the facts beside those that are needed:
    easy 12, 3, 4; medium 40, 4, 15; hard 150, 5, 60.

    The answer is `\\boxed{}` around the names, separated by commas, each once, in any order.
    """

    name = "synlogic/space_reasoning_tree"
    knobs = _LEVELS
    levels = tuple(knobs)
    source = "the rules of SynLogic's task `space_reasoning_tree` (arXiv 2505.19641); texts, trees are this package's"

    def generate(self, seed: int, level: str) -> Problem:
        knobs = read_level(level, _LEVELS)
        # A text seed goes through sha512, not through hash().
        draw = random.Random(f"{self.name}/{level}/{seed}")
        parents: dict[str, str] = {}
        targets: list[str] = []
        while not targets:
            parents = _draw_tree(draw, knobs)
            targets = [node for node in parents if _cousins(parents, node)]
        target = draw.choice(targets)
        facts = _needed_facts(draw, parents, target) + _further_facts(draw, parents, knobs.facts)
        draw.shuffle(facts)
        cousins = sorted(_cousins(parents, target))
        state = {"facts": facts, "target": target, "cousins": cousins}
        return Problem(
            task=self.name,
            level=level,
            id=f"{self.name}/{level}/{seed}",
            prompt=({"role": "user", "content": _question(state)},),
            state=state,
            answer=box(", ".join(cousins)),
        )

    def check(self, problem: Problem, answer: str) -> tuple[str, str]:
        names = sorted(" ".join(name.split()) for name in read_names(answer))
        if len(set(names)) < len(names):
            raise ValueError("a name stands twice")
        return ", ".join(names), "" if names == problem.state["cousins"] else "these are not the cousins"

    def canonical(self, problem: Problem) -> str:
        """The facts, in order, and the node asked for; of a published problem its text."""
        state = problem.state
        if "text" in state:
            return f"{self.name}:{json.dumps(state['text'], ensure_ascii=False)}"
        facts = sorted({json.dumps([fact["node"], fact["relation"], sorted(fact["nodes"])]) for fact in state["facts"]})
        return f"{self.name}:{json.dumps([facts, state['target']])}"

    def solve(self, problem: Problem) -> str | None:
        state = problem.state
        if "text" in state:
            return None
        target, facts = state["target"], state["facts"]
        own = next(fact for fact in facts if fact["relation"] == "children" and target in fact["nodes"])
        steps = [f"The parent of {target} is {own['node']}."]
        above = [fact for fact in facts if fact["relation"] == "grandchildren" and target in fact["nodes"]]
        if above:
            steps.append(f"The grandchildren of {above[0]['node']} are {', '.join(above[0]['nodes'])}.")
            steps.append(f"Without the children of {own['node']}, {', '.join(own['nodes'])}, the cousins are left.")
        else:
            family = next(fact for fact in facts if fact["relation"] == "children" and own["node"] in fact["nodes"])
            steps.append(f"The children of {family['node']} are {', '.join(family['nodes'])}.")
            for aunt in family["nodes"]:
                if aunt != own["node"]:
                    told = next(fact for fact in facts if (fact["node"], fact["relation"]) == (aunt, "children"))
                    steps.append(f"{aunt}: {', '.join(told['nodes']) or 'no children'}.")
        return f"<think> {' '.join(steps)} </think> <answer> {problem.answer} </answer>"


def from_game(game: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The state and the answer of a published row (`question`, and `answer` as names apart by commas). Raises
    `ValueError` where a field is missing or has another shape."""
    names = sorted({" ".join(name.split()) for name in read_names(published_text(game, "answer"))})
    return {"text": published_text(game, "question"), "cousins": names}, box(", ".join(names))


def _draw_tree(draw: random.Random, knobs: _Knobs) -> dict[str, str]:
    """The parent of each node but the root, whose children come first; nobody has more children than the knobs say."""
    root, *names = draw.sample(WORDS, knobs.nodes)
    parents: dict[str, str] = {}
    open_nodes = [root]
    while names:
        node = open_nodes.pop(draw.randrange(min(2, len(open_nodes))))
        fewest = 2 if node == root or not open_nodes else 0
        children = names[: draw.randint(fewest, knobs.children)]
        names = names[len(children) :]
        parents |= dict.fromkeys(children, node)
        open_nodes += children
    return parents


def _children(parents: Mapping[str, str], node: str) -> list[str]:
    return [child for child, parent in parents.items() if parent == node]


def _related(parents: Mapping[str, str], node: str, relation: str) -> list[str]:
    if relation == "children":
        return _children(parents, node)
    if relation == "grandchildren":
        return [child for child, parent in parents.items() if parents.get(parent) == node]
    return [other for other in _children(parents, parents[node]) if other != node] if node in parents else []


def _cousins(parents: Mapping[str, str], node: str) -> list[str]:
    parent = parents[node]
    if parent not in parents:
        return []
    family = _related(parents, parents[parent], "grandchildren")
    return [other for other in family if parents[other] != parent]


def _fact(draw: random.Random, parents: Mapping[str, str], node: str, relation: str) -> Fact:
    nodes = _related(parents, node, relation)
    return {"node": node, "relation": relation, "nodes": draw.sample(nodes, len(nodes))}


def _needed_facts(draw: random.Random, parents: Mapping[str, str], target: str) -> list[Fact]:
    """Enough to know the cousins: either all grandchildren of the grandparent and the children of the parent, or the
    children of the grandparent and the children of each of these."""
    parent = parents[target]
    grandparent = parents[parent]
    if draw.random() < 0.5:
        return [_fact(draw, parents, grandparent, "grandchildren"), _fact(draw, parents, parent, "children")]
    nodes = [grandparent, *_children(parents, grandparent)]
    return [_fact(draw, parents, node, "children") for node in nodes]


def _further_facts(draw: random.Random, parents: Mapping[str, str], count: int) -> list[Fact]:
    nodes = [*dict.fromkeys([*parents.values(), *parents])]
    return [_fact(draw, parents, draw.choice(nodes), draw.choice(_RELATIONS)) for _ in range(count)]


def _question(state: Mapping[str, Any]) -> str:
    told = " ".join(
        f"The {fact['relation']} of {fact['node']}: {', '.join(fact['nodes']) or 'none'}." for fact in state["facts"]
    )
    return (
        f"{INSTRUCTION}\n\n"
        "The nodes of a tree have words as names. Grandchildren are the children of a node's children. Siblings are "
        "the other children of a node's parent. Cousins are the children of the siblings of a node's parent. Each of "
        "these facts names all nodes of its kind:\n\n"
        f"{told}\n\n"
        f"Which nodes are the cousins of {state['target']}? Name all of them.\n\n"
        f"The answer is their names, separated by commas, in \\boxed{{}}: {box('first name, second name')}."
    )
