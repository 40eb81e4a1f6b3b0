"""vLLM on the CPU, in process and as a server, against the transformers engine; `make test-vllm` installs it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest

from benchmarks.generate import served
from pear.data.buffer import read_shards
from pear.data.rendering import load_tokenizer, stop_token_ids
from pear.engines.protocol import Sampling
from pear.engines.transformers_engine import TransformersEngine
from tests.vllm.conftest import ON_A_CPU, ROOT
from tests.vllm.stages import TEMPERED, run_all

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

TOLERANCE = 1e-3


@pytest.fixture(scope="module", params=["tiny", "smollm2"])
def model(request: pytest.FixtureRequest, tiny: str) -> str:
    if request.param == "tiny":
        return tiny
    if "PEAR_SMOLLM2_DIR" not in os.environ:
        pytest.skip("PEAR_SMOLLM2_DIR is not set")
    return str(Path(os.environ["PEAR_SMOLLM2_DIR"]).absolute())


@pytest.fixture(scope="module")
def server(model: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of a vLLM server, which is ended afterwards."""
    with served(sys.executable, model, tmp_path_factory.mktemp("server") / "log", ON_A_CPU) as url:
        yield url


@pytest.fixture(scope="module")
def wanted(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same runs by the transformers engine."""
    folder = tmp_path_factory.mktemp("wanted")
    run_all(model, folder, "transformers", {})
    return folder


def rows_of(path: Path, *, teacher_top: bool = False) -> list[dict[str, Any]]:
    return [row for table in read_shards(path, teacher_top=teacher_top) for row in table.to_pylist()]


def compare(model: str, found: Path, wanted: Path) -> None:
    local = TransformersEngine(model, device="cpu")
    tokenizer = load_tokenizer(model)
    stops = stop_token_ids(tokenizer, model)
    # Greedy: the same completions, and their log-probs.
    greedy = rows_of(found / "greedy")
    for row, other in zip(greedy, rows_of(wanted / "greedy"), strict=True):
        assert row["completion_ids"] == other["completion_ids"]
        assert row["finish"] == other["finish"]
        assert row["behavior_log_probs"] == pytest.approx(other["behavior_log_probs"], abs=TOLERANCE)
        assert set(row["behavior_processed_log_probs"]) == {0.0}
    # Tempered: other draws, scored here under the model and under what was sampled.
    tempered = rows_of(found / "tempered")
    prompts = [row["behavior_prompt_ids"] for row in tempered]
    ids = [row["completion_ids"] for row in tempered]
    raw, processed = local._score_sampled(prompts, ids, Sampling(**TEMPERED))
    largest = 0.0
    for row, own, sampled in zip(tempered, raw, processed, strict=True):
        assert row["behavior_log_probs"] == pytest.approx(own, abs=TOLERANCE)
        assert row["behavior_processed_log_probs"] == pytest.approx(sampled, abs=TOLERANCE)
        assert (row["finish"] == "stop") == (row["completion_ids"][-1] in stops)
        largest = max(largest, numpy.abs(numpy.subtract(row["behavior_log_probs"], own)).max())
        largest = max(largest, numpy.abs(numpy.subtract(row["behavior_processed_log_probs"], sampled)).max())
    print(f"tempered: {len(tempered)} completions, log-probs differ by {largest:.1e} at most")
    assert len(tempered) == 16
    # Scored again, with the likeliest five.
    _, top = local.score_top(prompts, ids, 5)
    for row, own, best in zip(rows_of(found / "scored", teacher_top=True), raw, top, strict=True):
        assert row["behavior_log_probs"] == pytest.approx(own, abs=TOLERANCE)
        assert numpy.array(row["teacher_top_log_probs"]) == pytest.approx(best.log_probs, abs=TOLERANCE)
    # Evaluated: the same outcomes.
    metrics = [json.loads((folder / "evaluated" / "metrics.json").read_text()) for folder in (found, wanted)]
    assert metrics[0] == metrics[1]


def run_stages(model: str, folder: Path, engine: str, kwargs: dict[str, Any]) -> None:
    command = [sys.executable, "-m", "tests.vllm.stages", model, str(folder), engine, json.dumps(kwargs)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **ON_A_CPU}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]


def test_in_process(model: str, wanted: Path, tmp_path: Path) -> None:
    run_stages(model, tmp_path, "vllm", {"enforce_eager": True, "max_model_len": 512})
    compare(model, tmp_path, wanted)


def test_as_a_server(model: str, server: str, wanted: Path, tmp_path: Path) -> None:
    run_stages(model, tmp_path, "server", {"endpoints": [server]})
    compare(model, tmp_path, wanted)
