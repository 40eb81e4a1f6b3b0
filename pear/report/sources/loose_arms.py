"""Arms and units of runs that were not one study: an arm is a way to do SFT, a unit a base with a seed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pear.errors import UserError
from pear.report.sources.budgets import flat, trainer_values
from pear.report.sources.rows import Unit
from pear.report.sources.run_chains import Library, Origin, Record
from pear.runs import canonical_json

DIRECT = "direct"
_OBJECTIVE = ("objective", "objective_kwargs")
_NOT_SETTINGS = frozenset({"model", "buffer", "output_dir", "seed", *_OBJECTIVE})


@dataclass(frozen=True, kw_only=True)
class Chain:
    """One way from a base through SFT and RL; either of the two may be missing. `base` is the base's fingerprint.

    `rescaled` is the run that scaled SFT's update before RL, where one did.
    """

    base: str
    base_path: str
    sft: Record | None
    rescaled: Record | None = None
    grpo: Record | None


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A chain with the arm and the unit that it is a run of. `matched` is the arm that it has the update norm of."""

    chain: Chain
    arm: str
    unit: Unit
    matched: str | None = None


def chains_of(library: Library, left_out: frozenset[str]) -> list[Chain]:
    """Every run of RL with what it started from, and every SFT that no run of RL started from.

    Args:
        library: the runs.
        left_out: fingerprints of runs that are no part of a comparison.
    """
    chains = []
    for grpo in library.of_stage("grpo"):
        if grpo.fingerprint not in left_out:
            start = library.origin("model", grpo)
            if start.grpo is not None:
                raise UserError(
                    f"{grpo.directory}: goes on from another run of RL, {start.grpo.directory}. Only RL that starts "
                    "from SFT or from a base can be compared."
                )
            chains.append(_chain(start, grpo))
    started = {(chain.sft, chain.rescaled) for chain in chains}
    scaled = [library.origin("model", rescaled) for rescaled in library.of_stage("rescale")]
    evaluated = {library.origin("model", evaluation).start for evaluation in library.of_stage("evaluate")}
    # An SFT that was made to be scaled, and nothing else, is no arm of its own.
    only_scaled = {start.start for start in scaled} - evaluated
    starts = [replace(start, rescaled=run) for start, run in zip(scaled, library.of_stage("rescale"), strict=True)]
    for sft in library.of_stage("sft"):
        base = sft.source("model") or {}
        starts.append(Origin(base=base["fingerprint"], base_path=base["path"], sft=sft, grpo=None, rl_step=0))
    return chains + [_chain(start, None) for start in starts if start.start not in started | only_scaled]


def _chain(start: Origin, grpo: Record | None) -> Chain:
    return Chain(base=start.base, base_path=start.base_path, sft=start.sft, rescaled=start.rescaled, grpo=grpo)


def sft_settings(sft: Record) -> dict[str, Any]:
    """What decides an SFT beside its objective, the model, the data and the seed."""
    settings = {key: value for key, value in sft.config.items() if key not in _NOT_SETTINGS}
    if "trainer" in settings:
        settings["trainer"] = trainer_values(settings["trainer"])
    return {**settings, "versions": {**(sft.manifest.get("parts") or {}), "sft": sft.manifest.get("version")}}


def place(library: Library, chains: Sequence[Chain], study_seeds: Mapping[tuple[str, int], int]) -> list[Placed]:
    """The arm and the unit of every chain.

    Arms are named by their objective, by the settings in which arms of one objective differ, and by the arm to whose
    update norm they were scaled. A unit's seed is that of its SFT, or of RL where there is none and no SFT beside it
    had the same seed in RL.

    Args:
        library: the runs.
        chains: of all of them.
        study_seeds: (stage, a run's seed) to the seed that a study derived it from.

    Raises:
        UserError: two runs of RL from one checkpoint.
    """
    names = _arm_names(chains)
    bases = _base_names(chains)
    seeds = _study_seeds([_seed(chain, chains) for chain in chains], study_seeds)
    placed = []
    for chain, seed in zip(chains, seeds, strict=True):
        matched = _matched(chain, names, library)
        arm = DIRECT if chain.sft is None else names[chain.sft]
        arm = arm if matched is None else f"{arm}[norm of {matched}]"
        placed.append(Placed(chain=chain, arm=arm, unit=Unit(base=bases[chain.base], seed=seed), matched=matched))
    seen: dict[tuple[str, Unit], Placed] = {}
    for item in placed:
        other = seen.setdefault((item.arm, item.unit), item)
        if other is not item:
            runs = [one.chain.grpo or one.chain.sft for one in (other, item)]
            where = " and ".join(str(run.directory) for run in runs if run is not None)
            raise UserError(f"{where} are both {item.arm} on {item.unit.name}. Leave one of them out.")
    return placed


def _matched(chain: Chain, names: Mapping[Record, str], library: Library) -> str | None:
    """The arm whose update norm a chain was scaled to, or the run, where it is of no arm."""
    if chain.rescaled is None:
        return None
    other = library.origin("norm_of", chain.rescaled)
    return other.base_path if other.sft is None else names.get(other.sft, other.sft.id)


def _arm_names(chains: Sequence[Chain]) -> dict[Record, str]:
    runs = list(dict.fromkeys(chain.sft for chain in chains if chain.sft is not None))
    identities = {sft: _identity(sft) for sft in runs}
    twins: dict[str, set[Record]] = {}
    for sft in runs:
        at = canonical_json([identities[sft], (sft.source("model") or {}).get("fingerprint"), sft.seed])
        twins.setdefault(at, set()).add(sft)
    if any(len(found) > 1 for found in twins.values()):
        for sft in runs:
            identities[sft]["buffer"] = (sft.source("buffer") or {}).get("fingerprint", "").rpartition(":")[2][:8]
    names: dict[Record, str] = {}
    for sft in runs:
        same_objective = [other for other in runs if other.config.get("objective") == sft.config.get("objective")]
        names[sft] = _named(identities[sft], [identities[other] for other in same_objective])
    return names


def _identity(sft: Record) -> dict[str, Any]:
    return {**{key: sft.config.get(key) for key in _OBJECTIVE}, **sft_settings(sft)}


def _named(identity: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> str:
    """The objective, and in brackets the settings that are not the same in all others of this objective.

    >>> ours = {"objective": "pear_token", "objective_kwargs": {"gamma": 0.9}}
    >>> _named(ours, [ours, {"objective": "pear_token", "objective_kwargs": {}}])
    'pear_token[gamma=0.9]'
    """
    own, all_others = flat(identity), [flat(other) for other in others]
    apart = [key for key, value in own.items() if any(other.get(key) != value for other in all_others)]
    text = ",".join(f"{key.rsplit('.', 1)[-1]}={own[key]}" for key in apart)
    return f"{identity['objective']}[{text}]" if text else str(identity["objective"])


def _base_names(chains: Sequence[Chain]) -> dict[str, str]:
    """A name for each base: its path, and part of its fingerprint where another base ends in the same name."""
    paths = {chain.base: chain.base_path for chain in reversed(chains)}
    ends = [path.rstrip("/").rsplit("/", 1)[-1] for path in paths.values()]
    return {
        base: path if ends.count(end) == 1 else f"{path} ({base.partition(':')[2][:6]})"
        for (base, path), end in zip(paths.items(), ends, strict=True)
    }


def _seed(chain: Chain, chains: Sequence[Chain]) -> tuple[str, int]:
    """The stage and the seed that stand for a chain's unit."""
    if chain.sft is not None:
        return "sft", chain.sft.seed
    assert chain.grpo is not None
    beside = {
        other.sft.seed
        for other in chains
        if other.base == chain.base and other.sft and other.grpo and other.grpo.seed == chain.grpo.seed
    }
    return ("sft", beside.pop()) if len(beside) == 1 else ("grpo", chain.grpo.seed)


def _study_seeds(found: Sequence[tuple[str, int]], study_seeds: Mapping[tuple[str, int], int]) -> list[int]:
    """The seeds of the studies' files where every run has one and different seeds stay different."""
    if all(seed in study_seeds for seed in found):
        values = {study_seeds[seed] for seed in found}
        if len(values) == len(set(found)):
            return [study_seeds[seed] for seed in found]
    return [seed for _, seed in found]
