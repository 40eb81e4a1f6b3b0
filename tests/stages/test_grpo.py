import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from pear.errors import UserError
from pear.runs import SCRATCH, partial_path, read_manifest
from pear.stages import grpo
from pear.stages.grpo import GrpoConfig
from pear.training import grpo_callbacks
from tests.training.grpo_fixtures import PROBLEM_SET, save_solver


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return save_solver(tmp_path_factory.mktemp("model"), seed=0)


def config_for(start: str, output_dir: Path, **changes) -> GrpoConfig:
    values = {
        "model": start,
        "problems": [PROBLEM_SET.model_dump()],
        "prompts_per_step": 4,
        "group_size": 4,
        "micro_batch": 8,
        "steps": 5,
        "max_completion_tokens": 20,
        "learning_rate": "1e-3",
        "checkpoint_steps": [2, 5],
        "save_every": 3,
        "output_dir": output_dir,
    }
    return GrpoConfig.parse({**values, **changes}, source="test")


@pytest.fixture(scope="module")
def finished(model, tmp_path_factory) -> Path:
    return grpo.run(config_for(model, tmp_path_factory.mktemp("grpo") / "run"))


def files_of(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name not in ("manifest.json", ".lock")
    }


def test_the_run_holds_models_and_a_log_and_nothing_to_resume_from(finished) -> None:
    directories = sorted(path.name for path in finished.iterdir() if path.is_dir())
    assert directories == ["checkpoint-2", "checkpoint-5"]
    for directory in (finished, finished / "checkpoint-2", finished / "checkpoint-5"):
        AutoModelForCausalLM.from_pretrained(directory)
        assert AutoTokenizer.from_pretrained(directory).chat_template
        assert (directory / "generation_config.json").is_file()
        assert not [*directory.glob("*.pt"), *directory.glob("*.bin"), *directory.glob("*.pth")]
    last, at_five = (load_file(path / "model.safetensors") for path in (finished, finished / "checkpoint-5"))
    assert all(last[name].equal(at_five[name]) for name in last)


def test_the_manifest_says_what_rl_did(finished, model) -> None:
    results = read_manifest(finished)["results"]
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    assert results["steps"] == 5
    assert results["update/norm"] > 0
    assert results["rl/generated_tokens"] == lines[-1]["rl/generated_tokens"]
    assert len(results["kl_reference"]) == 64
    assert results["stop_token_ids"] == [AutoTokenizer.from_pretrained(model).eos_token_id]


def test_a_second_run_does_nothing(finished, model) -> None:
    before = files_of(finished)
    assert grpo.run(config_for(model, finished)) == finished
    assert files_of(finished) == before


@pytest.mark.parametrize("killed_at", [1, 4])
def test_a_killed_run_goes_on_to_the_same_bytes(finished, model, tmp_path, monkeypatch, killed_at) -> None:
    config = config_for(model, tmp_path / "run")

    class KilledError(Exception):
        pass

    class Kill(grpo_callbacks.StepSeed):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == killed_at:
                raise KilledError
            super().on_step_begin(args, state, control, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr("pear.training.grpo.StepSeed", Kill)
        with pytest.raises(KilledError):
            grpo.run(config)
    training = partial_path(config.output_dir) / SCRATCH
    assert (training / "checkpoint-3").is_dir() == (killed_at == 4)
    grpo.run(config)
    assert files_of(config.output_dir) == files_of(finished)
    assert read_manifest(config.output_dir)["results"] == read_manifest(finished)["results"]


def test_only_what_changes_a_number_is_hashed(model, finished, tmp_path) -> None:
    config = config_for(model, finished)
    same = config_for("pear:elsewhere/base_0", tmp_path, save_every=1, trainer={"report_to": "none"})
    assert config.hashed() == same.hashed()
    assert not {"model", "output_dir", "save_every"} & set(config.hashed())
    for changes in ({"seed": 1}, {"beta": 0.0}, {"trainer": {"max_grad_norm": 0.1}}, {"micro_batch": 4}):
        assert config_for(model, finished, **changes).hashed() != config.hashed()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoint_steps": [6]}, "6 is after the last of 5 steps"),
        ({"prompts_per_step": 16}, "12 are too few"),
        ({"micro_batch": 5}, "do not divide"),
        ({"max_completion_tokens": 4000}, "512 positions"),
        ({"trainer": {"lerning_rate": 1}}, "Did you mean"),
        ({"trainer": {"learning_rate": 1}}, "set `learning_rate` instead"),
        ({"problems": [{"task": "tiny/afine_chain", "split": "rl", "size": 12}]}, "Did you mean 'tiny/affine_chain'"),
        ({"model": "./nowhere"}, "no such model directory"),
    ],
)
def test_mistakes_are_one_sentence_and_nothing_is_written(model, tmp_path, changes, message) -> None:
    with pytest.raises(UserError, match=message) as caught:
        grpo.run(config_for(model, tmp_path / "run", **changes))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("changes", [{"group_size": 1}, {"beta": -1}, {"stepps": 3}, {"temperature": 0}])
def test_values_out_of_range_are_refused_when_parsed(model, tmp_path, changes) -> None:
    with pytest.raises(UserError, match=next(iter(changes))):
        config_for(model, tmp_path / "run", **changes)


def test_rl_learns_what_the_model_half_knows(model, tmp_path) -> None:
    """On the twelve problems that it trains on, the reward of the last steps is above that of the first."""
    config = config_for(
        model,
        tmp_path / "run",
        prompts_per_step=12,
        group_size=8,
        micro_batch=48,
        steps=16,
        checkpoint_steps=[],
        beta=0.0,
    )
    lines = [json.loads(line) for line in (grpo.run(config) / "metrics.jsonl").read_text().splitlines()]
    first, last = (sum(line["rl/reward"] for line in part) / 4 for part in (lines[:4], lines[-4:]))
    assert last > first + 0.04
    assert "rl/kl_to_start" not in lines[0]
    assert read_manifest(config.output_dir)["results"]["kl_reference"] is None
