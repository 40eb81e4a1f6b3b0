"""The nodes of a plan: named by what they compute, so that equal ones are one."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pear.configuration import StrictModel
from pear.engines.protocol import derive_seed
from pear.errors import UserError
from pear.models import resolve_model
from pear.runs import canonical_json, input_fingerprint, read_manifest, sha256
from pear.stages import STAGES, load_stage
from pear.stages.analyze import AnalyzeConfig, problem_files, versions
from pear.stages.collect import CollectConfig
from pear.study.graph import Node, Role, Use
from pear.tasks import Problem
from pear.tasks.problems import ProblemSet, load_problems, task_files, task_versions

RUNS = "runs"
_KEY_DIGITS = 10
# What the study sets itself, by stage: in the file these would be ignored or break the comparison.
_SET_BY_STUDY: dict[str, frozenset[str]] = {
    "pretrain": frozenset({"seed", "output_dir"}),
    "collect": frozenset({"output_dir"}),
    "sft": frozenset({"model", "buffer", "objective", "objective_kwargs", "seed", "output_dir"}),
    "grpo": frozenset({"model", "problems", "checkpoint_steps", "seed", "output_dir"}),
    "evaluate": frozenset({"model", "problems", "output_dir"}),
    "rescale": frozenset(),
    "analyze": frozenset(),
}


@dataclass(frozen=True, kw_only=True)
class Source:
    """An input of a stage: its path (or model name), what identifies it, and the node that makes it, if one does."""

    path: str
    key: str
    node: str | None = None


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A (base, seed) pair."""

    base: str
    seed: int
    model: Source

    @property
    def label(self) -> str:
        """For people."""
        return f"{short_name(self.base)} seed {self.seed}"

    def use(self, arm: str | None, role: Role, rl_step: int | None = None, analysis: str | None = None) -> Use:
        """What a node is to this unit."""
        return Use(arm=arm, base=self.base, seed=self.seed, role=role, rl_step=rl_step, analysis=analysis)


@dataclass(frozen=True, kw_only=True)
class Problems:
    """What is known of problems that were loaded: their digest, and each one's prompt with its id."""

    digest: str
    ids: Mapping[str, str]

    def refuse_shared(self, block: str, others: "Problems", other_block: str) -> None:
        """Raises `UserError` where a problem is among the others too; equal prompts are equal problems."""
        if shared := sorted(self.ids[prompt] for prompt in self.ids.keys() & others.ids.keys()):
            raise UserError(
                f"{block}: {len(shared)} of its problems are in {other_block} too, '{shared[0]}' for one. "
                "Use another split or offset."
            )


NO_PROBLEMS = Problems(digest="", ids={})


class Nodes:
    """Collects nodes; equal ones are merged. They are in order, since inputs are added before what reads them.

    Args:
        study_dir: where the study lies.
        load: whether problems are made and read, to be checked. Without that, their number is taken from `size`.
    """

    def __init__(self, study_dir: Path, *, load: bool = True) -> None:
        self._study_dir = study_dir
        self._load = load
        self._nodes: dict[str, Node] = {}
        self._problems: dict[str, Problems] = {}

    @property
    def all(self) -> tuple[Node, ...]:
        """Every node after those that it depends on."""
        return tuple(self._nodes.values())

    def add(
        self,
        stage: str,
        block: str,
        given: Mapping[str, Any],
        values: Mapping[str, Any],
        inputs: Mapping[str, Source],
        label: str,
        use: Use,
    ) -> Source:
        """Adds a node, or a use to the node that is equal. `given` is what the user wrote, in `block`."""
        if forbidden := sorted(_SET_BY_STUDY[stage].intersection(given)):
            raise UserError(f"{block}.{forbidden[0]}: is set by the study; leave it out.")
        config_class, _ = load_stage(stage)
        unplaced = config_class.parse({**values, "output_dir": self._study_dir}, source=block)
        if isinstance(unplaced, CollectConfig):
            self.collected(block, unplaced)
        else:
            self.problems(block, getattr(unplaced, "problems", []))
        key = _node_key(_identity(stage, unplaced), unplaced, inputs)
        node_id = f"{stage}-{key[:_KEY_DIGITS]}"
        directory = self._study_dir / RUNS / node_id
        if node_id in self._nodes:
            node = self._nodes[node_id]
            uses = node.uses if use in node.uses else (*node.uses, use)
            self._nodes[node_id] = replace(node, uses=uses)
        else:
            self._nodes[node_id] = Node(
                id=node_id,
                stage=stage,
                key=key,
                config=unplaced.model_copy(update={"output_dir": directory}),
                directory=directory,
                depends=tuple(dict.fromkeys(source.node for source in inputs.values() if source.node is not None)),
                label=label,
                uses=(use,),
            )
        return Source(path=str(directory), key=f"node:{key}", node=node_id)

    def config(self, source: Source) -> Any:
        """The configuration of the node that makes an input."""
        assert source.node is not None
        return self._nodes[source.node].config

    def problems(self, block: str, sets: Sequence[ProblemSet]) -> Problems:
        """Loads every problem of `sets`, once. Raises `UserError`, naming the block, where they cannot be had."""
        if not sets:
            return NO_PROBLEMS
        name = canonical_json([item.model_dump(mode="json") for item in sets])
        if not self._load:
            return _unread(name, sum(item.size or 0 for item in sets))
        return self._loaded(block, name, lambda: load_problems(sets))

    def collected(self, block: str, config: CollectConfig) -> Problems:
        """Likewise, the problems that a buffer is collected on: without duplicates and leaks."""
        fields = ("problems", "size", "evaluation", "leak_words", "near_duplicates")
        name = canonical_json({"collect": config.model_dump(mode="json", include=set(fields))})
        if not self._load:
            return _unread(name, config.size or sum(item.size or 0 for item in config.problems))
        return self._loaded(block, name, lambda: config.select().problems)

    def _loaded(self, block: str, name: str, load: Callable[[], Sequence[Problem]]) -> Problems:
        if name not in self._problems:
            try:
                loaded = load()
            except UserError as error:
                raise UserError(f"{block}: {error}") from None
            self._problems[name] = Problems(
                digest=sha256("\n".join(problem.to_json() for problem in loaded)),
                ids={canonical_json([dict(message) for message in problem.prompt]): problem.id for problem in loaded},
            )
        return self._problems[name]

    def hashed(self, role: Role, arm: str | None = None) -> str:
        """What decides the results of a role's nodes, of one arm or of all, without repetition and in order."""
        texts = [
            canonical_json(_identity(node.stage, node.config))
            for node in self._nodes.values()
            if any(use.role == role and arm in (None, use.arm) for use in node.uses)
        ]
        return canonical_json(list(dict.fromkeys(texts)))


def _unread(name: str, count: int) -> Problems:
    """Problems that were not read, under ids that no others have."""
    return Problems(digest=sha256(name), ids={f"{name}/{index}": str(index) for index in range(count)})


def derived_seed(seed: int, stage: str) -> int:
    """The seed of a stage, from the seed of the study and the stage alone: the same in every arm. 31 bits for numpy."""
    return derive_seed(seed, "study", stage) >> 32


def external_model(name: str) -> Source:
    """A model that the study does not make."""
    found = resolve_model(name)
    path = str(Path(found).absolute()) if Path(found).is_dir() and not name.startswith("pear:") else name
    return Source(path=path, key=input_fingerprint(found))


def external_buffer(directory: Path) -> Source:
    """A buffer that the study does not make."""
    read_manifest(directory)
    return Source(path=str(directory.absolute()), key=input_fingerprint(directory))


def short_name(model: str) -> str:
    """The last part of a model's name or path."""
    return model.rstrip("/").rsplit("/", 1)[-1]


def _node_key(node: Mapping[str, Any], config: StrictModel, inputs: Mapping[str, Source]) -> str:
    """What `open_run` hashes, with the keys of planned inputs in place of fingerprints that do not exist yet."""
    keys = {name: source.key for name, source in inputs.items()}
    if isinstance(config, AnalyzeConfig):
        files = problem_files(config)
    elif isinstance(config, CollectConfig):
        files = config.inputs()
    else:
        files = task_files(getattr(config, "problems", ()))
    keys.update({name: input_fingerprint(path) for name, path in files.items()})
    return sha256(canonical_json({**node, "inputs": keys}))


def _identity(stage: str, config: StrictModel) -> dict[str, Any]:
    """All that decides a stage's result beside its inputs."""
    parts = config.versions() if isinstance(config, CollectConfig) else task_versions(getattr(config, "problems", ()))
    objective = getattr(config, "objective", None)
    if objective is not None:
        from pear.objectives import OBJECTIVES

        parts[f"objective:{objective}"] = OBJECTIVES[objective].version
    if isinstance(config, AnalyzeConfig):
        parts.update(versions(config))
    version = importlib.import_module(STAGES[stage][0]).VERSION
    return {"stage": stage, "version": version, "config": config.hashed(), "parts": parts}
