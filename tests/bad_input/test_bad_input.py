"""Bad input, as a table: what was given and the sentence that came back. Always exit code 2, and nothing is written."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from safetensors.torch import load_file

from pear.runs import MANIFEST, file_digest
from tests.bad_input.commands import COMMANDS, Cli, calibrate, collect, grpo, score, sft, the_sentence

WEIGHTED = "task=tiny/affine_chain,split=sft,weight=2"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-50])


def with_rows(folder: Path, target: Path, **changes: Callable[[Any], Any]) -> Path:
    """A buffer whose second row is changed, with digests that fit: made by something else than this package."""
    shutil.copytree(folder / "buffer", target)
    (target / MANIFEST).unlink()
    shard = target / "shard-00000.parquet"
    table = pyarrow.parquet.read_table(shard)
    rows = [{**row, "correct": True} for row in table.to_pylist()]
    for name, change in changes.items():
        rows[1][name] = change(rows[1][name])
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=table.schema), shard)
    manifest = json.loads((target / "buffer.json").read_text())
    manifest["shards"][0]["sha256"] = file_digest(shard)
    (target / "buffer.json").write_text(json.dumps(manifest))
    return target


def damaged(source: Path, target: Path, name: str, damage: Callable[[Path], None] = cut) -> Path:
    shutil.copytree(source, target)
    damage(target / name)
    return target


def pickled(model: Path) -> None:
    import torch

    torch.save(load_file(model), model.with_name("pytorch_model.bin"))
    model.unlink()


def sharded(model: Path) -> None:
    """The first of two files, without the second."""
    index = {
        "metadata": {},
        "weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"},
    }
    model.with_name("model.safetensors.index.json").write_text(json.dumps(index))
    model.rename(model.with_name("model-00001-of-00002.safetensors"))


def without_tokenizer(file: Path) -> None:
    file.unlink()
    file.with_name("tokenizer_config.json").unlink()


def nonesuch(file: Path) -> None:
    file.write_text('{"model_type": "nonesuch"}')


def foreign(target: Path) -> Path:
    from pear.training.tiny_models import build_model, build_tokenizer

    tokenizer = build_tokenizer(["quite", "other", "words"])
    build_model(tokenizer, hidden_size=16, num_layers=1, num_heads=2).save_pretrained(target)
    tokenizer.save_pretrained(target)
    return target


def parquet_rows(path: Path) -> Path:
    rows = [{"prompt": "start", "completion": "<answer> 1 </answer>"}] * 50
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    cut(path)
    return path


def json_rows(path: Path, **row: Any) -> Path:
    path.write_text(json.dumps({"prompt": "start", "completion": "1 <|end|>", **row}) + "\n")
    return path


# What was given: (folder with `model` and `buffer`, an empty folder) to the command without --output-dir.
Given = Callable[[Path, Path], list[str]]
TABLE: dict[str, tuple[Given, str]] = {
    "log-probs of another length": (
        lambda f, t: sft(f, buffer=with_rows(f, t / "b", behavior_log_probs=lambda values: values[:-1])),
        "row 1 (problem 'tiny/affine_chain/n2/1099511627778'): 17 values in behavior_log_probs for 18 completion_ids.",
    ),
    "a NaN log-prob": (
        lambda f, t: sft(f, buffer=with_rows(f, t / "b", behavior_log_probs=lambda values: [math.nan, *values[1:]])),
        "behavior_log_probs holds nan; log-probs are finite and at most 0. Score the trajectory again.",
    ),
    "an infinite log-prob": (
        lambda f, t: sft(f, buffer=with_rows(f, t / "b", behavior_log_probs=lambda values: [-math.inf, *values[1:]])),
        "behavior_log_probs holds -inf; log-probs are finite",
    ),
    "a positive log-prob": (
        lambda f, t: sft(f, buffer=with_rows(f, t / "b", behavior_log_probs=lambda values: [0.5, *values[1:]])),
        "behavior_log_probs holds 0.5; log-probs are finite and at most 0.",
    ),
    "no log-probs": (
        lambda f, t: sft(f, buffer=with_rows(f, t / "b", behavior_log_probs=lambda values: None)),
        "row 1 (problem 'tiny/affine_chain/n2/1099511627778'): behavior_log_probs is missing.",
    ),
    "a calibration without log-probs": (
        lambda f, t: calibrate(f, buffer=with_rows(f, t / "b", behavior_log_probs=lambda values: None)),
        "row 1 (problem 'tiny/affine_chain/n2/1099511627778'): behavior_log_probs is missing.",
    ),
    "a calibration of an unknown level": (
        lambda f, t: calibrate(f, "--levels", "tokn"),
        "Unknown level 'tokn'. Did you mean 'token'?",
    ),
    "a calibration with a foreign model": (
        lambda f, t: calibrate(f, model=foreign(t / "m")),
        "its vocabulary is not the one of the buffer",
    ),
    "a calibration to a size above 1": (lambda f, t: calibrate(f, "--ess", "1.5"), "ess: Input should be less than 1"),
    "an id that the model lacks": (
        lambda f, t: sft(f, buffer=with_rows(f, t / "b", completion_ids=lambda ids: [9999, *ids[1:]])),
        "completion_ids holds an id outside the target's vocabulary of 53 tokens.",
    ),
    "a foreign tokenizer, sft": (
        lambda f, t: sft(f, model=foreign(t / "m")),
        "m: its vocabulary is not the one of the buffer, which was made with model, so the token ids mean other text.",
    ),
    "a foreign tokenizer, score": (
        lambda f, t: score(f, f / "buffer", model=foreign(t / "m")),
        "m: its vocabulary is not the one of the buffer",
    ),
    "rows longer than max_length": (
        lambda f, t: sft(f, trainer="max_length: 8"),
        "trajectories are longer than max_length=8",
    ),
    "a row longer than the context": (
        lambda f, t: score(f, json_rows(t / "rows.jsonl", completion="1 " * 600)),
        "rows.jsonl, row 1: 604 tokens, but ",
    ),
    "prompts and max_tokens longer than the context, collect": (
        lambda f, t: collect(f / "model", "--sampling.max-tokens", "5000"),
        "the longest prompt + sampling.max_tokens: 5008 tokens, but ",
    ),
    "prompts and max_tokens longer than the context, grpo": (
        lambda f, t: grpo(f / "model", "--max-completion-tokens", "5000"),
        "max_completion_tokens: 5000 and a prompt of 8 tokens",
    ),
    "a shard cut short": (
        lambda f, t: sft(f, buffer=damaged(f / "buffer", t / "b", "shard-00001.parquet")),
        "shard-00001.parquet: its bytes are not those that buffer.json names. Make the buffer again.",
    ),
    "buffer.json cut short": (
        lambda f, t: sft(f, buffer=damaged(f / "buffer", t / "b", "buffer.json")),
        "buffer.json: not valid JSON",
    ),
    "no buffer": (lambda f, t: sft(f, buffer=t), "not a buffer (no buffer.json in it)."),
    "a Parquet file cut short, score": (
        lambda f, t: score(f, parquet_rows(t / "rows.parquet")),
        "rows.parquet: not readable as Parquet",
    ),
    "a Parquet file cut short, problems": (
        lambda f, t: ["collect", "--model", str(f / "model"), "--problems",
                      f"task=maths/gsm8k,path={parquet_rows(t / 'rows.parquet')}"],
        "rows.parquet: not readable as Parquet",
    ),
    "a checkpoint to keep after the last step": (
        lambda f, t: grpo(f / "model", "--checkpoint-steps", "2"),
        "checkpoint_steps: 2 is after the last of 1 steps.",
    ),
    "one checkpoint at a time": (
        lambda f, t: sft(f, trainer="save_total_limit: 1"),
        "trainer.save_total_limit: with 1 there is no complete checkpoint while the next is written.",
    ),
    "data that are not skipped": (
        lambda f, t: sft(f, trainer="ignore_data_skip: true"),
        "trainer.ignore_data_skip: cannot be set here",
    ),
    "an objective's field misspelled": (
        lambda f, t: [*sft(f), "--objective-kwargs", "{gama: 0.9}"],
        "gama",
    ),
    "a misspelled key of the trainer": (
        lambda f, t: sft(f, trainer="learning_rat: 1e-3"),
        "trainer.learning_rat: PearConfig has no field of this name. Did you mean 'learning_rate'?",
    ),
    "a word for a number of the trainer": (
        lambda f, t: sft(f, trainer="learning_rate: fast"),
        "trainer.learning_rate: Input should be a valid number, unable to parse string as a number (got 'fast').",
    ),
    "a misspelled key of GRPO's trainer": (
        lambda f, t: grpo(f / "model", "--trainer", "{epsilonn: 0.1}"),
        "trainer.epsilonn: GRPOConfig has no field of this name. Did you mean 'epsilon'?",
    ),
    "a misspelled setting of an analysis": (
        lambda f, t: ["analyze", "--analysis", "weight_drift", "--before", str(f / "model"),
                      "--after", str(foreign(t / "m")), "--settings", "{epsilonn: 0.1}"],
        "Did you mean 'epsilon'?",
    ),
    "an objective misspelled": (
        lambda f, t: [*sft(f), "--objective", "pear_tokn"],
        "Unknown objective 'pear_tokn'. Did you mean 'pear_token'?",
    ),
    "weights without a size": (
        lambda f, t: ["collect", "--model", str(f / "model"), "--problems", WEIGHTED],
        "size: sets of problems have a `weight`; set `size`, how many problems they give together",
    ),
    "a size without weights": (
        lambda f, t: collect(f / "model", "--size", "5"),
        "size: a mix needs a `weight` in every set of problems; set them, or leave `size` out",
    ),
    "weights where nothing is mixed": (
        lambda f, t: ["evaluate", "--model", str(f / "model"), "--problems", WEIGHTED],
        "`weight` is for the mixes of `pear collect`; set `size` and leave it out.",
    ),
    "an evaluation file that is not there": (
        lambda f, t: collect(f / "model", "--evaluation", f"task=maths/gsm8k,path={t / 'test.jsonl'}"),
        "test.jsonl: no such file.",
    ),
    "a task misspelled": (
        lambda f, t: ["collect", "--model", str(f / "model"), "--problems", "task=tiny/afine_chain"],
        "Did you mean 'tiny/affine_chain'?",
    ),
}  # fmt: skip


def check_row(cli: Cli, words: list[str], empty: Path, sentence: str) -> None:
    before = sorted(path.name for path in empty.iterdir())
    code, text = cli(*words, "--output-dir", empty / "out")
    assert code == 2, text
    assert sentence in the_sentence(text)
    assert sorted(path.name for path in empty.iterdir()) == before


@pytest.mark.parametrize("case", TABLE)
def test_bad_input_is_a_sentence_and_nothing_is_written(cli: Cli, folder: Path, tmp_path: Path, case: str) -> None:
    given, sentence = TABLE[case]
    check_row(cli, given(folder, tmp_path), tmp_path, sentence)


MODELS: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "without weights": (
        "model.safetensors", Path.unlink,
        "no weights as safetensors in this directory; other formats are not loaded.",
    ),
    "a pickle": (
        "model.safetensors", pickled,
        "no weights as safetensors in this directory; other formats are not loaded.",
    ),
    "weights cut short": ("model.safetensors", cut, "model.safetensors: not readable as safetensors"),
    "half of the weights": ("model.safetensors", sharded, "model-00002-of-00002.safetensors: missing"),
    "without configuration": ("config.json", Path.unlink, "a directory without a model (no config.json in it)."),
    "configuration cut short": ("config.json", cut, "(It looks like the config file at"),
    "of an unknown kind": (
        "config.json", nonesuch,
        "no causal language model can be loaded from it (The checkpoint you are trying to load has model type",
    ),
    "tokenizer cut short": ("tokenizer.json", cut, "no tokenizer can be loaded from it"),
    "without tokenizer": (
        "tokenizer.json", without_tokenizer,
        "no tokenizer is in it. Put the tokenizer's files beside the model's.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("case", MODELS)
def test_a_model_that_cannot_be_used(cli: Cli, folder: Path, tmp_path: Path, case: str, command: str) -> None:
    name, damage, sentence = MODELS[case]
    model = damaged(folder / "model", tmp_path / "m", name, damage)
    check_row(cli, COMMANDS[command](folder, model), tmp_path, sentence)
