"""What an engine does: sample completions with log-probs, and score given ones."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, Protocol

from pydantic import Field

from pear.configuration import StrictModel
from pear.models import Dtype

if TYPE_CHECKING:
    from pear.data.teacher_top import TopTokens

BATCH_TOKENS = 1 << 15
MEMORY_GIB = 1.0


class Sampling(StrictModel):
    """How completions are sampled.

    Args:
        temperature: 0 is greedy.
        top_p: nucleus mass kept, 1 keeps all.
        top_k: number of tokens kept, 0 keeps all.
        max_tokens: most tokens of a completion, EOS included.
        samples: completions per prompt.
        seed: with a prompt's place in the request, decides every draw.
    """

    temperature: Annotated[float, Field(ge=0)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0)] = 0
    max_tokens: Annotated[int, Field(gt=0)] = 4096
    samples: Annotated[int, Field(gt=0)] = 1
    seed: int = 0

    @property
    def is_raw(self) -> bool:
        """Whether the sampled distribution is the model's own: temperature 1, nothing truncated."""
        return self.temperature == 1.0 and self.top_p == 1.0 and self.top_k == 0


@dataclass(frozen=True, kw_only=True)
class Completion:
    """One sampled completion.

    Args:
        token_ids: with the stop token where one ended it.
        log_probs: log pi(token) under the raw distribution (full vocabulary, temperature 1), one per token id; empty
            where the request asked for none.
        processed_log_probs: the same under the sampled distribution (after temperature, top-k, top-p).
        finish: "stop" by a stop token, "length" at `max_tokens`.
    """

    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    processed_log_probs: tuple[float, ...]
    finish: Literal["stop", "length"]

    def __post_init__(self) -> None:
        for values in (self.log_probs, self.processed_log_probs):
            assert len(values) in (0, len(self.token_ids)), "one log-prob per token id, or none at all"


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What an engine that runs a model on this machine may use; a server has its own.

    Args:
        device: auto (the first CUDA device, or the CPU), cpu, cuda or cuda:N.
        dtype: auto is float32 on a CPU and bfloat16 elsewhere.
        batch_tokens: most tokens, prompts and `max_tokens` together, that are sampled at once.
        memory_gib: what scoring may take beside the model's weights, about.
    """

    device: str = "auto"
    dtype: Dtype = "auto"
    batch_tokens: int = BATCH_TOKENS
    memory_gib: float = MEMORY_GIB


class Engine(Protocol):
    """A model that can sample and score. Prompts and completions are token ids; text never crosses this line.

    Args:
        name: as in `ENGINES`, and in what is written.
        vocabulary: how many token ids the model has.
    """

    name: str
    vocabulary: int

    def check_lengths(self, longest: int, *, what: str) -> None:
        """Raises `UserError` where `longest` tokens do not fit into the model's context. `what` names them."""
        ...

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        *,
        stop_token_ids: Sequence[int],
        log_probs: bool = True,
    ) -> list[list[Completion]]:
        """`sampling.samples` completions for each prompt, in order. `log_probs=False` leaves the log-probs empty."""
        ...

    def score(self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> list[list[float]]:
        """Raw log-probs of each completion's tokens given its prompt, teacher-forced, in order."""
        ...

    def score_top(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], k: int
    ) -> "tuple[list[list[float]], list[TopTokens]]":
        """`score`, and the k likeliest tokens at each position of each completion."""
        ...

    def close(self) -> None:
        """Ends what the engine has started: processes, connections, a cluster. It cannot be used afterwards."""
        ...


def derive_seed(seed: int, *place: str | int) -> int:
    """A seed for one place of a stage (its name, a shard, a batch), the same in every process.

    >>> derive_seed(0, "collect", 1) != derive_seed(0, "collect", 2)
    True
    """
    text = "/".join(str(part) for part in (seed, *place))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
