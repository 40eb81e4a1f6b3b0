import json

import pytest

from pear.data.rendering import decode_completion
from pear.tasks import TASKS, Problem
from pear.training.rewards import verifier_reward
from pear.training.tiny_models import END, build_tokenizer

TASK = TASKS["tiny/affine_chain"]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(TASK.vocabulary)


def columns(problems):
    return {
        "prompts": [list(problem.prompt) for problem in problems],
        "task": [problem.task for problem in problems],
        "problem": [problem.to_json() for problem in problems],
        "trainer_state": None,
    }


def test_only_a_right_solution_is_rewarded(tokenizer) -> None:
    problem, other = TASK.generate(0, "n4"), TASK.generate(1, "n4")
    while other.answer == problem.answer:
        other = TASK.generate(int(other.id.rpartition("/")[2]) + 1, "n4")
    ids = [[*tokenizer(TASK.solve(each)).input_ids, tokenizer.eos_token_id] for each in (problem, other)]
    reward = verifier_reward(tokenizer)
    assert reward(**columns([problem, problem, other]), completion_ids=[*ids, ids[1]]) == [1.0, 0.0, 1.0]
    assert reward.__name__ == "verifier"


def test_the_lenient_rule_rewards_right_answers_whatever_the_tags(tokenizer) -> None:
    problem = TASK.generate(0, "n4")
    whole = TASK.solve(problem)
    texts = [whole, whole.removeprefix("<think>"), whole.replace(problem.answer, "")]
    ids = [[*tokenizer(text).input_ids, tokenizer.eos_token_id] for text in texts]
    rows = columns([problem] * 3)
    assert verifier_reward(tokenizer)(**rows, completion_ids=ids) == [1.0, 0.0, 0.0]
    assert verifier_reward(tokenizer, tags="strict")(**rows, completion_ids=ids) == [1.0, 0.0, 0.0]
    assert verifier_reward(tokenizer, tags="lenient")(**rows, completion_ids=ids) == [1.0, 1.0, 0.0]


def test_trls_own_text_is_not_read(tokenizer) -> None:
    """TRL drops special tokens from the text it offers; the ids still say what was written."""
    special = build_tokenizer(TASK.vocabulary)
    special.add_special_tokens({"additional_special_tokens": ["<think>", "</think>", "<answer>", "</answer>"]})
    problem = TASK.generate(0, "n4")
    ids = [*special(TASK.solve(problem)).input_ids, special.eos_token_id]
    assert "<answer>" not in special.decode(ids, skip_special_tokens=True)
    reward = verifier_reward(special)
    assert reward(**columns([problem]), completions=[[{"content": "nothing"}]], completion_ids=[ids]) == [1.0]


def test_each_row_goes_to_the_verifier_of_its_own_task(tokenizer) -> None:
    other = TASKS["tiny/permutation_chain"]
    problems = [TASK.generate(3, "n4"), other.generate(3, other.levels[0]), TASK.generate(4, "n4")]
    wide = build_tokenizer(tuple(dict.fromkeys([*TASK.vocabulary, *other.vocabulary])))
    ids = [[*wide(TASKS[each.task].solve(each)).input_ids, wide.eos_token_id] for each in problems]
    assert verifier_reward(wide)(**columns(problems), completion_ids=ids) == [1.0, 1.0, 1.0]


def test_any_ids_get_a_reward(tokenizer) -> None:
    problem = TASK.generate(0, "n4")
    garbage = [[], [tokenizer.eos_token_id], [tokenizer.pad_token_id] * 3, list(range(len(tokenizer)))]
    assert verifier_reward(tokenizer)(**columns([problem] * 4), completion_ids=garbage) == [0.0] * 4


def test_a_stop_token_of_the_generation_configuration_is_no_part_of_the_answer(tokenizer) -> None:
    problem = TASK.generate(0, "n4")
    stop = tokenizer.convert_tokens_to_ids("!")
    ids = [*tokenizer(TASK.solve(problem)).input_ids, stop]
    assert decode_completion(tokenizer, ids).endswith("!")
    assert verifier_reward(tokenizer)(**columns([problem]), completion_ids=[ids]) == [0.0]
    stops = [tokenizer.convert_tokens_to_ids(END), stop]
    assert verifier_reward(tokenizer, stops)(**columns([problem]), completion_ids=[ids]) == [1.0]


def test_a_problem_is_the_same_after_json() -> None:
    problem = TASK.generate(0, "n4")
    assert Problem.from_json(problem.to_json()) == problem
    assert json.loads(problem.to_json())["task"] == problem.task
