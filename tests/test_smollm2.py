"""A real model, SmolLM2-135M, and GSM8K, by the commands that a user types; `make test-all` makes the model."""

import json
import math
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pear.tasks import TASKS
from pear.tasks.problems import ProblemSet, load_problems

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

COLLECTED, SOLUTIONS, SUMS = 24, 4, 20
TASK = "maths/gsm8k"


def required(variable: str) -> Path:
    if variable not in os.environ:
        pytest.skip(f"{variable} is not set")
    return Path(os.environ[variable]).absolute()


def pear(*arguments: object, cwd: Path) -> str:
    """Runs a command offline; returns what it printed."""
    result = subprocess.run(
        [sys.executable, "-m", "pear", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def results(run: Path) -> dict[str, Any]:
    return json.loads((run / "manifest.json").read_text(encoding="utf-8"))["results"]


def rows_of(buffer: Path, cache: Path) -> Any:
    from datasets import load_dataset

    return load_dataset("parquet", data_files=str(buffer / "*.parquet"), split="train", cache_dir=str(cache))


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where the model, the problems and the runs are."""

    model: Path
    gsm8k: Path
    root: Path

    @property
    def sums(self) -> Path:
        return self.root / "sums.jsonl"

    def problems(self, split: str, size: int, offset: int = 0) -> str:
        return f"task={TASK},path={self.gsm8k},split={split},size={size},offset={offset}"


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    gsm8k = required("PEAR_BENCHMARK_DIR") / "maths" / "gsm8k_test.jsonl"
    return Setting(model=required("PEAR_SMOLLM2_DIR"), gsm8k=gsm8k, root=tmp_path_factory.mktemp("smollm2"))


@pytest.fixture(scope="module")
def collected(setting: Setting) -> Path:
    """A few dozen problems, sampled at another temperature than 1, so that raw and processed log-probs differ."""
    pear(
        "collect", "--model", setting.model, "--problems", setting.problems("sft", COLLECTED),
        "--sampling.temperature", 0.7, "--sampling.max-tokens", 64, "--output-dir", "collected", cwd=setting.root,
    )  # fmt: skip
    return setting.root / "collected"


def solutions(setting: Setting) -> list[dict[str, Any]]:
    """Trajectories from elsewhere, in the task's format: GSM8K's own shortest solutions, and sums within 10.

    A model of this size answers no problem of GSM8K in this format, but learns to answer sums from them.
    """
    text = setting.gsm8k.read_text(encoding="utf-8")
    answers = {row["question"].strip(): row["answer"] for row in map(json.loads, text.splitlines())}
    sets = [ProblemSet(task=TASK, path=setting.gsm8k, split="sft", offset=COLLECTED)]
    problems = sorted(
        load_problems(sets), key=lambda item: len(answers[item.state["question"]] + item.prompt[0]["content"])
    )
    pairs = [(first, second) for first in range(1, 8) for second in range(1, 4)][: SUMS + 1]
    write_rows(setting.sums, [{"question": f"What is {a} + {b}?", "answer": str(a + b)} for a, b in pairs])
    sums = load_problems([ProblemSet(task=TASK, path=setting.sums, size=SUMS)])
    given = [
        (problem, re.sub(r"<<.*?>>", "", answers[problem.state["question"]]).rpartition("####")[0].strip())
        for problem in problems[:SOLUTIONS]
    ]
    given += [(problem, f"{a} + {b} = {a + b}") for problem, (a, b) in zip(sums, pairs, strict=False)]
    rows = []
    for problem, reasoning in given:
        completion = f"<think> {reasoning} </think> {problem.answer}"
        correct = TASKS[TASK].verify(problem, completion).correct
        rows.append({"problem_id": problem.id, "task": TASK, "prompt": list(problem.prompt), "correct": correct,
                     "completion": completion})  # fmt: skip
    return rows


@pytest.fixture(scope="module")
def scored(setting: Setting, collected: Path) -> Path:
    """What was collected, scored again, and the solutions, in one buffer."""
    write_rows(setting.root / "solutions.jsonl", solutions(setting))
    pear(
        "score", "--model", setting.model, "--inputs", collected, "solutions.jsonl", "--output-dir", "scored",
        cwd=setting.root,
    )  # fmt: skip
    return setting.root / "scored"


@pytest.fixture(scope="module")
def trained(setting: Setting, scored: Path) -> Path:
    trainer = "{per_device_train_batch_size: 4, max_length: 384, learning_rate: 1e-4, logging_steps: 1}"
    pear(
        "sft", "--model", setting.model, "--buffer", scored, "--objective", "pear_token", "--trainer", trainer,
        "--output-dir", "trained", cwd=setting.root,
    )  # fmt: skip
    return setting.root / "trained"


@pytest.fixture(scope="module")
def after_rl(setting: Setting, trained: Path) -> Path:
    """One step on two problems: one of GSM8K, and a sum that was not in the data."""
    pear(
        "grpo", "--model", trained, "--problems", setting.problems("rl", 1),
        f"task={TASK},path={setting.sums},offset={SUMS},size=1", "--steps", 1, "--prompts-per-step", 2,
        "--group-size", 4, "--micro-batch", 4, "--temperature", 0.7, "--max-completion-tokens", 48,
        "--output-dir", "after_rl", cwd=setting.root,
    )  # fmt: skip
    return setting.root / "after_rl"


def test_collect_keeps_what_is_wrong(collected: Path, tmp_path: Path) -> None:
    counts = json.loads((collected / "buffer.json").read_text())["counts"]
    assert counts["rows"] == COLLECTED == counts["correct"] + counts["wrong"]
    assert counts["wrong"] > 0
    for row in rows_of(collected, tmp_path):
        assert 0 < len(row["completion_ids"]) <= 64
        assert max(row["behavior_log_probs"]) <= 0
        assert row["behavior_log_probs"] != row["behavior_processed_log_probs"]
        assert row["correct"] == (row["reason"] == "")


def test_scored_log_probs_are_the_models_own(setting: Setting, collected: Path, scored: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    before, after = rows_of(collected, tmp_path), rows_of(scored, tmp_path)
    assert len(after) == COLLECTED + SOLUTIONS + SUMS
    assert sum(after["correct"]) == sum(before["correct"]) + SOLUTIONS + SUMS
    again = {row["problem_id"]: row for row in after}
    for row in before:
        assert again[row["problem_id"]]["completion_ids"] == row["completion_ids"]
        assert again[row["problem_id"]]["behavior_log_probs"] == pytest.approx(row["behavior_log_probs"], abs=1e-4)
    row = after[-1]
    prompt, completion = row["behavior_prompt_ids"], row["completion_ids"]
    model = AutoModelForCausalLM.from_pretrained(setting.model, dtype=torch.float32)
    with torch.no_grad():
        log_probs = model(torch.tensor([prompt + completion])).logits[0].log_softmax(-1)
    places = range(len(prompt) - 1, len(prompt) + len(completion) - 1)
    expected = [float(log_probs[place, token]) for place, token in zip(places, completion, strict=True)]
    assert row["behavior_log_probs"] == pytest.approx(expected, abs=1e-4)


def test_sft_weighs_by_the_models_own_log_probs(trained: Path) -> None:
    lines = metrics(trained)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert all(math.isfinite(value) for line in lines for value in line.values())
    # The data were scored by the model that is trained, so the first step's weights are the discount alone.
    first = lines[0]
    assert abs(first["weights/log_ratio/mean"]) < 1e-4
    assert first["weights/clipped/log_ratio_low"] == first["weights/clipped/log_ratio_high"] == 0
    assert 0.9 * first["loss/nll"] < first["loss"] < first["loss/nll"]
    # Later ones are not.
    assert abs(lines[-1]["weights/log_ratio/mean"]) > 1e-2
    assert results(trained)["trajectories"] == SOLUTIONS + SUMS
    assert results(trained)["update/norm"] > 0


def test_the_checkpoint_generates_in_plain_transformers(trained: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(trained)
    model = AutoModelForCausalLM.from_pretrained(trained)
    messages = [{"role": "user", "content": "What is 2 + 3?"}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    ids = model.generate(**prompt, max_new_tokens=16, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert 0 < len(ids) <= 16
    assert tokenizer.decode(ids, skip_special_tokens=True).strip()


def test_a_grpo_step_moves_the_model_where_rewards_differ(after_rl: Path) -> None:
    (line,) = metrics(after_rl)
    assert all(math.isfinite(value) for value in line.values())
    assert line["rl/reward"] * 8 == pytest.approx(round(line["rl/reward"] * 8))
    assert 8 <= line["rl/generated_tokens"] <= 8 * 48
    assert (results(after_rl)["update/norm"] > 0) == (line["rl/groups_without_variance"] < 1)


def test_evaluate_and_report(setting: Setting, trained: Path, after_rl: Path) -> None:
    for model in (trained, after_rl):
        pear(
            "evaluate", "--model", model, "--problems", setting.problems("eval", 4), "--samples", 2, "--k", 1,
            "--max-tokens", 48, "--output-dir", f"evaluated_{model.name}", cwd=setting.root,
        )  # fmt: skip
        scores = json.loads((setting.root / f"evaluated_{model.name}" / "metrics.json").read_text())
        assert (scores["num_problems"], scores["num_samples"]) == (4, 2)
        assert 0 <= scores["pass@1"]["low"] <= scores["pass@1"]["value"] <= scores["pass@1"]["high"] <= 1
    printed = pear("report", "evaluated_trained", "evaluated_after_rl", cwd=setting.root)
    page = setting.root / "report" / "report.html"
    assert printed.strip().endswith("report.html")
    text = page.read_text(encoding="utf-8")
    assert "pear_token" in text
    assert f"{setting.model.name}, seed 0" in text
