"""divergence against single-token float64 loops, known answers, killed runs, and what it refuses."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import torch
from transformers import AutoModelForCausalLM

from pear.analysis import forward
from pear.analysis.divergence import Settings, analyze, check
from pear.analysis.forward import kl_divergence, response_log_probs
from pear.errors import UserError
from pear.runs import SCRATCH
from pear.stages.analyze import AnalyzeConfig, run
from tests import naive
from tests.analysis.model_fixtures import (
    naive_log_probs,
    request_for,
    save_buffer,
    save_model,
    tables_in,
    trajectories,
)

ROWS = trajectories(7, wrong=2)
RIGHT = ROWS[:5]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> tuple[Path, Path, Path]:
    directory = tmp_path_factory.mktemp("inputs")
    models = save_model(directory / "before", 0), save_model(directory / "after", 1)
    return *models, save_buffer(directory / "buffer", ROWS)


@pytest.fixture(scope="module")
def naive_values(inputs) -> dict[str, list[list[float]]]:
    """Per trajectory and token: the divergence, and the NLL of both models."""
    before, after = (naive_log_probs(model, RIGHT) for model in inputs[:2])
    pairs = list(zip(before, after, strict=True))
    return {
        "forward_kl": [[naive.kl_divergence(p, q) for p, q in zip(*pair, strict=True)] for pair in pairs],
        **{
            name: [
                [-values[token] for values, token in zip(tokens, row["completion_ids"], strict=True)]
                for tokens, row in zip(model, RIGHT, strict=True)
            ]
            for name, model in (("nll_before", before), ("nll", after))
        },
    }


def divergence(inputs: tuple[Path, Path, Path], work: Path, **settings: Any) -> dict[str, Any]:
    asked = request_for(*inputs, work, Settings(**settings))
    check(asked)
    return analyze(asked)


def test_equal_to_loops_over_single_tokens_in_float64(inputs, naive_values, tmp_path) -> None:
    metrics = divergence(inputs, tmp_path, chunk_tokens=4)
    table = pyarrow.parquet.read_table(tmp_path / "trajectories.parquet").to_pydict()
    assert table["problem_id"] == [row["problem_id"] for row in RIGHT]
    assert table["num_tokens"] == [len(row["completion_ids"]) for row in RIGHT]
    for name, values in naive_values.items():
        assert metrics[f"divergence/{name}"]["value"] == pytest.approx(naive.macro_mean(values), rel=1e-5)
        assert metrics[f"divergence/{name}"]["n"] == len(RIGHT)
        assert table[name] == pytest.approx([math.fsum(tokens) / len(tokens) for tokens in values], rel=1e-5)
    for name in ("nll", "nll_before"):
        together = [value for tokens in naive_values[name] for value in tokens]
        expected = math.fsum(together) / len(together)
        assert metrics[f"divergence/{name}_per_token"] == pytest.approx(expected, rel=1e-5)
        assert metrics[f"divergence/{name}"]["value"] != pytest.approx(expected, rel=1e-3)
    assert metrics["divergence/trajectories"] == len(RIGHT)
    assert metrics["divergence/tokens"] == sum(table["num_tokens"])


@pytest.mark.parametrize("chunk_tokens", [1, 3, 100])
def test_chunks_change_nothing(inputs, chunk_tokens) -> None:
    """In float64, where chunks, cache and one token at a time agree to rounding."""
    model = AutoModelForCausalLM.from_pretrained(inputs[0], dtype=torch.float64)
    row = max(RIGHT, key=lambda row: len(row["completion_ids"]))
    prompt = [2, 7, 8, 3]
    completion = row["completion_ids"]
    chunks = list(response_log_probs(model, prompt, completion, chunk_tokens=chunk_tokens))
    assert [len(chunk) for chunk in chunks[:-1]] == [chunk_tokens] * (len(chunks) - 1)
    found = torch.cat(chunks)
    for place in range(len(completion)):
        ids = torch.tensor([[*prompt, *completion[:place]]])
        with torch.no_grad():
            expected = torch.log_softmax(model(input_ids=ids, use_cache=False).logits[0, -1], -1)
        torch.testing.assert_close(found[place], expected, rtol=1e-10, atol=1e-10)


def test_no_more_logits_than_asked_for_at_once(inputs, tmp_path, monkeypatch) -> None:
    sizes = []
    log_softmax = torch.log_softmax
    monkeypatch.setattr(torch, "log_softmax", lambda logits, dim: sizes.append(len(logits)) or log_softmax(logits, dim))
    divergence(inputs, tmp_path, chunk_tokens=3)
    assert max(sizes) == 3
    assert sum(sizes) == 2 * sum(len(row["completion_ids"]) for row in RIGHT)


def test_equal_models_diverge_by_exactly_0(inputs, tmp_path) -> None:
    before, _, buffer = inputs
    copy = Path(shutil.copytree(before, tmp_path / "copy"))
    metrics = divergence((before, copy, buffer), tmp_path / "work")
    assert metrics["divergence/forward_kl"] == {"value": 0.0, "low": 0.0, "high": 0.0, "n": len(RIGHT)}
    assert metrics["divergence/nll"] == metrics["divergence/nll_before"]


@pytest.mark.parametrize(
    ("p", "q", "expected"),
    [
        ([0.5, 0.5], [0.25, 0.75], 0.5 * math.log(2) + 0.5 * math.log(2 / 3)),
        ([1.0, 0.0], [0.5, 0.5], math.log(2)),
        ([0.2, 0.8], [0.2, 0.8], 0.0),
        ([0.5, 0.5], [1.0, 0.0], math.inf),
    ],
)
def test_divergences_that_are_known(p, q, expected) -> None:
    found = kl_divergence(torch.tensor([p]).double().log(), torch.tensor([q]).double().log())
    assert found.dtype == torch.float64
    assert found.item() == pytest.approx(expected, abs=1e-15)


def test_each_model_sees_the_prompt_in_its_own_template(inputs, naive_values, tmp_path) -> None:
    before, after, buffer = inputs
    other = Path(shutil.copytree(after, tmp_path / "other"))
    template = other / "chat_template.jinja"
    template.write_text(template.read_text().replace("'<|user|> '", "'<|user|> w3 '"))
    metrics = divergence((before, other, buffer), tmp_path / "work")
    assert metrics["divergence/nll_before"]["value"] == pytest.approx(
        naive.macro_mean(naive_values["nll_before"]), rel=1e-5
    )
    own = naive_log_probs(other, RIGHT)
    expected = [
        [-values[token] for values, token in zip(tokens, row["completion_ids"], strict=True)]
        for tokens, row in zip(own, RIGHT, strict=True)
    ]
    assert metrics["divergence/nll"]["value"] == pytest.approx(naive.macro_mean(expected), rel=1e-5)
    assert metrics["divergence/nll"]["value"] != pytest.approx(naive.macro_mean(naive_values["nll"]), rel=1e-4)


def test_a_killed_run_goes_on_to_the_same_bytes(inputs, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(forward, "_SHARD_ROWS", 2)
    whole = divergence(inputs, tmp_path / "whole")

    class KilledError(Exception):
        pass

    def kill(done: int, total: int, unit: str) -> None:
        assert (total, unit) == (5, "trajectories")
        if done == 4:
            raise KilledError

    killed = request_for(*inputs, tmp_path / "killed", Settings(), progress=kill)
    with pytest.raises(KilledError):
        analyze(killed)
    (shard,) = (path for path in (killed.scratch / "tokens").iterdir() if path.suffix == ".parquet")
    assert shard.name == "00000000.parquet"
    done = []
    again = request_for(*inputs, killed.work, Settings(), progress=lambda *place: done.append(place[0]))
    assert analyze(again) == whole
    assert done == [3, 4, 5]
    for work in ("whole", "killed"):
        assert tables_in(tmp_path / work) == ["trajectories.parquet"]
    assert (killed.work / "trajectories.parquet").read_bytes() == (
        tmp_path / "whole" / "trajectories.parquet"
    ).read_bytes()


def test_a_cut_shard_is_made_again(inputs, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(forward, "_SHARD_ROWS", 2)
    whole = divergence(inputs, tmp_path / "work")
    shard = tmp_path / "work" / SCRATCH / "tokens" / "00000002.parquet"
    shard.write_bytes(shard.read_bytes()[:-7])
    made = []
    again = request_for(*inputs, tmp_path / "work", Settings(), progress=lambda *place: made.append(place[0]))
    assert analyze(again) == whole
    assert made == [3, 4]


def test_values_that_are_not_finite_name_the_trajectory(inputs, tmp_path) -> None:
    before, after, buffer = inputs
    model = AutoModelForCausalLM.from_pretrained(after)
    with torch.no_grad():
        model.lm_head.weight[7] = math.nan
    broken = Path(shutil.copytree(after, tmp_path / "broken"))
    model.save_pretrained(broken)
    with pytest.raises(ValueError, match=r"Trajectory 0 \(problem 'p0'\): divergence is not finite"):
        divergence((before, broken, buffer), tmp_path / "work")


def test_models_and_trajectories_that_cannot_be_compared(inputs, tmp_path) -> None:
    before, after, buffer = inputs

    def refused(message: str, before: Path = before, after: Path = after, buffer: Path = buffer) -> None:
        config = AnalyzeConfig(
            analysis="divergence",
            before=str(before),
            after=str(after),
            buffer=str(buffer),
            output_dir=tmp_path / "run",
        )
        with pytest.raises(UserError, match=message) as caught:
            run(config)
        assert "\n" not in str(caught.value)
        assert not list(tmp_path.glob("run*"))

    refused("its vocabulary is not the one of the buffer", after=save_model(tmp_path / "words", 1, words=["other"]))
    wide = Path(shutil.copytree(after, tmp_path / "wide"))
    model = AutoModelForCausalLM.from_pretrained(after)
    model.resize_token_embeddings(40)
    model.save_pretrained(wide)
    refused("has 40 token embeddings and .* has 29", after=wide)
    renamed = Path(shutil.copytree(after, tmp_path / "renamed"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (renamed / name).read_text().replace("<think>", "<reason>")
        (renamed / name).write_text(text)
    refused("is '<reason>', in .* '<think>'", after=renamed)
    short = Path(shutil.copytree(after, tmp_path / "short"))
    config = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 8}))
    refused(
        "the trajectory of problem 'p[0-9]' has [0-9]+ tokens with its prompt, and the model a context of 8",
        after=short,
    )
    refused("is correct", buffer=save_buffer(tmp_path / "wrong", trajectories(3, wrong=3)))
    (short / "config.json").unlink()
    refused("no config.json", after=short)
