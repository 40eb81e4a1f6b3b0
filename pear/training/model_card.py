"""What a model card says beyond TRL's: the objective with its fields, the data's digest, and the paper."""

import dataclasses
from pathlib import Path

from datasets import Dataset
from huggingface_hub import ModelCard

from pear.data.buffer import BUFFER_FILE, read_manifest
from pear.objectives import OBJECTIVES, Objective
from pear.objectives.pear import PearBlock, PearSequence, PearToken
from pear.runs import file_digest
from pear.training.sft_data import rows_digest

_TITLE = "Good SFT Optimizes for SFT, Better SFT Prepares for Reinforcement Learning"
_ID = "2602.01058"
PAPER = {
    "title": _TITLE,
    "id": _ID,
    "citation": f"""@article{{zhang2026pear,
  title   = {{{{{_TITLE}}}}},
  author  = {{Dylan Zhang and Yufeng Xu and Haojin Wang and Qingzhi Chen and Hao Peng}},
  journal = {{arXiv preprint arXiv:{_ID}}},
  year    = {{2026}}
}}""",
}
# What TRL's template makes of a model that has no name on the hub.
_NO_BASE = "[None](https://huggingface.co/None)"
_NO_NAME = 'model="None"'
_BEFORE = "### Framework versions"


def paper_of(objective: Objective) -> dict[str, str]:
    """TRL's `_paper`: without an id, and so without "a method introduced in", where the paper did not introduce it."""
    introduced = isinstance(objective, PearToken | PearBlock | PearSequence)
    return PAPER if introduced else {name: value for name, value in PAPER.items() if name != "id"}


def describe_buffer(directory: str | Path) -> str:
    """A buffer by the sha256 of its `buffer.json`, which holds those of its shards; without its path."""
    manifest = read_manifest(directory)
    assert manifest.counts is not None
    digest = file_digest(Path(directory) / BUFFER_FILE)
    kept = f"the {manifest.counts.correct} correct of {manifest.counts.rows} trajectories of a buffer"
    estimate = "" if manifest.estimate is None else f". {manifest.estimate.sentence.rstrip('.')}"
    return f"{kept}, {BUFFER_FILE} sha256 `{digest}`{estimate}"


def describe_rows(trajectories: Dataset) -> str:
    """Trajectories that are no buffer's, by the sha256 of their lengths, ids and log-probs."""
    return f"{len(trajectories)} trajectories, sha256 `{rows_digest(trajectories)}`"


def complete_card(path: Path, objective: Objective, trained_on: str) -> None:
    """Adds objective and data to the card that TRL wrote. Equal training gives equal bytes.

    Args:
        path: of the card.
        objective: what was minimized.
        trained_on: what `describe_buffer` or `describe_rows` says.
    """
    names = {kind: name for name, kind in OBJECTIVES.items()}
    name = names.get(type(objective), type(objective).__name__)
    values = {field.name: getattr(objective, field.name) for field in dataclasses.fields(objective)}
    fields = [f"- `{field}`: `{value}`" for field, value in values.items() if value is not None]
    section = [
        "### Objective and data",
        "",
        f"SFT with the objective `{name}`{':' if fields else '.'}",
        *(["", *fields] if fields else []),
        "",
        f"Trained on {trained_on}.",
        "",
        f"The objective is one of those that are compared after RL, as in [{_TITLE}](https://arxiv.org/abs/{_ID}).",
    ]
    card = ModelCard.load(path)
    # TRL keeps them in a set.
    card.data.tags = sorted(card.data.tags)
    text = card.text.replace(_NO_BASE, "a local model").replace(_NO_NAME, 'model="PATH"')
    assert text.count(_BEFORE) == 1
    card.text = text.replace(_BEFORE, "\n".join([*section, "", _BEFORE]))
    card.save(path)
