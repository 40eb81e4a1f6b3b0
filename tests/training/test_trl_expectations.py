"""What users of TRL expect: plain checkpoints, model cards, `push_to_hub`, trackers, LoRA, buffers as data sets."""

import dataclasses
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, load_dataset
from huggingface_hub import CommitInfo, HfApi, ModelCard, RepoUrl
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from pear.data.buffer import SCHEMA, load_buffer
from pear.errors import UserError
from pear.models import resolve_model
from pear.objectives import OBJECTIVES, make_objective
from pear.runs import Run, file_digest, read_manifest
from pear.stages import grpo, sft
from pear.training import PearConfig
from pear.training.model_card import describe_rows
from tests.stages.test_sft import TRAINER, write_buffer
from tests.training.grpo_fixtures import PROBLEM_SET, save_solver
from tests.training.sft_fixtures import EOS, build_model, build_rows, build_tokenizer, pear_trainer, save_model

LORA = {"r": 4, "lora_alpha": "8", "target_modules": ["q_proj", "v_proj", "k_proj"]}
TRACKERS = ("tensorboard", "trackio", "wandb")
RL: dict[str, Any] = {
    "problems": [PROBLEM_SET], "steps": 1, "prompts_per_step": 2, "group_size": 2, "micro_batch": 4,
    "max_completion_tokens": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("inputs")
    return {"model": str(save_model(root / "model")), "buffer": str(write_buffer(root / "buffer"))}


@pytest.fixture(scope="module")
def trained(inputs: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = sft.SftConfig(
        **inputs,
        objective_kwargs={"gamma": 0.5},
        trainer={**TRAINER, "report_to": "tensorboard"},
        output_dir=tmp_path_factory.mktemp("sft") / "run",
    )
    return sft.run(config)


@pytest.fixture(scope="module")
def adapted(inputs: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = sft.SftConfig(**inputs, trainer=TRAINER, lora=LORA, output_dir=tmp_path_factory.mktemp("lora") / "run")
    return sft.run(config)


@pytest.fixture(scope="module")
def reinforced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("rl")
    model = save_solver(root / "model", seed=1, until=2.0)
    return grpo.run(
        grpo.GrpoConfig(
            model=model, **RL, checkpoint_steps=[1], trainer={"report_to": "tensorboard"}, output_dir=root / "run"
        )
    )


def buffer_digest(inputs: dict[str, str]) -> str:
    return file_digest(Path(inputs["buffer"]) / "buffer.json")


def without(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a package look as if it were not installed."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == package else find(name, *rest))


def assert_plain(directory: Path, stops: list[int]) -> None:
    """Loads with `transformers` alone, and generates until one of the stops."""
    model = AutoModelForCausalLM.from_pretrained(directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    assert tokenizer.chat_template
    configured = GenerationConfig.from_pretrained(directory).eos_token_id
    assert (configured if isinstance(configured, list) else [configured]) == stops
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "w1"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    assert model.generate(**prompt, max_new_tokens=2).shape[1] > prompt["input_ids"].shape[1]
    assert not list(directory.rglob("*.bin")) + list(directory.rglob("*.pt"))


def test_checkpoints_of_stages_are_plain_models(trained: Path, adapted: Path, reinforced: Path) -> None:
    for directory in (trained, adapted):
        assert_plain(directory, [EOS])
    stops = read_manifest(reinforced)["results"]["stop_token_ids"]
    for directory in (reinforced, reinforced / "checkpoint-1"):
        assert_plain(directory, stops)


@pytest.mark.slow
def test_a_process_without_this_package_reads_a_checkpoint(trained: Path) -> None:
    code = (
        "import sys; from transformers import AutoModelForCausalLM, AutoTokenizer;"
        "AutoModelForCausalLM.from_pretrained(sys.argv[1]); AutoTokenizer.from_pretrained(sys.argv[1]);"
        "assert not [name for name in sys.modules if name.split('.')[0] in ('pear', 'trl')]"
    )
    subprocess.run([sys.executable, "-c", code, str(trained)], check=True, timeout=120)


def test_checkpoints_of_the_trainer_are_plain_models(tmp_path: Path) -> None:
    trainer = pear_trainer(tmp_path, build_rows(8), max_steps=2, save_strategy="steps", save_steps=1)
    trainer.train()
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint-2")
    assert torch.equal(model.lm_head.weight, trainer.model.lm_head.weight)
    assert AutoTokenizer.from_pretrained(tmp_path / "checkpoint-2").get_vocab() == build_tokenizer().get_vocab()


def test_the_card_of_a_run_names_objective_buffer_and_paper(trained: Path, inputs: dict[str, str]) -> None:
    card = ModelCard.load(trained / "README.md")
    assert card.data.tags == ["generated_from_trainer", "pear", "sft", "trl"]
    for wanted in (
        "SFT with the objective `pear_token`",
        "`gamma`: `0.5`",
        "`log_ratio_clip`: `(-0.08, 0.3)`",
        "`log_weight_clip`: `(-10.0, 5.0)`",
        f"48 correct of 64 trajectories of a buffer, buffer.json sha256 `{buffer_digest(inputs)}`",
        "https://arxiv.org/abs/2602.01058",
        "method introduced in [Good SFT Optimizes for SFT, Better SFT Prepares for Reinforcement Learning]",
        "journal = {arXiv preprint arXiv:2602.01058}",
        "TRL: Transformers Reinforcement Learning",
    ):
        assert wanted in card.text, wanted
    assert "None" not in card.content
    assert str(trained.parent) not in card.content
    assert str(Path(inputs["buffer"]).parent) not in card.content
    assert not re.search(r"\d{4}-\d\d-\d\d", card.content)


def test_equal_runs_have_equal_cards(trained: Path, inputs: dict[str, str], tmp_path: Path) -> None:
    again = sft.run(
        sft.SftConfig(**inputs, objective_kwargs={"gamma": 0.5}, trainer=TRAINER, output_dir=tmp_path / "again")
    )
    assert (again / "README.md").read_bytes() == (trained / "README.md").read_bytes()
    assert not (again / "tensorboard").exists()
    assert read_manifest(again)["fingerprint"] == read_manifest(trained)["fingerprint"]


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_the_trainer_writes_the_card_of_any_objective(name: str, tmp_path: Path) -> None:
    uses_failures = "is_negative" in make_objective(name, {}).requires
    rows = [{**row, "correct": index % 2 == 0} if uses_failures else row for index, row in enumerate(build_rows(4))]
    teacher = {"teacher_model": build_model()} if name == "forward_kl" else {}
    trainer = pear_trainer(tmp_path, rows, objective=name, trainer=teacher)
    trainer.create_model_card(model_name="small", tags="mine")
    card = ModelCard.load(tmp_path / "README.md")
    assert f"objective `{name}`" in card.text
    values = dataclasses.asdict(make_objective(name, {}))
    assert all((f"`{field}`" in card.text) == (value is not None) for field, value in values.items())
    # Plain SFT and single-step weights are older than the paper that compares them.
    assert ("a method introduced in" in card.text) == name.startswith("pear_")
    assert "arXiv:2602.01058" in card.text
    assert "mine" in card.data.tags
    assert "4 trajectories, sha256 `" in card.text


def test_the_card_counts_what_was_dropped(inputs: dict[str, str], tmp_path: Path) -> None:
    trainer = pear_trainer(tmp_path, load_buffer(inputs["buffer"]), max_length=12, overflow="drop")
    trainer.create_model_card(model_name="small")
    assert 0 < trainer.dropped["train"] < 48
    text = (tmp_path / "README.md").read_text()
    assert f"Trained on {48 - trainer.dropped['train']} trajectories" in text
    assert f"; {trainer.dropped['train']} longer than 12 tokens left out." in text


def test_rows_are_named_by_what_they_hold() -> None:
    rows = build_rows(6)
    described = describe_rows(Dataset.from_list(rows))
    assert described == describe_rows(Dataset.from_list(rows[::-1]).select(range(5, -1, -1)))
    for column, value in (("completion_ids", 9), ("behavior_log_probs", -0.25), ("prompt_ids", 7)):
        changed = [{**row, column: [*row[column]]} for row in rows]
        changed[3][column][0] = value
        assert describe_rows(Dataset.from_list(changed)) != described, column


class Uploads:
    """What `huggingface_hub` would have sent."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.created: list[str] = []
        self.folders: list[tuple[str, set[str]]] = []
        uploads = self

        def create_repo(api: HfApi, repo_id: str, **options: Any) -> RepoUrl:
            uploads.created.append(repo_id)
            return RepoUrl(f"https://huggingface.co/{repo_id}")

        def upload_folder(api: HfApi, *, repo_id: str, folder_path: str, **options: Any) -> CommitInfo:
            names = {path.name for path in Path(folder_path).iterdir()}
            uploads.folders.append((repo_id, names))
            uploads.card = (Path(folder_path) / "README.md").read_text()
            uploads.weights = load_file(Path(folder_path) / "model.safetensors")
            url = f"https://huggingface.co/{repo_id}/commit/0"
            return CommitInfo(commit_url=url, commit_message="", commit_description="", oid="0")

        monkeypatch.setattr(HfApi, "create_repo", create_repo)
        monkeypatch.setattr(HfApi, "upload_folder", upload_folder)


WANTED = {"README.md", "model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"}


def test_push_to_hub_uploads_card_model_and_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uploads = Uploads(monkeypatch)
    trainer = pear_trainer(tmp_path, build_rows(4), max_steps=1, push_to_hub=True, hub_model_id="me/small")
    trainer.train()
    trainer.push_to_hub()
    assert set(uploads.created) == {"me/small"}
    assert uploads.folders[-1][0] == "me/small"
    assert uploads.folders[-1][1] >= WANTED
    assert "objective `pear_token`" in uploads.card
    assert 'model="me/small"' in uploads.card


@pytest.mark.parametrize("lora", [None, LORA])
def test_a_stage_pushes_what_it_writes(
    lora: Any, inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploads = Uploads(monkeypatch)
    trainer = {**TRAINER, "push_to_hub": True, "hub_model_id": "me/small"}
    output = sft.run(sft.SftConfig(**inputs, lora=lora, trainer=trainer, output_dir=tmp_path / "run"))
    assert uploads.folders[-1][1] >= WANTED
    written = load_file(output / "model.safetensors")
    assert written.keys() == uploads.weights.keys()
    assert all(torch.equal(value, uploads.weights[name]) for name, value in written.items())
    assert buffer_digest(inputs) in uploads.card
    assert buffer_digest(inputs) in (output / "README.md").read_text()


def test_a_grpo_run_is_pushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uploads = Uploads(monkeypatch)
    model = save_solver(tmp_path / "model", seed=1, until=2.0)
    trainer = {"push_to_hub": True, "hub_model_id": "me/small"}
    output = grpo.run(grpo.GrpoConfig(model=model, **RL, trainer=trainer, output_dir=tmp_path / "run"))
    ((repository, names),) = uploads.folders
    assert repository == "me/small"
    assert names >= WANTED
    assert "trained with GRPO" in uploads.card
    written = load_file(output / "model.safetensors")
    assert all(torch.equal(value, uploads.weights[name]) for name, value in written.items())


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"push_to_hub": True}, "needs trainer.hub_model_id"),
        ({"hub_token": "secret"}, "would be written into the manifest"),
        ({"hub_strategy": "every_save"}, "a run is pushed at its end"),
    ],
)
def test_a_stage_says_what_pushing_needs(
    given: dict[str, Any], sentence: str, inputs: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=sentence):
        sft.run(sft.SftConfig(**inputs, trainer=given, output_dir=tmp_path / "run"))
    with pytest.raises(UserError, match=sentence):
        grpo.run(grpo.GrpoConfig(model="pear:affine_chain/base_1", **RL, trainer=given, output_dir=tmp_path / "run"))
    assert not list(tmp_path.iterdir())


def test_pushing_does_not_change_what_a_run_is(inputs: dict[str, str], tmp_path: Path) -> None:
    plain = sft.SftConfig(**inputs, trainer=TRAINER, output_dir=tmp_path)
    pushed = {"push_to_hub": True, "hub_model_id": "me/small", "report_to": "wandb", "project": "mine"}
    assert sft.SftConfig(**inputs, trainer={**TRAINER, **pushed}, output_dir=tmp_path).hashed() == plain.hashed()


def test_a_buffer_opens_as_a_data_set(inputs: dict[str, str], tmp_path: Path) -> None:
    opened = load_dataset("parquet", data_files=f"{inputs['buffer']}/*.parquet", split="train", cache_dir=str(tmp_path))
    assert opened.features.arrow_schema.names == SCHEMA.names
    assert opened.features.arrow_schema.equals(SCHEMA)
    loaded = load_buffer(inputs["buffer"])
    assert opened.filter(lambda row: row["correct"]).to_list() == loaded.to_list()
    assert len(opened) == 64


def scalars(directory: Path) -> dict[str, list[int]]:
    """Steps by tag, of all events of a run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(directory))
    events.Reload()
    return {tag: [event.step for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_gets_the_logs_of_the_trainer(tmp_path: Path) -> None:
    pear_trainer(tmp_path, build_rows(8), max_steps=3, report_to="tensorboard").train()
    (events,) = tmp_path.rglob("events.out.tfevents.*")
    assert scalars(events.parent)["train/weights/effective_sample_size"] == [1, 2, 3]


def test_tensorboard_gets_the_logs_of_stages(trained: Path, reinforced: Path) -> None:
    steps = scalars(trained / "tensorboard")
    assert steps["train/loss"] == steps["train/loss/nll"] == [2, 4, 6, 8, 10, 12]
    assert scalars(reinforced / "tensorboard")["train/reward"] == [1]


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_that_is_missing_is_named(
    name: str, inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(name, monkeypatch)
    sentence = re.escape(f"{name} (`report_to`), which is not installed. Add it with: pip install 'pear-sft[{name}]'")
    with pytest.raises(UserError, match=sentence):
        PearConfig(output_dir=str(tmp_path / "out"), report_to=[name], use_cpu=True, bf16=False)
    with pytest.raises(UserError, match=sentence):
        sft.run(sft.SftConfig(**inputs, trainer={"report_to": name}, output_dir=tmp_path / "run"))
    with pytest.raises(UserError, match=sentence):
        grpo.run(
            grpo.GrpoConfig(
                model="pear:affine_chain/base_1", **RL, trainer={"report_to": name}, output_dir=tmp_path / "run"
            )
        )
    assert not list(tmp_path.iterdir())


def test_a_tracker_nobody_knows_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Did you mean 'tensorboard'"):
        PearConfig(output_dir=str(tmp_path), report_to="tensorbord", use_cpu=True, bf16=False)


def test_every_tracker_has_an_extra() -> None:
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    for name in TRACKERS:
        assert project["optional-dependencies"][name][0].startswith(name)


def test_an_adapter_is_merged_and_kept(adapted: Path, inputs: dict[str, str]) -> None:
    from peft import PeftModel

    merged = AutoModelForCausalLM.from_pretrained(adapted)
    together = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(inputs["model"]), adapted / "adapter")
    ids = torch.tensor([[7, 9, 11, 30]])
    with torch.no_grad():
        expected, base = together(ids).logits, build_model()(ids).logits
        assert torch.allclose(merged(ids).logits, expected, atol=1e-4)
    assert not torch.allclose(expected, base, atol=1e-2)
    before, after = build_model().state_dict(), merged.state_dict()
    changed = {name.split(".")[-2] for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == set(LORA["target_modules"])
    settings = json.loads((adapted / "adapter" / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"]) == (4, 8)
    assert settings["target_modules"] == sorted(LORA["target_modules"])
    assert read_manifest(adapted)["results"]["update/norm"] > 0.1


def test_a_lora_run_killed_in_training_goes_on_to_equal_files(
    adapted: Path, inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = sft.SftConfig(**inputs, trainer=TRAINER, lora=LORA, output_dir=tmp_path / "run")
    report = Run.progress

    def interrupted(self: Run, done: float, total: float, unit: str) -> None:
        if done >= 6:
            raise KeyboardInterrupt
        report(self, done, total, unit)

    with monkeypatch.context() as patched:
        patched.setattr(Run, "progress", interrupted)
        patched.setattr("pear.training.progress._SECONDS", 0.0)
        with pytest.raises(KeyboardInterrupt):
            sft.run(config)
    torch.manual_seed(99)
    output = sft.run(config)
    adapter = ("adapter/adapter_model.safetensors", "adapter/adapter_config.json")
    for name in ("model.safetensors", "metrics.jsonl", "README.md", *adapter):
        assert (output / name).read_bytes() == (adapted / name).read_bytes(), name


def test_a_merged_model_goes_on_to_grpo(tmp_path: Path, inputs: dict[str, str]) -> None:
    from pear.stages import collect

    model = save_solver(tmp_path / "model", seed=1, until=0.8)
    buffer = collect.run(
        collect.CollectConfig(
            model=model,
            problems=[PROBLEM_SET],
            sampling={"samples": 4, "max_tokens": 24},
            output_dir=tmp_path / "buffer",
        )
    )
    trainer = {"per_device_train_batch_size": 4, "learning_rate": 1e-3, "max_length": 128}
    output = sft.run(
        sft.SftConfig(model=model, buffer=str(buffer), trainer=trainer, lora={"r": 2}, output_dir=tmp_path / "sft")
    )
    reinforced = grpo.run(grpo.GrpoConfig(model=str(output), **RL, output_dir=tmp_path / "rl"))
    assert (reinforced / "model.safetensors").is_file()
    with pytest.raises(UserError, match=r"adapter: a LoRA adapter without the model.*merge_and_unload"):
        grpo.run(grpo.GrpoConfig(model=str(output / "adapter"), **RL, output_dir=tmp_path / "other"))
    assert not (tmp_path / "other").exists()


def test_the_sentence_about_an_adapter_merges_it(inputs: dict[str, str], tmp_path: Path) -> None:
    """A checkpoint of the trainer with `peft_config`, merged as the error says."""
    from peft import LoraConfig

    adapter = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    trainer = pear_trainer(
        tmp_path / "out", build_rows(8), max_steps=2, model=inputs["model"], save_strategy="steps", save_steps=2,
        trainer={"peft_config": adapter},
    )  # fmt: skip
    trainer.train()
    checkpoint = tmp_path / "out" / "checkpoint-2"
    with pytest.raises(UserError) as refused:
        resolve_model(str(checkpoint))
    (code,) = re.findall(r'python -c "(.*?)"', str(refused.value))
    exec(code.replace("MERGED", str(tmp_path / "merged")), {})
    trainer.processing_class.save_pretrained(tmp_path / "merged")
    assert resolve_model(str(tmp_path / "merged")) == str(tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    ids = torch.tensor([[7, 9, 11, 30]])
    with torch.no_grad():
        assert torch.allclose(merged(ids).logits, trainer.model.eval()(ids).logits, atol=1e-4)


@pytest.mark.parametrize(
    ("lora", "sentence"),
    [
        ({"rank": 4}, "lora.rank: LoraConfig has no field"),
        ({"lora_dropot": 0.1}, "Did you mean 'lora_dropout'"),
        ({"r": "many"}, "lora.r: Input should be a valid integer"),
        ({"r": 0}, "lora: `r` should be a positive integer"),
        ({"layers_to_transform": 0, "target_modules": "all"}, "lora: peft refuses these values"),
        ({"target_modules": ["nope"]}, "Target modules .*nope.* not found"),
        ({"target_modules": ["q_proj", "lm_head"]}, "one tensor, so an adapter of either cannot be merged"),
        ({"modules_to_save": ["embed_tokens"]}, "one tensor, so an adapter of either cannot be merged"),
        ({"task_type": "CAUSAL_LM"}, "lora.task_type: follows from the model"),
    ],
)
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings")
def test_lora_that_cannot_be_used_is_refused(
    lora: dict[str, Any], sentence: str, inputs: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=sentence):
        sft.run(sft.SftConfig(**inputs, lora=lora, output_dir=tmp_path / "run"))
    assert not list(tmp_path.iterdir())


def test_lora_without_peft_is_answered_with_the_command(
    inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without("peft", monkeypatch)
    with pytest.raises(UserError, match=re.escape("pip install 'pear-sft[peft]'")):
        sft.run(sft.SftConfig(**inputs, lora={}, output_dir=tmp_path / "run"))
    assert not list(tmp_path.iterdir())


def test_lora_is_part_of_what_a_run_is_only_where_it_is_used(inputs: dict[str, str], tmp_path: Path) -> None:
    plain, adapter = (sft.SftConfig(**inputs, lora=lora, output_dir=tmp_path).hashed() for lora in (None, {}))
    assert "lora" not in plain
    assert adapter == {**plain, "lora": {}}
