"""Models that SFT reads beside the one it trains: a frozen reference or teacher, and the model some steps ago."""

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl.models.utils import prepare_deepspeed, prepare_fsdp
from trl.trainer.utils import add_fused_lm_head, create_model_from_path

from pear.data.rendering import load_tokenizer, vocabulary_digest
from pear.errors import UserError
from pear.models import check_model, resolve_model
from pear.training.divergence import Head, capture_hidden_states, check_same_vocabulary, head_of


@final
@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a frozen model says about a batch, without gradients.

    Attributes:
        log_probs: of the labels, 0 where there is none; position t is about token t + 1.
        hidden: the backbone's last hidden states.
        head: the output layer over them.
    """

    log_probs: Float[Tensor, "batch before_last"]
    hidden: Float[Tensor, "batch seq width"]
    head: Head


@final
class FrozenModel:
    """A model that is read and never trained.

    Args:
        model: a causal language model with TRL's fused head.
        frozen: what turns a model that is trained into the one to be read, such as PEFT's `disable_adapter`.
    """

    def __init__(self, model: Any, frozen: Callable[[], AbstractContextManager[Any]] = nullcontext) -> None:
        self._model = model
        self._frozen = frozen

    @torch.no_grad()
    def read(self, inputs: dict[str, Any]) -> Reading:
        """One forward pass on a batch of token ids and labels, in evaluation mode."""
        training = self._model.training
        self._model.eval()
        try:
            with self._frozen(), capture_hidden_states(self._model) as states:
                outputs = self._model(**inputs, use_cache=False, fused_lm_head=True)
                return Reading(log_probs=outputs.log_probs, hidden=states.last, head=head_of(self._model))
        finally:
            self._model.train(training)


def frozen_model(source: str | Path | PreTrainedModel, trainer: Any, name: str) -> FrozenModel:
    """A reference or teacher on the trainer's device, sharded as its model is.

    Args:
        source: a path, hub id or shipped model, loaded as the trainer's model was; or a model, which is frozen in
            place.
        trainer: after its `__init__`.
        name: of the argument, for errors.

    Raises:
        UserError: it is the model that is trained, or of another vocabulary.
    """
    if isinstance(source, str | Path):
        path = resolve_model(str(source))
        check_other_model(path, trainer.processing_class, name)
        options = dict(trainer.args.model_init_kwargs or {})
        options.setdefault("dtype", trainer.model.dtype)
        options.setdefault("attn_implementation", trainer.model.config._attn_implementation)
        options.setdefault("trust_remote_code", False)
        options.setdefault("device_map", None)
        model: Any = create_model_from_path(path, **options)
    else:
        model = source
    if model is trainer.model:
        raise UserError(f"{name}: is the model that is trained. Give a path or a copy, or leave it out.")
    check_same_vocabulary(trainer.model, model, name)
    model.requires_grad_(False).eval()
    add_fused_lm_head(model)
    if trainer.is_deepspeed_enabled:
        model = prepare_deepspeed(model, trainer.accelerator)
    elif trainer.is_fsdp_enabled:
        model = prepare_fsdp(model, trainer.accelerator)
    else:
        model = trainer.accelerator.prepare_model(model, evaluation_mode=True)
    return FrozenModel(model)


def frozen_copy(model: PreTrainedModel) -> PreTrainedModel:
    """The model as it is now, before a trainer changes it."""
    return copy.deepcopy(model).requires_grad_(False)


def check_other_model(path: str, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Raises `UserError` unless there is a model at a path whose tokenizer has the target's vocabulary."""
    check_model(path)
    if vocabulary_digest(load_tokenizer(path)) != vocabulary_digest(tokenizer):
        raise UserError(
            f"{name}: the tokenizer of {path} has another vocabulary than the model's, so the token ids mean other "
            "text there. Use a model of the same vocabulary."
        )


@final
class Snapshot:
    """The trainable weights of a model as they were at some step, kept beside those that are trained.

    Args:
        model: whole on this process, or sharded by FSDP2.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model
        self._reshard()
        self._weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self._kept = {name: weight.detach().clone() for name, weight in self._weights.items()}

    @torch.no_grad()
    def take(self) -> None:
        """Keeps the weights as they are now."""
        self._reshard()
        for name, weight in self._weights.items():
            self._kept[name].copy_(weight)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Inside, the model has the kept weights; afterwards its own again, bit for bit. Not between a forward pass
        and its backward pass."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        self._reshard()
        for name, weight in self._weights.items():
            own = weight.detach().clone()
            weight.copy_(self._kept[name])
            self._kept[name].copy_(own)

    def _reshard(self) -> None:
        # A forward pass without a backward pass leaves FSDP's root gathered, and later passes read that.
        for module in self._model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    @property
    def is_sharded(self) -> bool:
        """Whether each process holds a part of it."""
        return any(isinstance(weight, DTensor) for weight in self._weights.values())

    def state(self) -> dict[str, Tensor]:
        """The kept weights; of sharded ones, this process's part."""
        return {name: _local(kept) for name, kept in self._kept.items()}

    @torch.no_grad()
    def restore(self, state: dict[str, Tensor]) -> None:
        """Takes what `state` gave. The names must be the same."""
        assert state.keys() == self._kept.keys()
        for name, kept in self._kept.items():
            _local(kept).copy_(state[name])


def _local(weight: Tensor) -> Tensor:
    return weight.to_local() if isinstance(weight, DTensor) else weight


def random_parts(model: torch.nn.Module) -> list[str]:
    """Names of what makes two forward passes in training mode differ: dropout, layer drop and router noise above 0."""
    found = []
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd) and module.p > 0:
            found.append(name)
        for attribute, value in vars(module).items():
            is_random = any(word in attribute for word in ("dropout", "layerdrop", "jitter"))
            if is_random and isinstance(value, int | float) and value > 0:
                found.append(f"{name}.{attribute}")
    return found
