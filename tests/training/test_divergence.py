"""Full-vocabulary quantities of the trainer's forward pass: against full logits in float64, and TRL's own kernel."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from trl.kernels.chunked_divergence import ChunkedDivergenceFunction
from trl.trainer.utils import add_fused_lm_head

from pear.errors import UserError
from pear.ops.divergence import entropy_of_top
from pear.training.divergence import (
    Direction,
    Head,
    capture_hidden_states,
    check_same_vocabulary,
    head_of,
    token_divergence,
    token_divergence_from_top_k,
    token_entropy_of_top,
)
from tests import naive_divergence as naive
from tests.engines.conftest import VOCABULARY, build
from tests.training.sft_fixtures import run_on_two_processes

TOKENS, WIDTH, VOCAB, TOP = 11, 6, 17, 4
HEADS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bias": {"bias": True},
    "scaled": {"logit_scale": 0.25},
    "soft-capped": {"softcap": 2.0},
    "all of them": {"bias": True, "logit_scale": 1.5, "softcap": 3.0},
}
DIRECTIONS: tuple[Direction, ...] = ("forward", "reverse")


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def hidden_and_head(seed: int, dtype: torch.dtype, width: int = WIDTH, **changes: Any) -> tuple[Tensor, Head]:
    hidden = draw(TOKENS, width, seed=seed).to(dtype).requires_grad_()
    weight = draw(VOCAB, width, seed=seed + 1).to(dtype).requires_grad_()
    bias = draw(VOCAB, seed=seed + 2).to(dtype).requires_grad_() if changes.pop("bias", False) else None
    return hidden, Head(weight=weight, bias=bias, **changes)


def leaves(hidden: Tensor, head: Head) -> list[Tensor]:
    return [hidden, head.weight, *([] if head.bias is None else [head.bias])]


def full_log_probs(hidden: Tensor, head: Head) -> Tensor:
    """Logits in full, in float64."""
    logits = hidden.double() @ head.weight.double().T
    logits = (logits if head.bias is None else logits + head.bias.double()) * head.logit_scale
    logits = logits if head.softcap is None else head.softcap * torch.tanh(logits / head.softcap)
    return logits.log_softmax(-1)


def full_divergence(log_theta: Tensor, log_other: Tensor, direction: Direction) -> Tensor:
    log_p, log_q = (log_other.detach(), log_theta) if direction == "forward" else (log_theta, log_other.detach())
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def full_lumped(log_theta: Tensor, log_other: Tensor, k: int) -> Tensor:
    ids = log_other.topk(k).indices
    named = torch.zeros_like(log_other, dtype=torch.bool).scatter(-1, ids, True)

    def outcomes(log_probs: Tensor) -> Tensor:
        probs = log_probs.exp()
        return torch.cat([probs.gather(-1, ids), torch.where(named, 0.0, probs).sum(-1, keepdim=True)], -1).log()

    return full_divergence(outcomes(log_theta), outcomes(log_other), "forward")


def assert_gradients(value: Tensor, reference: Tensor, over: list[Tensor], tolerance: float) -> None:
    """Equal gradients of a weighted sum, as weighted losses have."""
    weights = draw(len(value), seed=99)
    found = torch.autograd.grad((value.double() * weights).sum(), over)
    wanted = torch.autograd.grad((reference * weights).sum(), over)
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == other.dtype
        assert float((one.double() - other.double()).norm() / other.double().norm()) < tolerance


# In bfloat16 the value is exact to float32, as only hidden states and head are rounded; a gradient is stored in it.
DTYPES = {torch.float64: (1e-10, 1e-10), torch.float32: (1e-5, 1e-5), torch.bfloat16: (1e-5, 1e-2)}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_divergence_equals_full_logits(direction: Direction, head: str, dtype: torch.dtype) -> None:
    hidden, own = hidden_and_head(0, dtype, **HEADS[head])
    # A wider teacher with a head of its own kind.
    other_hidden, other = hidden_and_head(10, dtype, width=WIDTH + 3, **HEADS[head])
    reference = full_divergence(full_log_probs(hidden, own), full_log_probs(other_hidden, other), direction)
    value = token_divergence(hidden, own, other_hidden, other, direction, chunk=4)
    to_value, to_gradient = DTYPES[dtype]
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(value.double(), reference, rtol=to_value, atol=to_value)
    assert reference.min() > 0.01
    assert_gradients(value, reference, leaves(hidden, own), to_gradient)
    with pytest.raises(RuntimeError, match="not have been used in the graph"):
        torch.autograd.grad(value.sum(), other_hidden)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("k", [TOP, VOCAB])
def test_divergence_from_the_top_k_equals_full_logits(k: int, head: str, dtype: torch.dtype) -> None:
    hidden, own = hidden_and_head(0, dtype, **HEADS[head])
    log_other = full_log_probs(*hidden_and_head(10, torch.float64)).detach()
    top = log_other.topk(k)
    log_theta = full_log_probs(hidden, own)
    reference = full_lumped(log_theta, log_other, k) if k < VOCAB else full_divergence(log_theta, log_other, "forward")
    value = token_divergence_from_top_k(hidden, own, top.indices.int(), top.values.to(torch.float32), chunk=4)
    # The teacher's log-probs are stored in float32.
    to_gradient = max(DTYPES[dtype][1], 1e-6)
    torch.testing.assert_close(value.double(), reference, rtol=1e-5, atol=1e-5)
    assert_gradients(value, reference, leaves(hidden, own), to_gradient)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_values_equal_the_naive_loop(direction: Direction) -> None:
    hidden, own = hidden_and_head(0, torch.float64, **HEADS["all of them"])
    other_hidden, other = hidden_and_head(10, torch.float64)
    assert own.bias is not None
    ours = [
        naive.log_softmax(naive.logits_of(row, own.weight.tolist(), own.bias.tolist(), own.logit_scale, own.softcap))
        for row in hidden.tolist()
    ]
    theirs = [naive.log_softmax(naive.logits_of(row, other.weight.tolist())) for row in other_hidden.tolist()]
    pairs = zip(theirs, ours, strict=True) if direction == "forward" else zip(ours, theirs, strict=True)
    found = token_divergence(hidden, own, other_hidden, other, direction)
    assert found.tolist() == pytest.approx([naive.kl_divergence(*pair) for pair in pairs], abs=1e-10)
    top = [naive.top_k(log_probs, TOP) for log_probs in theirs]
    stored = [[row[token] for token in tokens] for row, tokens in zip(theirs, top, strict=True)]
    lumped = token_divergence_from_top_k(hidden, own, torch.tensor(top), torch.tensor(stored, dtype=torch.float64))
    wanted = [naive.lumped_kl(*three) for three in zip(theirs, ours, top, strict=True)]
    assert lumped.tolist() == pytest.approx(wanted, abs=1e-10)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("head", HEADS)
def test_divergence_is_that_of_trls_kernel(direction: Direction, head: str) -> None:
    hidden, own = hidden_and_head(0, torch.float32, **HEADS[head])
    other_hidden, other = hidden_and_head(10, torch.float32)
    theirs, _ = ChunkedDivergenceFunction.apply(
        hidden, own.weight, own.bias, other_hidden.detach(), other.weight.detach(), None,
        {"forward": 0.0, "reverse": 1.0}[direction], 1.0, own.logit_scale, own.softcap,
    )  # fmt: skip
    ours = token_divergence(hidden, own, other_hidden, other, direction)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert_gradients(ours, theirs.double(), leaves(hidden, own), 1e-5)


@pytest.mark.parametrize("count", [1, 5, VOCAB, 20])
@pytest.mark.parametrize("head", HEADS)
def test_entropy_of_the_top_equals_full_logits(head: str, count: int) -> None:
    hidden, own = hidden_and_head(0, torch.float64, **HEADS[head])
    found = token_entropy_of_top(hidden, own, count, chunk=4)
    wanted = entropy_of_top(full_log_probs(hidden, own), count)
    torch.testing.assert_close(found, wanted.detach(), rtol=1e-10, atol=1e-10)
    assert not found.requires_grad


@pytest.mark.parametrize("chunk", [1, 3, TOKENS, 1000])
def test_chunks_change_nothing(chunk: int) -> None:
    hidden, own = hidden_and_head(0, torch.float64)
    other_hidden, other = hidden_and_head(10, torch.float64)
    whole = token_divergence(hidden, own, other_hidden, other, "forward", chunk=TOKENS)
    value = token_divergence(hidden, own, other_hidden, other, "forward", chunk=chunk)
    torch.testing.assert_close(value, whole, rtol=1e-12, atol=1e-12)
    assert_gradients(value, whole, leaves(hidden, own), 1e-12)


def test_no_token_gives_a_differentiable_nothing() -> None:
    hidden, own = hidden_and_head(0, torch.float32)
    value = token_divergence(hidden[:0], own, hidden[:0], own, "forward")
    assert value.shape == (0,)
    value.sum().backward()
    assert own.weight.grad is not None
    assert not own.weight.grad.any()


def test_head_gradient_of_many_chunks_is_not_rounded_between_them() -> None:
    """In bfloat16, 256 equal chunks added one by one would stop growing at 256 times the spacing of the dtype."""
    row, head = hidden_and_head(0, torch.bfloat16)
    other_row, other = hidden_and_head(10, torch.bfloat16)
    many = [tensor[:1].detach().expand(1000, -1) for tensor in (row, other_row)]
    one = token_divergence(row[:1], head, other_row[:1], other, "forward").sum()
    (expected,) = torch.autograd.grad(one, head.weight)
    (found,) = torch.autograd.grad(token_divergence(many[0], head, many[1], other, "forward", 1).sum(), head.weight)
    torch.testing.assert_close(found.float() / 1000, expected.float(), rtol=2e-2, atol=1e-4)


class LargestTensor(TorchDispatchMode):
    """Remembers the most elements of any tensor that an operation made."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor):
                self.size = max(self.size, tensor.numel())
        return result


@pytest.mark.parametrize("what", ["forward", "reverse", "top k", "entropy"])
def test_logits_never_exist_in_full(what: str) -> None:
    tokens, width, vocab, chunk = 512, 4, 256, 16
    hidden, weight = draw(tokens, width, seed=0).requires_grad_(), draw(vocab, width, seed=1).requires_grad_()
    head, other = Head(weight=weight), Head(weight=draw(vocab, width, seed=2))
    other_hidden = draw(tokens, width, seed=3)
    top = full_log_probs(other_hidden, other).topk(3)
    calls: dict[str, Callable[[], Tensor]] = {
        "top k": lambda: token_divergence_from_top_k(hidden, head, top.indices, top.values, chunk),
        "entropy": lambda: token_entropy_of_top(hidden, head, 3, chunk),
        "forward": lambda: token_divergence(hidden, head, other_hidden, other, "forward", chunk),
        "reverse": lambda: token_divergence(hidden, head, other_hidden, other, "reverse", chunk),
    }
    with LargestTensor() as largest:
        value = calls[what]()
        if what != "entropy":
            value.sum().backward()
    assert largest.size == chunk * vocab
    assert weight.grad is not None or what == "entropy"


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_autocast_rounds_the_operands_alone(direction: Direction) -> None:
    """Master weights in float32 under autocast are multiplied in bfloat16, as TRL's head does."""
    hidden, own = hidden_and_head(0, torch.float32)
    other_hidden, other = hidden_and_head(10, torch.float32)
    rounded = [
        (hidden.bfloat16().float(), Head(weight=own.weight.bfloat16().float())),
        (other_hidden.bfloat16().float(), Head(weight=other.weight.bfloat16().float())),
    ]
    reference = full_divergence(*(full_log_probs(*pair) for pair in rounded), direction)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = token_divergence(hidden, own, other_hidden, other, direction, chunk=4)
    torch.testing.assert_close(value.double(), reference, rtol=1e-5, atol=1e-5)
    assert_gradients(value, reference, leaves(hidden, own), 1e-2)


def test_what_does_not_fit_is_refused() -> None:
    hidden, own = hidden_and_head(0, torch.float32)
    with pytest.raises(ValueError, match=r"must be of the same tokens\. Got 11 and 10"):
        token_divergence(hidden, own, hidden[1:], own, "forward")
    with pytest.raises(ValueError, match=r"same number of logits\. Got 17 and 16"):
        token_divergence(hidden, own, hidden, Head(weight=own.weight[1:]), "forward")
    with pytest.raises(ValueError, match="forward or reverse"):
        token_divergence(hidden, own, hidden, own, "backward")  # type: ignore[arg-type]


FAMILIES: dict[str, Callable[[], Any]] = {
    "Qwen3, tied": lambda: build("Qwen3", tie_word_embeddings=True),
    "Llama, untied": lambda: build("Llama", tie_word_embeddings=False),
    "Gemma2, soft-capped": lambda: build("Gemma2", final_logit_softcapping=2.0, query_pre_attn_scalar=8),
    "Granite, divided": lambda: build("Granite", logits_scaling=4.0),
    "Cohere, multiplied": lambda: build("Cohere", logit_scale=0.3),
    "Phi, with a bias": lambda: build("Phi", tie_word_embeddings=False),
}
INPUTS = {"input_ids": torch.arange(2, 26).view(3, 8)}
LABELS = torch.where(torch.arange(8) < 3, -100, INPUTS["input_ids"])


def patched(model: Any) -> Any:
    add_fused_lm_head(model)
    return model


def captured(model: Any) -> tuple[Any, Tensor]:
    with capture_hidden_states(model) as states:
        outputs = model(**INPUTS, labels=LABELS, fused_lm_head=True)
    return outputs, states.last


@pytest.mark.parametrize("name", FAMILIES)
def test_states_and_head_give_the_models_logits(name: str) -> None:
    model = patched(FAMILIES[name]())
    if name.startswith("Phi"):
        torch.nn.init.normal_(model.lm_head.bias)
    outputs, last = captured(model)
    mask = outputs.label_mask
    log_probs = full_log_probs(last[:, :-1][mask], head_of(model))
    # float32 forward passes.
    torch.testing.assert_close(
        log_probs, model(**INPUTS).logits[:, :-1][mask].double().log_softmax(-1), rtol=1e-5, atol=1e-5
    )
    chosen = log_probs.gather(-1, LABELS[:, 1:][mask][:, None])[:, 0]
    torch.testing.assert_close(outputs.log_probs[mask].double(), chosen, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_gradients_of_a_whole_model_equal_full_logits(name: str, direction: Direction) -> None:
    """Next to the fused head's own loss on one forward pass, tied embeddings included."""
    model, other = patched(FAMILIES[name]()), patched(FAMILIES[name]())
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.3)
        theirs, their_last = captured(other)
    outputs, last = captured(model)
    mask = outputs.label_mask
    value = token_divergence(last[:, :-1][mask], head_of(model), their_last[:, :-1][mask], head_of(other), direction)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    found = torch.autograd.grad(value.sum() - outputs.log_probs.sum(), parameters)
    log_theta, log_other = (one(**INPUTS).logits[:, :-1][mask].double().log_softmax(-1) for one in (model, other))
    chosen = log_theta.gather(-1, LABELS[:, 1:][mask][:, None])
    reference = full_divergence(log_theta, log_other, direction).sum() - chosen.sum()
    wanted = torch.autograd.grad(reference, parameters)
    difference = torch.cat([(one - two).flatten() for one, two in zip(found, wanted, strict=True)])
    assert float(difference.norm() / torch.cat([one.flatten() for one in wanted]).norm()) < 1e-5
    assert theirs.log_probs.shape == outputs.log_probs.shape


@pytest.mark.parametrize("checkpointing", [False, True])
def test_states_are_seen_through_peft_and_checkpointing(checkpointing: bool) -> None:
    peft = pytest.importorskip("peft")
    model = patched(build("Qwen3", tie_word_embeddings=True))
    settings = peft.LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    wrapped = peft.get_peft_model(model, settings).train()
    parameters = [parameter for parameter in wrapped.parameters() if parameter.requires_grad]
    other = hidden_and_head(10, torch.float32)[0][:1, :1]

    def gradients() -> tuple[Tensor, ...]:
        outputs, last = captured(wrapped)
        hidden = last[:, :-1][outputs.label_mask]
        head = head_of(wrapped)
        value = token_divergence(hidden, head, hidden.detach() * (1 + other.item()), head, "forward")
        return torch.autograd.grad(value.sum(), parameters)

    plain = gradients()
    if checkpointing:
        wrapped.gradient_checkpointing_enable({"use_reentrant": False})
        wrapped.enable_input_require_grads()
    _, last = captured(wrapped)
    assert last.shape == (3, 8, 32)
    # The adapters count: the base model's states are others.
    with wrapped.disable_adapter():
        _, base = captured(wrapped)
    assert not torch.allclose(last, base, atol=1e-2)
    for one, two in zip(gradients(), plain, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)
    assert any(gradient.abs().max() > 1e-3 for gradient in plain)


def test_states_are_rounded_as_autocast_rounds_them_for_the_head() -> None:
    """`accelerate` puts autocast around the forward pass alone, and the divergence is taken after it."""
    model = patched(build("Qwen3", tie_word_embeddings=False))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs, last = captured(model)
    assert last.dtype == torch.bfloat16
    mask = outputs.label_mask
    head = head_of(model)
    log_probs = full_log_probs(last[:, :-1][mask], Head(weight=head.weight.bfloat16()))
    chosen = log_probs.gather(-1, LABELS[:, 1:][mask][:, None])[:, 0]
    # TRL rounds the logits to bfloat16 as well.
    torch.testing.assert_close(outputs.log_probs[mask].double(), chosen, rtol=2e-2, atol=2e-2)
    value = token_divergence(last[:, :-1][mask], head, last[:, :-1][mask].flip(0), head, "forward")
    reference = full_divergence(log_probs, log_probs.flip(0), "forward")
    torch.testing.assert_close(value.double(), reference, rtol=1e-5, atol=1e-5)
    value.sum().backward()
    assert head.weight.grad is not None
    assert head.weight.grad.dtype == torch.float32


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_divergence_equals_full_logits_on_a_gpu(direction: Direction, dtype: torch.dtype) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    hidden, own = hidden_and_head(0, dtype)
    other_hidden, other = hidden_and_head(10, dtype)
    hidden, other_hidden = (tensor.detach().cuda().requires_grad_() for tensor in (hidden, other_hidden))
    own, other = (Head(weight=head.weight.detach().cuda().requires_grad_()) for head in (own, other))
    reference = full_divergence(full_log_probs(hidden, own), full_log_probs(other_hidden, other), direction)
    value = token_divergence(hidden, own, other_hidden, other, direction, chunk=4)
    # A GPU may multiply float32 as TF32.
    torch.testing.assert_close(value.double(), reference, rtol=2e-3, atol=2e-3)
    found = torch.autograd.grad(value.sum(), [hidden, own.weight])
    wanted = torch.autograd.grad(reference.sum(), [hidden, own.weight])
    for one, two in zip(found, wanted, strict=True):
        assert float((one.double() - two.double()).norm() / two.double().norm()) < 2e-2


def test_hooks_go_when_the_context_ends() -> None:
    model = patched(build("Qwen3"))
    with pytest.raises(ZeroDivisionError), capture_hidden_states(model) as states:
        _ = 1 / 0
    assert not model.base_model._forward_hooks
    with pytest.raises(AssertionError, match="no forward pass ran"):
        _ = states.last
    captured(model)
    assert not model.base_model._forward_hooks


def test_two_vocabularies_are_refused_by_name() -> None:
    model = build("Qwen3")
    check_same_vocabulary(model, build("Llama"), "teacher_model")
    with pytest.raises(UserError, match=f"teacher_model: has 50 logits and the model {VOCABULARY}"):
        check_same_vocabulary(model, build("Qwen3", vocab_size=50), "teacher_model")


@pytest.mark.slow
def test_two_processes_have_the_gradient_of_one(tmp_path: Path) -> None:
    run_on_two_processes(Path(__file__).with_name("two_process_divergence.py"), str(tmp_path / "gradients.pt"))
    gradients = torch.load(tmp_path / "gradients.pt", weights_only=True)
    assert set(gradients) == {"alone", "DDP", "FSDP2", "FSDP2, sharded again"}
    wanted = gradients.pop("alone")
    for found in gradients.values():
        assert found.keys() == wanted.keys()
        for name, gradient in wanted.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-6)
