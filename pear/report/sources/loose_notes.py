"""What else differs between runs that were not one study: it is no reason not to compare them, but has to be said."""

from collections.abc import Sequence
from pathlib import Path

from pear.report.sources.budgets import differences
from pear.report.sources.loose_arms import Placed, sft_settings
from pear.report.sources.rows import Node

_NAMED = 3


def confound_notes(placed: Sequence[Placed], nodes: Sequence[Node]) -> list[str]:
    """Sentences on data, settings of SFT, seeds of RL, and calibration trajectories that are not the same for all."""
    trained = [(item.arm, item.chain.sft) for item in placed if item.chain.sft is not None]
    notes = []
    readers: dict[str, dict[str, None]] = {}
    paths: dict[str, str] = {}
    for arm, sft in trained:
        source = sft.source("buffer") or {}
        readers.setdefault(source.get("fingerprint", ""), {})[arm] = None
        paths.setdefault(source.get("fingerprint", ""), source.get("path", ""))
    if len(readers) > 1:
        text = "; ".join(f"{_named(list(arms))} on {paths[buffer]}" for buffer, arms in readers.items())
        notes.append(f"SFT did not read the same buffer everywhere: {text}.")
    others = differences([(arm, {**sft_settings(sft), "versions": None}) for arm, sft in trained])
    if others:
        shown = "; ".join(others[:_NAMED]) + (f"; and {len(others) - _NAMED} more" if len(others) > _NAMED else "")
        notes.append(f"Beside their objectives, arms differ in their SFT: {shown}.")
    notes += _rl_seeds(placed)
    calibration: dict[str, dict[str, str]] = {}
    for node in nodes:
        read = ((node.manifest or {}).get("inputs") or {}).get("buffer")
        if node.stage == "analyze" and read:
            name = node.uses[0].analysis or ""
            calibration.setdefault(name, {})[str(read.get("fingerprint"))] = str(read.get("path"))
    for name, places in calibration.items():
        if len(places) > 1:
            named = ", ".join(Path(place).name for place in places.values())
            notes.append(f"{name} was computed on different calibration buffers ({named}): do not compare its numbers.")
    return notes


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def _rl_seeds(placed: Sequence[Placed]) -> list[str]:
    seeds: dict[str, set[int]] = {}
    for item in placed:
        if item.chain.grpo is not None:
            seeds.setdefault(item.unit.name, set()).add(item.chain.grpo.seed)
    apart = [name for name, found in seeds.items() if len(found) > 1]
    if not apart:
        return []
    return [f"RL had different seeds in the arms of {_named(apart)}: pairing by unit takes out less noise there."]
