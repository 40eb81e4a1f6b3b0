"""A buffer of one model and a target whose added tokens have other ids: scored again, and trained on."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pear.data.buffer import load_buffer
from pear.data.rendering import load_tokenizer, render_prompt
from pear.runs import MANIFEST
from pear.stages import score, sft

SWAPPED = {"<think>": ["<think>"], "</think>": ["</think>"]}


@pytest.fixture(scope="module")
def relative(solver: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The model with the ids of its thinking tokens exchanged."""
    directory = tmp_path_factory.mktemp("models") / "relative"
    shutil.copytree(solver, directory)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (directory / name).read_text(encoding="utf-8")
        text = (
            text.replace('"<think>"', '"<+think>"').replace('"</think>"', '"<think>"').replace("<+think>", "</think>")
        )
        (directory / name).write_text(text, encoding="utf-8")
    return str(directory)


def results(directory: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))["results"]
    return values


def test_scored_again_in_its_own_ids_and_template(sampled: Path, solver: str, relative: str, tmp_path: Path) -> None:
    values = {"model": relative, "inputs": [str(sampled)], "output_dir": tmp_path / "scored"}
    found = load_buffer(score.run(score.ScoreConfig.parse(values, source="test")), correct_only=False)
    old = load_buffer(sampled, correct_only=False)
    before, after = load_tokenizer(solver), load_tokenizer(relative)
    think = before.convert_tokens_to_ids("<think>")
    assert after.convert_tokens_to_ids("</think>") == think
    assert any(think in ids for ids in old["completion_ids"])
    for one, other in zip(old, found, strict=True):
        assert after.decode(other["completion_ids"]) == before.decode(one["completion_ids"])
        assert (other["completion"], other["finish"]) == (one["completion"], one["finish"])
        assert other["behavior_prompt_ids"] == render_prompt(after, one["prompt"])


def test_sft_trains_on_it_and_says_what_was_replaced(sampled: Path, relative: str, solver: str, tmp_path: Path) -> None:
    trainer = {"max_steps": 1, "per_device_train_batch_size": 2}
    values = {"buffer": str(sampled), "objective": "pear_token", "trainer": trainer}
    for name, source in (("relative", relative), ("same", solver)):
        sft.run(sft.SftConfig.parse({**values, "model": source, "output_dir": tmp_path / name}, source="test"))
    assert results(tmp_path / "relative")["token_map"] == SWAPPED
    assert "token_map" not in results(tmp_path / "same")
