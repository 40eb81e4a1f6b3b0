"""Numbers of the stages that draw no samples, held fixed: a change of them needs a new VERSION and a new line here.

`PEAR_WRITE_GOLDEN=1 pytest tests/stages/test_golden.py` writes them again.
"""

import json
import os
from pathlib import Path

import pytest

from pear.data.buffer import load_buffer
from pear.runs import read_manifest
from pear.stages import pretrain, score, sft
from pear.tasks import TASKS, GeneratedTask
from pear.tasks.problems import ProblemSet, load_problems

GOLDEN = Path(__file__).with_name("golden.json")
PROBLEMS = {"task": "tiny/affine_chain", "level": "n4", "split": "sft", "size": 32}
TRAINER = {"per_device_train_batch_size": 8, "learning_rate": 1e-3, "max_length": 128, "logging_steps": 4}


def solver_traces(path: Path) -> Path:
    task = TASKS["tiny/affine_chain"]
    assert isinstance(task, GeneratedTask)
    problems = load_problems([ProblemSet.parse(PROBLEMS, source="test")])
    rows = [{"prompt": list(problem.prompt), "completion": task.solve(problem)} for problem in problems]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    folder = tmp_path_factory.mktemp("golden")
    made = pretrain.run(
        pretrain.PretrainConfig.parse(
            {"problems": [PROBLEMS], "hidden_size": 16, "trainer": TRAINER, "output_dir": folder / "pretrain"},
            source="test",
        )
    )
    scored = score.run(
        score.ScoreConfig(
            model="pear:affine_chain/behavior",
            inputs=[str(solver_traces(folder / "traces.jsonl"))],
            output_dir=folder / "buffer",
        )
    )
    log_probs = [value for row in load_buffer(scored)["behavior_log_probs"] for value in row]
    result = {
        f"pretrain/{pretrain.VERSION}/loss": read_manifest(made)["results"]["loss"],
        f"score/{score.VERSION}/mean": sum(log_probs) / len(log_probs),
    }
    for objective in ("nll", "pear_token", "pear_block", "pear_sequence", "single_step_is"):
        trained = sft.run(
            sft.SftConfig(
                model="pear:affine_chain/base_1",
                buffer=str(scored),
                objective=objective,
                trainer=TRAINER,
                output_dir=folder / objective,
            )
        )
        results = read_manifest(trained)["results"]
        result[f"sft/{sft.VERSION}/{objective}/loss"] = results["loss"]
        result[f"sft/{sft.VERSION}/{objective}/update_norm"] = results["update/norm"]
    return result


def test_numbers_change_only_with_the_version(numbers: dict[str, float]) -> None:
    if os.environ.get("PEAR_WRITE_GOLDEN"):
        GOLDEN.write_text(json.dumps(numbers, indent=2) + "\n")
    golden = json.loads(GOLDEN.read_text())
    assert numbers.keys() == golden.keys()
    # Processors sum in different orders; a changed formula is off by far more.
    assert numbers == pytest.approx(golden, rel=1e-3)


def test_the_numbers_tell_the_objectives_apart(numbers: dict[str, float]) -> None:
    losses = [value for name, value in numbers.items() if name.startswith("sft/") and name.endswith("/loss")]
    assert min(abs(a - b) for index, a in enumerate(losses) for b in losses[:index]) > 4e-3 * min(losses)
