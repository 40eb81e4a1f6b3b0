import json

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig, TrainerCallback

from pear.data.rendering import load_tokenizer, render_prompt, stop_token_ids
from pear.errors import UserError
from pear.training.checkpoints import COMPLETE, damage
from pear.training.grpo import (
    check_reference,
    grpo_arguments,
    make_trainer,
    parameters_digest,
    prompt_dataset,
    prompt_order,
)
from pear.training.grpo_callbacks import TRAINING_STATE, checkpoint_callbacks, remove_training_state
from pear.training.grpo_log import SIGNALS, grpo_log, write_metrics
from tests.training.grpo_fixtures import PROBLEMS, save_solver


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> list[str]:
    return [save_solver(tmp_path_factory.mktemp("model"), seed=seed) for seed in (0, 1)]


def arguments(output_dir, **changes):
    values = {
        "prompts_per_step": 4,
        "group_size": 4,
        "micro_batch": 8,
        "steps": 3,
        "max_completion_tokens": 20,
        "temperature": 1.0,
        "beta": 0.01,
        "learning_rate": 1e-3,
        "seed": 0,
        "trainer": {},
    }
    return grpo_arguments(output_dir=output_dir, **{**values, **changes})


def trainer_of(model: str, output_dir, callbacks=(), **changes):
    args = arguments(output_dir, **changes)
    tokenizer = load_tokenizer(model)
    order = prompt_order(len(PROBLEMS), 4, args.max_steps, args.seed)
    dataset = prompt_dataset(PROBLEMS, order)
    return make_trainer(model, tokenizer, stop_token_ids(tokenizer, model), dataset, args, callbacks)


class TestArguments:
    def test_the_papers_batch_is_128_prompts_with_a_group_each(self, tmp_path) -> None:
        args = arguments(
            tmp_path / "t", prompts_per_step=128, group_size=8, micro_batch=16, learning_rate=1e-6, trainer={}
        )
        assert args.generation_batch_size == 128 * 8
        assert args.per_device_train_batch_size * args.gradient_accumulation_steps == 128 * 8
        assert args.steps_per_generation == args.gradient_accumulation_steps == 64
        assert args.num_iterations == 1

    def test_the_defaults_are_the_papers(self, tmp_path) -> None:
        args = arguments(tmp_path / "t")
        assert args.loss_type == "grpo"
        assert args.scale_rewards == "group"
        assert args.lr_scheduler_type == "constant"
        assert args.use_bias_correction_kl is False
        assert args.warmup_steps == 0
        assert args.top_p == 1.0
        assert not (tmp_path / "t").exists()

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"micro_batch": 3}, "4 prompts x 4 = 16 completions"),
            ({"trainer": {"learnin_rate": 1}}, "learning_rate"),
            ({"trainer": {"num_generations": 4}}, "group_size"),
            ({"trainer": {"max_steps": 4}}, "`steps`"),
            ({"trainer": {"num_iterations": 2}}, "one generation batch"),
            ({"trainer": {"sync_ref_model": True}}, "the run's own start"),
            ({"trainer": {"chat_template_kwargs": {}}}, "prompts are rendered"),
            ({"trainer": {"max_grad_norm": "one"}}, "max_grad_norm"),
            ({"trainer": {"auto_find_batch_size": True}}, "TRL refuses"),
            ({"trainer": {"use_vllm": True}}, r"pip install 'pear-sft\[vllm\]'"),
        ],
    )
    def test_mistakes_are_one_sentence(self, tmp_path, changes, message) -> None:
        with pytest.raises(UserError, match=message) as caught:
            arguments(tmp_path / "t", **changes)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "t").exists()

    def test_text_is_coerced_as_yaml_needs_it(self, tmp_path) -> None:
        assert arguments(tmp_path / "t", trainer={"max_grad_norm": "5e-1"}).max_grad_norm == 0.5


class TestPrompts:
    def test_no_step_has_a_problem_twice_and_a_pass_has_each_once(self) -> None:
        order = prompt_order(12, 4, 6, seed=1)
        steps = [order[start : start + 4] for start in range(0, 24, 4)]
        assert all(len(set(step)) == 4 for step in steps)
        assert sorted(order[:12]) == sorted(order[12:]) == list(range(12))
        assert order[:12] != order[12:]

    def test_a_longer_run_begins_as_a_shorter_one(self) -> None:
        assert prompt_order(13, 4, 9, seed=1)[:20] == prompt_order(13, 4, 5, seed=1)
        assert prompt_order(13, 4, 5, seed=1) != prompt_order(13, 4, 5, seed=2)

    def test_two_models_see_the_same_prompts_in_the_same_order(self, models, tmp_path) -> None:
        seen = []
        for number, model in enumerate(models):
            trainer = trainer_of(model, tmp_path / str(number), steps=4)
            loader = trainer.get_train_dataloader()
            seen.append([[row["problem"] for row in batch] for batch in loader])
        assert seen[0] == seen[1]
        first_step = seen[0][0]
        assert [first_step.count(text) for text in dict.fromkeys(first_step)] == [4] * 4
        # Two micro-batches a step: TRL repeats a step's generation batch for each.
        assert seen[0][0] == seen[0][1] != seen[0][2]
        assert len(seen[0]) == 4 * 2
        expected = [PROBLEMS[index].id for index in prompt_order(len(PROBLEMS), 4, 4, seed=0)]
        drawn = [json.loads(text)["id"] for batch in seen[0][::2] for text in batch[::4]]
        assert drawn == expected

    def test_trl_renders_prompts_as_we_do(self, models, tmp_path) -> None:
        trainer = trainer_of(models[0], tmp_path)
        rows = [next(iter(trainer.get_train_dataloader()))[place] for place in (0, 4, 8)]
        ids, _, _ = trainer._tokenize_prompts([row["prompt"] for row in rows])
        assert ids == [render_prompt(trainer.processing_class, row["prompt"]) for row in rows]


class TestReference:
    def test_it_is_the_runs_own_start(self, models, tmp_path) -> None:
        digests = {check_reference(trainer_of(model, tmp_path / str(i))) for i, model in enumerate(models)}
        starts = {parameters_digest(AutoModelForCausalLM.from_pretrained(model)) for model in models}
        assert digests == starts
        assert len(starts) == 2

    def test_another_model_is_found_out(self, models, tmp_path) -> None:
        trainer = trainer_of(models[0], tmp_path)
        with torch.no_grad():
            trainer.ref_model.model.norm.weight[0] += 1e-6
        with pytest.raises(RuntimeError, match="not the model"):
            check_reference(trainer)

    def test_without_kl_there_is_none(self, models, tmp_path) -> None:
        trainer = trainer_of(models[0], tmp_path, beta=0.0)
        assert trainer.ref_model is None
        assert check_reference(trainer) is None

    def test_stop_tokens_are_those_that_sft_taught(self, tmp_path) -> None:
        path = save_solver(tmp_path / "model", seed=0, until=100.0)
        GenerationConfig(eos_token_id=[1, 7], pad_token_id=0).save_pretrained(path)
        trainer = trainer_of(path, tmp_path / "run")
        assert set(trainer.eos_token_ids) == {1, 7}
        assert set(trainer.generation_config.eos_token_id) == {1, 7}


class TestTraining:
    @pytest.fixture(scope="class")
    def trained(self, models, tmp_path_factory):
        output = tmp_path_factory.mktemp("run")
        trainer = trainer_of(models[0], output / "training", checkpoint_callbacks([1], save_every=2))
        trainer.train()
        trainer.save_model(str(output / "final"))
        return trainer, output

    def test_the_log_has_one_line_a_step_under_both_names(self, trained) -> None:
        trainer = trained[0]
        lines = grpo_log(trainer.state.log_history, 16)
        assert [line["step"] for line in lines] == [1, 2, 3]
        for line in lines:
            assert all(line[name] == line[source] for name, source in SIGNALS.items())
            assert "step_time" not in line
        prompt_tokens = 4 * sum(
            len(render_prompt(trainer.processing_class, PROBLEMS[index].prompt))
            for index in prompt_order(len(PROBLEMS), 4, 3, seed=0)
        )
        assert lines[-1]["rl/generated_tokens"] == lines[-1]["num_tokens"] - prompt_tokens

    def test_the_kl_starts_at_zero(self, trained) -> None:
        lines = grpo_log(trained[0].state.log_history, 16)
        assert lines[0]["rl/reward"] > 0
        assert lines[0]["rl/kl_to_start"] == 0.0
        assert all(line["rl/kl_to_start"] > 0 for line in lines[1:])

    def test_checkpoints_that_are_not_wanted_go(self, trained) -> None:
        training = trained[1] / "training"
        assert sorted(path.name for path in training.glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-2"]
        assert (training / "checkpoint-2" / COMPLETE).is_file()
        assert (training / "checkpoint-2" / "optimizer.pt").is_file()
        kept = {path.name for path in (training / "checkpoint-1").iterdir()}
        assert not kept & {"optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"}
        assert damage(training / "checkpoint-1") is not None, "nobody resumes from it"
        assert damage(training / "checkpoint-1", TRAINING_STATE) is None, "but its model is known to be whole"
        AutoModelForCausalLM.from_pretrained(training / "checkpoint-1")

    def test_the_generation_configuration_is_left_as_it_was(self, trained, models) -> None:
        before, after = (GenerationConfig.from_pretrained(path) for path in (models[0], trained[1] / "final"))
        assert before.to_diff_dict() == after.to_diff_dict()

    def test_the_pickles_go(self, trained) -> None:
        final = trained[1] / "final"
        assert (final / "training_args.bin").is_file()
        remove_training_state(final)
        assert not list(final.glob("*.bin"))

    def test_a_steps_draws_do_not_hang_on_the_steps_before(self, models, tmp_path) -> None:
        """Two models, after different steps: at one seed the third step's draws are the same numbers."""
        states = []

        class Spy(TrainerCallback):
            def on_step_begin(self, args, state, control, **kwargs):
                if state.global_step == 2:
                    states.append(torch.random.get_rng_state())

        for number, model in enumerate(models):
            trainer_of(model, tmp_path / str(number), [Spy()], beta=0.0).train()
        assert torch.equal(*states)


def test_what_is_not_finite_is_null_in_the_log(tmp_path) -> None:
    write_metrics(tmp_path / "metrics.jsonl", [{"step": 1, "loss": float("nan"), "note": "text"}])
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, "loss": None, "note": "text"}
