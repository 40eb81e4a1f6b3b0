from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from pear.data.rendering import load_tokenizer, render_prompt
from pear.errors import UserError
from pear.runs import read_manifest
from pear.stages.pretrain import PretrainConfig, run
from pear.tasks import TASKS, GeneratedTask

TRAINER = {"max_steps": 3, "per_device_train_batch_size": 8, "max_length": 128}


def config(output_dir: Path, **values: object) -> PretrainConfig:
    problems = [{"task": "tiny/affine_chain", "level": level, "split": "sft", "size": 20} for level in ("n1", "n2")]
    given = {"problems": problems, "hidden_size": 16, "num_layers": 1, "num_heads": 2, "trainer": TRAINER, **values}
    return PretrainConfig.parse({**given, "output_dir": output_dir}, source="test")


def test_a_model_from_scratch_loads_in_transformers_and_knows_the_game(tmp_path: Path) -> None:
    out = run(config(tmp_path / "out", shares=[3, 1], examples=40))
    model = AutoModelForCausalLM.from_pretrained(out)
    tokenizer = load_tokenizer(str(out))
    task = TASKS["tiny/affine_chain"]
    assert isinstance(task, GeneratedTask)
    problem = task.generate(0, "n8")
    solution = task.solve(problem)
    assert solution is not None
    ids = render_prompt(tokenizer, list(problem.prompt)) + tokenizer(solution).input_ids
    assert tokenizer.unk_token_id not in ids
    assert max(ids) < model.config.vocab_size
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert not set(tokenizer("<think> </answer>").input_ids) & set(tokenizer.all_special_ids)
    results = read_manifest(out)["results"]
    assert results["trajectories"] == 40
    assert results["num_parameters"] == model.num_parameters()


def test_the_seed_decides_everything(tmp_path: Path) -> None:
    weights = [
        (run(config(tmp_path / name, seed=seed)) / "model.safetensors").read_bytes()
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert weights[0] == weights[1] != weights[2]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"problems": [{"task": "synlogic/survo", "split": "sft", "size": 2}]}, "synlogic/survo: has no vocabulary"),
        ({"num_heads": 3}, "not a multiple of num_heads"),
        ({"shares": [1, 1]}, "shares and examples belong together"),
        ({"shares": [1], "examples": 8}, "1 numbers for 2 problem sets"),
        ({"trainer": {"learning_rat": 1}}, "Did you mean 'learning_rate'?"),
    ],
)
def test_mistakes_write_nothing(tmp_path: Path, values: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence.replace("?", r"\?")):
        run(config(tmp_path / "out", **values))
    assert list(tmp_path.iterdir()) == []
