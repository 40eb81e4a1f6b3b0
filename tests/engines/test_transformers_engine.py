"""Sampling: against a naive loop, and the laws that it keeps."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from pear.engines import transformers_engine
from pear.engines.protocol import Completion, Sampling
from pear.engines.transformers_engine import TransformersEngine, load_model, resolve_device
from pear.errors import UserError
from tests.engines import naive
from tests.engines.conftest import STOP, VOCABULARY, build, requests

# Longer than the stretch after which ended rows leave a batch.
GREEDY = Sampling(temperature=0, max_tokens=40)


def flat(groups: list[list[Completion]]) -> list[Completion]:
    return [completion for group in groups for completion in group]


def agree(found: list[list[float]], completions: list[Completion]) -> bool:
    return all(
        list(completion.log_probs) == pytest.approx(values, abs=1e-4)
        for values, completion in zip(found, completions, strict=True)
    )


@pytest.mark.parametrize(
    "model",
    [
        build("Qwen3"),
        build("Llama"),
        build("Gemma2", final_logit_softcapping=2.0, sliding_window=16, query_pre_attn_scalar=8),
    ],
    ids=lambda model: type(model).__name__,
)
@pytest.mark.parametrize("batching", ["static", "continuous"])
def test_greedy_equals_the_naive_loop(model: Any, batching: Any) -> None:
    prompts, _ = requests(10)
    stops = [STOP, 7]
    groups = TransformersEngine(model, batching=batching).generate(prompts, GREEDY, stop_token_ids=stops)
    assert [list(group[0].token_ids) for group in groups] == [naive.greedy(model, p, stops, 40) for p in prompts]


def test_rows_that_leave_the_batch_change_nothing(qwen3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, _ = requests(30)
    stops = [STOP, 7, 11, 30]
    wanted = TransformersEngine(qwen3).generate(prompts, GREEDY, stop_token_ids=stops)
    lengths = {len(completion.token_ids) for completion in flat(wanted)}
    assert min(lengths) < 16 < max(lengths)
    monkeypatch.setattr(transformers_engine, "_SEGMENT", 3)
    assert TransformersEngine(qwen3).generate(prompts, GREEDY, stop_token_ids=stops) == wanted


def test_collected_and_scored_log_probs_agree_in_other_batches(qwen3: Any) -> None:
    prompts, _ = requests(30)
    sampling = Sampling(samples=3, max_tokens=30, temperature=0.8)
    groups = TransformersEngine(qwen3, batch_tokens=300).generate(prompts, sampling, stop_token_ids=[STOP])
    repeated = [prompt for prompt in prompts for _ in range(3)]
    ids = [completion.token_ids for completion in flat(groups)]
    assert agree(TransformersEngine(qwen3).score(repeated, ids), flat(groups))
    alone = TransformersEngine(qwen3)
    assert agree([alone.score([p], [i])[0] for p, i in zip(repeated[:20], ids[:20], strict=True)], flat(groups)[:20])


@pytest.mark.parametrize("batching", ["static", "continuous"])
def test_equal_requests_give_equal_completions(qwen3: Any, batching: Any) -> None:
    prompts, _ = requests(20)
    sampling = Sampling(samples=2, max_tokens=20)
    first = TransformersEngine(qwen3, batching=batching).generate(prompts, sampling, stop_token_ids=[STOP])
    torch.rand(5)
    assert TransformersEngine(qwen3, batching=batching).generate(prompts, sampling, stop_token_ids=[STOP]) == first
    other = sampling.model_copy(update={"seed": 1})
    assert TransformersEngine(qwen3, batching=batching).generate(prompts, other, stop_token_ids=[STOP]) != first
    # The samples of one prompt, and the batches of one request, are different draws.
    assert all(group[0] != group[1] for group in first)
    same_prompts = TransformersEngine(qwen3, batching=batching, batch_tokens=120).generate(
        [prompts[0]] * 12, Sampling(max_tokens=20), stop_token_ids=[STOP]
    )
    assert len(set(flat(same_prompts))) > 10


@pytest.mark.parametrize("batching", ["static", "continuous"])
def test_samples_follow_the_distribution(qwen3: Any, batching: Any) -> None:
    """First tokens of 20,000 samples against the truncated probabilities; the bound is 5 standard errors."""
    sampling = Sampling(temperature=0.7, top_k=12, top_p=0.9, samples=20_000, max_tokens=1, seed=3)
    groups = TransformersEngine(qwen3, batching=batching, batch_tokens=1 << 16).generate(
        [[5, 9]], sampling, stop_token_ids=[STOP]
    )
    counts = Counter(completion.token_ids[0] for completion in groups[0])
    wanted = naive.truncated(naive.next_logits(qwen3, [5, 9]), 0.7, 12, 0.9)
    for token in range(VOCABULARY):
        probability = math.exp(wanted[token])
        error = math.sqrt(probability * (1 - probability) / 20_000)
        assert abs(counts[token] / 20_000 - probability) <= 5 * error


@pytest.mark.parametrize("batching", ["static", "continuous"])
def test_stop_token_is_kept_and_ends_the_completion(qwen3: Any, batching: Any) -> None:
    prompts, _ = requests(30)
    stops = [STOP, 7, 20]
    completions = flat(
        TransformersEngine(qwen3, batching=batching).generate(
            prompts, Sampling(max_tokens=12, samples=4), stop_token_ids=stops
        )
    )
    assert {completion.finish for completion in completions} == {"stop", "length"}
    for completion in completions:
        assert not set(completion.token_ids[:-1]) & set(stops)
        assert (completion.token_ids[-1] in stops) == (completion.finish == "stop")
        assert completion.finish == "stop" or len(completion.token_ids) == 12
        assert len(completion.log_probs) == len(completion.processed_log_probs) == len(completion.token_ids)


def test_log_probs_can_be_left_out(qwen3: Any) -> None:
    prompts, _ = requests(5)
    sampling = Sampling(max_tokens=8)
    with_them = TransformersEngine(qwen3).generate(prompts, sampling, stop_token_ids=[STOP])
    without = TransformersEngine(qwen3).generate(prompts, sampling, stop_token_ids=[STOP], log_probs=False)
    assert [c.token_ids for c in flat(without)] == [c.token_ids for c in flat(with_them)]
    assert all(c.log_probs == c.processed_log_probs == () for c in flat(without))


@pytest.mark.parametrize("batching", ["static", "continuous"])
def test_the_models_own_generation_defaults_play_no_part(batching: Any) -> None:
    model = build("Qwen3")
    prompts, _ = requests(10)
    request = {"sampling": Sampling(max_tokens=20), "stop_token_ids": [STOP]}
    wanted = TransformersEngine(model, batching=batching).generate(prompts, **request)
    defaults = {
        "repetition_penalty": 1.8,
        "top_k": 2,
        "top_p": 0.2,
        "temperature": 0.1,
        "min_p": 0.3,
        "do_sample": True,
    }
    for name, value in defaults.items():
        setattr(model.generation_config, name, value)
    assert TransformersEngine(model, batching=batching).generate(prompts, **request) == wanted
    assert all(getattr(model.generation_config, name) == value for name, value in defaults.items())


@pytest.mark.parametrize("batching", ["static", "continuous"])
def test_model_and_generator_are_left_as_they_were(batching: Any) -> None:
    model = build("Qwen3", attention_dropout=0.5).train()
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    engine = TransformersEngine(model, batching=batching)
    prompts, _ = requests(3)
    first = engine.generate(prompts, Sampling(max_tokens=5), stop_token_ids=[STOP])
    assert engine.generate(prompts, Sampling(max_tokens=5), stop_token_ids=[STOP]) == first, "dropout was on"
    assert model.training
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_cache_that_is_too_small_for_all_prompts_changes_no_greedy_completion(qwen3: Any) -> None:
    prompts, _ = requests(30)
    stops = [STOP, 7, 11]
    wanted = TransformersEngine(qwen3).generate(prompts, GREEDY, stop_token_ids=stops)
    small = TransformersEngine(qwen3, batching="continuous", batch_tokens=64)
    assert [c.token_ids for c in flat(small.generate(prompts, GREEDY, stop_token_ids=stops))] == [
        c.token_ids for c in flat(wanted)
    ]
    assert qwen3.config._attn_implementation == "sdpa"


def test_a_state_space_has_no_cache_for_continuous_batching(monkeypatch: pytest.MonkeyPatch, qwen3: Any) -> None:
    monkeypatch.setattr(transformers_engine, "_rows_can_leave", lambda model: False)
    with pytest.raises(UserError, match=r"engine_kwargs.batching: .*Use static"):
        TransformersEngine(qwen3, batching="continuous")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu_batching_is_continuous(dtype: torch.dtype) -> None:
    prompts, _ = requests(30)
    engine = TransformersEngine(build("Qwen3").to(dtype), device="cuda")
    assert engine._continuous
    sampling = Sampling(samples=4, max_tokens=40)
    found = engine.generate(prompts, sampling, stop_token_ids=[STOP])
    assert engine.generate(prompts, sampling, stop_token_ids=[STOP]) == found
    assert {len(group) for group in found} == {4}
    if dtype == torch.float32:
        static = TransformersEngine(engine.model, batching="static")
        wanted = [c.token_ids for c in flat(static.generate(prompts, GREEDY, stop_token_ids=[STOP]))]
        assert [c.token_ids for c in flat(engine.generate(prompts, GREEDY, stop_token_ids=[STOP]))] == wanted


def test_prompts_beyond_the_context_are_refused(qwen3: Any) -> None:
    with pytest.raises(UserError, match=r"259 tokens, but .* has a context of 256"):
        TransformersEngine(qwen3).generate([[3] * 3], Sampling(max_tokens=256), stop_token_ids=[STOP])


def test_no_prompt_gives_no_completion(qwen3: Any) -> None:
    assert TransformersEngine(qwen3).generate([], Sampling(), stop_token_ids=[STOP]) == []
    assert TransformersEngine(qwen3).score([], []) == []


def test_tokenizer_with_ids_beyond_the_model_is_refused(qwen3: Any) -> None:
    from pear.training.tiny_models import build_tokenizer

    tokenizer = build_tokenizer([f"word{index}" for index in range(100)])
    with pytest.raises(UserError, match="48 token embeddings, but the tokenizer's ids go up to 108"):
        TransformersEngine(qwen3, tokenizer)


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_device_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(UserError, match="device"):
        resolve_device(device)


def test_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no causal language model"):
        load_model(str(tmp_path))


def test_loaded_model_scores_like_the_saved_one(qwen3: Any, tmp_path: Path) -> None:
    qwen3.save_pretrained(tmp_path)
    prompts, completions = requests(4)
    loaded = TransformersEngine(str(tmp_path), device="cpu")
    assert loaded.model.dtype == torch.float32
    assert not loaded.model.training
    assert loaded.score(prompts, completions) == TransformersEngine(qwen3).score(prompts, completions)
