"""`pear sft` on a buffer: what it writes, refuses and goes on from."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from pear.data.buffer import BufferManifest, BufferWriter
from pear.data.rendering import added_tokens, tokenizer_digest, vocabulary_digest
from pear.errors import UserError
from pear.models import resolve_model
from pear.objectives import OBJECTIVES
from pear.runs import SCRATCH, Run, read_manifest
from pear.stages import score
from pear.stages.sft import VERSION, SftConfig, run
from tests.stages.test_golden import solver_traces
from tests.training.sft_fixtures import (
    EOS,
    build_model,
    build_rows,
    build_tokenizer,
    pear_trainer,
    run_on_two_processes,
    save_model,
)

TRAINER: dict[str, Any] = {
    "learning_rate": "1e-2",
    "per_device_train_batch_size": 4,
    "logging_steps": 2,
    "save_steps": 4,
}


LOSSES = [5.395, 7.054, 6.790, 6.275, 5.886, 5.608]


def write_buffer(directory: Path, words: int = 64, **change: Any) -> Path:
    """48 right trajectories and 16 wrong ones; the right ones end with EOS unless cut by length."""
    tokenizer = build_tokenizer(words)
    manifest = BufferManifest(
        tokenizer_digest=tokenizer_digest(tokenizer), vocabulary_digest=vocabulary_digest(tokenizer),
        added_tokens=added_tokens(tokenizer), stop_token_ids=(EOS,), behavior_model="random",
        behavior_model_digest="0" * 64, processed_log_probs=None, sampling=None, engine="none", verified=True,
    )  # fmt: skip
    directory.mkdir()
    writer = BufferWriter(directory, manifest)
    rows = []
    for i, row in enumerate(build_rows(64, longest=12)):
        rows.append(
            {
                "problem_id": f"p{i}", "task": "none", "split": "train", "problem": "",
                "prompt": [{"role": "user", "content": f"w{i % 7} w3"}], "behavior_prompt_ids": row["prompt_ids"],
                "completion_ids": row["completion_ids"], "behavior_log_probs": row["behavior_log_probs"],
                "behavior_processed_log_probs": None, "completion": "", "correct": i % 4 != 0, "reward": 1.0,
                "reason": "", "finish": "stop", "behavior_model": "random", "sampling": "{}", **change,
            }
        )  # fmt: skip
    writer.write_shard(0, rows)
    writer.close(1)
    return directory


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("inputs")
    return {"model": str(save_model(root / "model")), "buffer": str(write_buffer(root / "buffer"))}


def files(directory: Path) -> dict[str, bytes]:
    return {
        file.name: file.read_bytes()
        for file in directory.iterdir()
        if file.suffix in (".safetensors", ".jsonl", ".json") and file.name != "manifest.json"
    }


@pytest.fixture(scope="module")
def trained(inputs: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("sft") / "run"
    return run(SftConfig(**inputs, trainer=TRAINER, seed=5, output_dir=output))


def test_a_run_writes_a_loadable_model_and_its_metrics(trained: Path, inputs: dict[str, str]) -> None:
    model = AutoModelForCausalLM.from_pretrained(trained)
    assert AutoTokenizer.from_pretrained(trained).chat_template == build_tokenizer().chat_template
    assert GenerationConfig.from_pretrained(trained).eos_token_id == EOS
    metrics = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in metrics] == [2, 4, 6, 8, 10, 12]
    assert metrics[0].keys() >= {"loss", "loss/nll", "weights/mean", "weights/effective_sample_size"}
    assert not any("runtime" in key or "per_second" in key for entry in metrics for key in entry)
    results = read_manifest(trained)["results"]
    assert (results["steps"], results["trajectories"], results["dropped"]) == (12, 48, 0)
    before = build_model().state_dict()
    with torch.no_grad():
        changes = [(value.double() - before[name].double()).square().sum() for name, value in model.named_parameters()]
    assert results["update/norm"] == pytest.approx(float(torch.stack(changes).sum().sqrt()), rel=1e-9)
    assert results["update/norm"] > 0.1
    left = {path.name for path in trained.iterdir()}
    assert not left & {SCRATCH, "training_args.bin", "optimizer.pt", "progress.json"}


def test_the_numbers_are_those_of_this_version(trained: Path) -> None:
    """A change of these needs a new `VERSION` of the stage, or of the objective."""
    metrics = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert (VERSION, OBJECTIVES["pear_token"].version) == (1, 1)
    # Other machines sum in another order.
    assert [entry["loss"] for entry in metrics] == pytest.approx(LOSSES, rel=1e-3)


def test_a_second_run_does_nothing_and_another_is_refused(
    trained: Path, inputs: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(trained)
    # How often it logs and saves does not change what it is.
    config = SftConfig(**inputs, trainer={**TRAINER, "logging_steps": 1, "save_steps": 100}, seed=5, output_dir=trained)
    assert run(config) == trained
    assert "complete, nothing to do" in capsys.readouterr().err
    assert files(trained) == before
    with pytest.raises(UserError, match="holds the output of another run"):
        run(SftConfig(**inputs, trainer=TRAINER, seed=6, output_dir=trained))


def test_a_run_killed_in_training_goes_on_to_equal_files(
    trained: Path, inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = SftConfig(**inputs, trainer=TRAINER, seed=5, output_dir=tmp_path / "run")
    report = Run.progress

    def interrupted(self: Run, done: float, total: float, unit: str) -> None:
        if done >= 10:
            raise KeyboardInterrupt
        report(self, done, total, unit)

    with monkeypatch.context() as patched:
        patched.setattr(Run, "progress", interrupted)
        patched.setattr("pear.training.progress._SECONDS", 0.0)
        with pytest.raises(KeyboardInterrupt):
            run(config)
    partial = tmp_path / "run.partial"
    assert sorted(path.name for path in (partial / SCRATCH).glob("checkpoint-*")) == [
        "checkpoint-4",
        "checkpoint-8",
    ]
    assert json.loads((partial / "progress.json").read_text())["done"] == 9
    assert files(run(config)) == files(trained)


def test_a_run_killed_after_training_goes_on_to_equal_files(
    trained: Path, inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = SftConfig(**inputs, trainer=TRAINER, seed=5, output_dir=tmp_path / "run")

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("pear.training.sft_run._write_metrics", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(config)
    assert (tmp_path / "run.partial" / SCRATCH / "checkpoint-12" / "COMPLETE").is_file()
    assert files(run(config)) == files(trained)


def test_the_objective_changes_the_model(trained: Path, inputs: dict[str, str], tmp_path: Path) -> None:
    config = SftConfig(**inputs, objective="nll", trainer=TRAINER, seed=5, output_dir=tmp_path / "run")
    other = load_file(run(config) / "model.safetensors")
    assert any(not torch.equal(value, other[name]) for name, value in load_file(trained / "model.safetensors").items())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"objective": "pear_tokn"}, "Did you mean 'pear_token'"),
        ({"objective_kwargs": {"gama": 1}}, "gama"),
        ({"trainer": {"learning_rat": 1}}, "Did you mean 'learning_rate'"),
        ({"trainer": {"learning_rate": "fast"}}, "learning_rate"),
        ({"trainer": {"lr_scheduler_type": "square"}}, "square"),
        ({"trainer": {"seed": 1}}, "trainer.seed: the stage sets it"),
        ({"trainer": {"ref_model": "m"}}, "trainer.ref_model: the stage sets it"),
        ({"trainer": {"normalizer": "words"}}, "normalizer: 'words' is unknown"),
        ({"ref_model": "pear:affine_chain/base_1"}, "ref_model: PearToken does not read it"),
        ({"objective": "sft_kl", "ref_model": "pear:affine_chain/base_1"}, "another vocabulary"),
        ({"objective": "forward_kl"}, "holds no log-probs of a teacher's likeliest tokens"),
        ({"objective": "forward_kl", "teacher_model": "missing/teacher/model"}, "no such model directory"),
        ({"behavior": "processed"}, "needs the column 'behavior_processed_log_probs'"),
        ({"trainer": {"max_length": 8}}, "longer than max_length=8"),
        ({"model": "pear:none/none"}, "pear:none/none"),
        ({"buffer": "missing"}, "not a buffer"),
    ],
)
def test_mistakes_write_nothing(change: dict[str, Any], sentence: str, inputs: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=sentence):
        run(SftConfig(**{**inputs, "trainer": TRAINER, **change, "output_dir": tmp_path / "run"}))
    assert list(tmp_path.iterdir()) == []


def test_fields_that_are_not_used_leave_the_fingerprint_as_it_was() -> None:
    config = SftConfig(model="m", buffer="b", output_dir=Path("o"))
    assert config.hashed().keys() == {"objective", "objective_kwargs", "overflow", "seed", "trainer"}
    used = config.model_copy(update={"behavior": "processed", "max_negative_share": 0.25})
    assert used.hashed().keys() == config.hashed().keys() | {"behavior", "max_negative_share"}


def test_failures_are_trained_on_where_the_objective_uses_them(inputs: dict[str, str], tmp_path: Path) -> None:
    """48 right and 16 wrong ones; with a fifth of failures 12 of these."""
    trainer = {**TRAINER, "max_steps": 2}
    ends: dict[float, dict[str, Any]] = {}
    for share in (0.5, 0.2):
        config = SftConfig(
            **inputs, objective="negatives", max_negative_share=share, trainer=trainer,
            output_dir=tmp_path / str(share),
        )  # fmt: skip
        ends[share] = read_manifest(run(config))["results"]
    assert [(end["trajectories"], end["failures"]) for end in ends.values()] == [(64, 16), (60, 12)]
    card = (tmp_path / "0.2" / "README.md").read_text()
    assert "the 48 correct of 64 trajectories" in card
    assert "with 12 of its failures" in card


def test_a_stored_teacher_is_the_live_one(tmp_path: Path) -> None:
    """With the whole vocabulary stored, but for float32 the same loss and weights."""
    teacher = "pear:affine_chain/behavior"
    size = len(AutoTokenizer.from_pretrained(resolve_model(teacher)))
    buffer = score.run(
        score.ScoreConfig(
            model=teacher, inputs=[str(solver_traces(tmp_path / "traces.jsonl"))], teacher_top_k=size,
            output_dir=tmp_path / "buffer",
        )
    )  # fmt: skip
    ends = []
    for name, others in (("live", {"teacher_model": teacher}), ("stored", {})):
        config = SftConfig(
            model="pear:affine_chain/base_1", buffer=str(buffer), objective="forward_kl",
            trainer={**TRAINER, "max_steps": 3, "learning_rate": 1e-3, "max_length": 128}, output_dir=tmp_path / name,
            **others,
        )  # fmt: skip
        ends.append(read_manifest(run(config))["results"])
    live, stored = ends
    assert stored["loss"] == pytest.approx(live["loss"], rel=1e-4)
    assert stored["update/norm"] == pytest.approx(live["update/norm"], rel=1e-3)


def test_a_named_reference_is_an_input_of_the_run(inputs: dict[str, str], tmp_path: Path) -> None:
    config = {**inputs, "objective": "sft_kl", "trainer": {**TRAINER, "max_steps": 3}}
    default = run(SftConfig(**config, output_dir=tmp_path / "default"))
    named = run(SftConfig(**config, ref_model=inputs["model"], output_dir=tmp_path / "named"))
    assert files(named)["model.safetensors"] == files(default)["model.safetensors"]
    assert read_manifest(named)["inputs"].keys() == {"model", "buffer", "ref_model"}
    assert read_manifest(default)["inputs"].keys() == {"model", "buffer"}


def test_buffers_that_do_not_fit_are_refused(inputs: dict[str, str], tmp_path: Path) -> None:
    foreign = write_buffer(tmp_path / "foreign", words=63)
    unknown_stop = write_buffer(tmp_path / "unknown_stop", completion_ids=[9, 8], behavior_log_probs=[-1.0, -1.0])
    wrong = write_buffer(tmp_path / "wrong", correct=False)
    for buffer, sentence in (
        (foreign, "vocabulary"),
        (unknown_stop, r"end in the ids \[8\]"),
        (wrong, "none of its 64"),
    ):
        with pytest.raises(UserError, match=sentence):
            run(SftConfig(model=inputs["model"], buffer=str(buffer), trainer=TRAINER, output_dir=tmp_path / "run"))
    assert not (tmp_path / "run.partial").exists()


def test_the_trainer_takes_a_buffer_by_its_directory(inputs: dict[str, str], tmp_path: Path) -> None:
    trainer = pear_trainer(tmp_path, inputs["buffer"], trainer={"eval_dataset": Path(inputs["buffer"])})
    assert (len(trainer.train_dataset), len(trainer.eval_dataset)) == (48, 48)
    assert trainer.evaluate(inputs["buffer"]).keys() >= {"eval_loss", "eval_weights/mean"}
    with pytest.raises(UserError, match="vocabulary"):
        pear_trainer(tmp_path, write_buffer(tmp_path / "foreign", words=63))


def test_completions_that_never_stop_are_noted(
    inputs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    buffer = write_buffer(tmp_path / "cut", finish="length")
    run(
        SftConfig(
            model=inputs["model"], buffer=str(buffer), trainer={**TRAINER, "max_steps": 1}, output_dir=tmp_path / "r"
        )
    )
    assert "not taught to stop" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_write_one_run(trained: Path, inputs: dict[str, str], tmp_path: Path) -> None:
    trainer = {**TRAINER, "per_device_train_batch_size": 2}
    values = {**inputs, "trainer": trainer, "seed": 5, "output_dir": str(tmp_path / "run")}
    run_on_two_processes(Path(__file__).with_name("two_process_sft.py"), json.dumps(values))
    both, alone = read_manifest(tmp_path / "run")["results"], read_manifest(trained)["results"]
    assert both["update/norm"] == pytest.approx(alone["update/norm"], rel=1e-3)
    assert both["tokens"] == alone["tokens"]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
