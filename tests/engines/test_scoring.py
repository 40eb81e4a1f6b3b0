"""Teacher-forced scoring: against a naive loop, and the laws that it keeps."""

from typing import Any

import numpy
import pytest
import torch
import transformers

from pear.engines import scoring
from pear.engines.protocol import Sampling
from pear.engines.scoring import TokenScorer, plain_head, sampled_log_probs
from pear.engines.transformers_engine import TransformersEngine
from pear.errors import UserError
from tests.engines import naive
from tests.engines.conftest import STOP, VOCABULARY, build, requests

# A reason for 1e-4: float32 forward passes over other shapes.
CLOSE = 1e-4
SAMPLINGS = [
    Sampling(temperature=0.6),
    Sampling(top_k=5),
    Sampling(top_p=0.7),
    Sampling(temperature=1.4, top_k=20, top_p=0.9),
]


def worst(found: list[list[float]], wanted: list[list[float]]) -> float:
    assert [len(row) for row in found] == [len(row) for row in wanted]
    return max(abs(a - b) for row, other in zip(found, wanted, strict=True) for a, b in zip(row, other, strict=True))


def softcapped() -> Any:
    return build("Gemma2", final_logit_softcapping=2.0, sliding_window=16, query_pre_attn_scalar=8)


MODELS = {
    "Qwen3": (lambda: build("Qwen3", tie_word_embeddings=True), True),
    "Llama": (lambda: build("Llama", tie_word_embeddings=False), True),
    "Gemma2, soft-capped logits": (softcapped, False),
    "Granite, scaled logits": (lambda: build("Granite", logits_scaling=4.0), False),
}


@pytest.mark.parametrize("name", MODELS)
def test_equals_the_naive_loop(name: str) -> None:
    make, head_is_plain = MODELS[name]
    model = make()
    assert (plain_head(model) is not None) == head_is_plain
    prompts, completions = requests(12)
    found = TransformersEngine(model).score(prompts, completions)
    wanted = [naive.score(model, *pair) for pair in zip(prompts, completions, strict=True)]
    assert worst(found, wanted) < CLOSE


def test_model_with_adapter_equals_the_naive_loop() -> None:
    peft = pytest.importorskip("peft")
    settings = peft.LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model = peft.get_peft_model(build("Qwen3"), settings).eval()
    prompts, completions = requests(3)
    wanted = [naive.score(model, *pair) for pair in zip(prompts, completions, strict=True)]
    assert worst(TransformersEngine(model).score(prompts, completions), wanted) < CLOSE


def test_padded_batch_equals_each_sequence_alone(qwen3: Any) -> None:
    prompts, completions = requests(40)
    engine = TransformersEngine(qwen3)
    alone = [engine.score([prompt], [ids])[0] for prompt, ids in zip(prompts, completions, strict=True)]
    assert worst(engine.score(prompts, completions), alone) < CLOSE


def test_order_of_the_request_changes_nothing(qwen3: Any) -> None:
    prompts, completions = requests(40)
    engine = TransformersEngine(qwen3)
    backwards = engine.score(prompts[::-1], completions[::-1])[::-1]
    assert worst(backwards, engine.score(prompts, completions)) < CLOSE


@pytest.mark.parametrize("memory_gib", [1e-6, 1e-5, 1e-3])
def test_memory_budget_changes_nothing(qwen3: Any, memory_gib: float, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, completions = requests(40)
    wanted = TransformersEngine(qwen3).score(prompts, completions)
    chunks: list[int] = []
    plain = scoring.chosen_log_probs

    def counted(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        chunks.append(len(tokens))
        return plain(logits, tokens)

    monkeypatch.setattr(scoring, "chosen_log_probs", counted)
    assert worst(TransformersEngine(qwen3, memory_gib=memory_gib).score(prompts, completions), wanted) < CLOSE
    # Logits of a chunk take at most a quarter of the budget.
    assert max(chunks) * VOCABULARY * 4 * 4 <= max(memory_gib * 2**30 / 4, VOCABULARY * 4 * 4)


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_processed_log_probs_equal_the_naive_loop(qwen3: Any, sampling: Sampling) -> None:
    prompts, _ = requests(6)
    groups = TransformersEngine(qwen3).generate(
        prompts, sampling.model_copy(update={"max_tokens": 20}), stop_token_ids=[STOP]
    )
    place = (sampling.temperature, sampling.top_k, sampling.top_p)
    found = [list(group[0].processed_log_probs) for group in groups]
    wanted = [
        naive.score(qwen3, prompt, group[0].token_ids, *place) for prompt, group in zip(prompts, groups, strict=True)
    ]
    assert worst(found, wanted) < CLOSE


def test_processed_log_probs_normalize_over_the_kept_tokens() -> None:
    logits = torch.randn(3, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    kept = naive.truncated(logits[0].tolist(), 0.7, 6, 0.8)
    tokens = torch.tensor([token for token, value in enumerate(kept) if value > -1e9])
    rows = logits[:1].expand(len(tokens), -1)
    found = sampled_log_probs(rows, tokens, Sampling(temperature=0.7, top_k=6, top_p=0.8))
    assert found.exp().sum().item() == pytest.approx(1, abs=1e-10)
    assert found.tolist() == pytest.approx([kept[token] for token in tokens.tolist()], abs=1e-10)


def test_sampled_token_on_the_edge_of_the_kept_set_is_finite() -> None:
    """A token that rounding puts outside the set when scored was inside it when sampled."""
    logits = torch.tensor([[3.0, 1.0, 1.0 - 1e-7, -2.0]])
    found = sampled_log_probs(logits, torch.tensor([2]), Sampling(top_k=2))
    assert torch.isfinite(found).all()


def test_raw_sampling_and_greedy_need_no_truncation(qwen3: Any) -> None:
    prompts, completions = requests(4)
    scorer = TokenScorer(qwen3, 1.0)
    with torch.no_grad():
        raw = scorer(prompts, completions, sampled_with=Sampling())
        assert raw.processed == raw.raw
        greedy = scorer(prompts, completions, sampled_with=Sampling(temperature=0))
        assert greedy.processed == [[0.0] * len(ids) for ids in completions]
        assert scorer(prompts, completions).processed is None


def test_soft_cap_is_seen_even_where_logits_are_small() -> None:
    """A fresh model's logits are near 0, where a high cap changes nothing; a trained model's are not."""
    capped = build("Gemma2", final_logit_softcapping=1024.0, query_pre_attn_scalar=8, initializer_range=0.01)
    assert plain_head(capped) is None


def test_encoder_decoder_is_refused() -> None:
    config = transformers.T5Config(vocab_size=32, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    with pytest.raises(UserError, match="encoder-decoder"):
        TransformersEngine(transformers.T5ForConditionalGeneration(config))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("memory_gib", [1e-5, 1.0])
def test_top_tokens_equal_the_naive_loop(name: str, memory_gib: float) -> None:
    model = MODELS[name][0]()
    prompts, completions = requests(5)
    log_probs, top = TransformersEngine(model, memory_gib=memory_gib).score_top(prompts, completions, 4)
    assert worst(log_probs, TransformersEngine(model).score(prompts, completions)) < CLOSE
    for prompt, completion, found in zip(prompts, completions, top, strict=True):
        assert found.ids.shape == found.log_probs.shape == (len(completion), 4)
        for place in range(len(completion)):
            wanted = naive.log_softmax(naive.next_logits(model, [*prompt, *completion[:place]]))
            likeliest = sorted(wanted, reverse=True)[:4]
            assert found.log_probs[place].tolist() == pytest.approx(likeliest, abs=CLOSE)
            assert [wanted[token] for token in found.ids[place]] == pytest.approx(likeliest, abs=CLOSE)


def test_top_tokens_may_be_the_whole_vocabulary(qwen3: Any) -> None:
    prompts, completions = requests(2)
    _, top = TransformersEngine(qwen3).score_top(prompts, completions, VOCABULARY)
    for found in top:
        assert (found.log_probs <= 0).all()
        assert abs(numpy.exp(found.log_probs.astype(numpy.float64)).sum(axis=1) - 1).max() < 1e-5
        assert (numpy.sort(found.ids, axis=1) == numpy.arange(VOCABULARY)).all()
