"""The local engine: batched `generate` of transformers, log-probs by one teacher-forced pass."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pear.data.teacher_top import TopTokens
from pear.engines.protocol import BATCH_TOKENS, MEMORY_GIB, Completion, Resources, Sampling, derive_seed
from pear.engines.scoring import TokenScorer, check_causal
from pear.engines.settings import Batching, TransformersSettings
from pear.errors import UserError
from pear.models import Dtype, load_causal_model

# Tokens between two looks at which rows have ended.
_SEGMENT = 16
# Of continuous batching: tokens in a page of the cache, and tokens of a forward pass.
_PAGE, _FORWARD_TOKENS = 32, 2048


class TransformersEngine:
    """Samples and scores with a model of transformers, on any device.

    A sample depends on its batch, so batches are fixed by the request and `batch_tokens` alone, and each has its own
    seed: equal requests give equal completions. Log-probs never come from the sampling loop, but from one pass over
    the finished sequences, so collected and re-scored ones agree. The model's own generation configuration
    (repetition penalty, top-k, ...) plays no part: `Sampling` says everything.

    Args:
        model: a loaded causal language model, or a directory or hub id to load.
        tokenizer: checked to have no id that the model lacks; may be None.
        device: "auto" is the first CUDA device, or the CPU; None leaves a loaded model where it is.
        dtype: "auto" is float32 on a CPU and bfloat16 elsewhere; only for a model that is loaded here.
        batch_tokens: most tokens, prompts and `max_tokens` together, that are sampled at once.
        memory_gib: what scoring may take beside the weights, about.
        batching: as in `TransformersSettings`.
    """

    name = "transformers"

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        device: str | None = None,
        *,
        dtype: Dtype = "auto",
        batch_tokens: int = BATCH_TOKENS,
        memory_gib: float = MEMORY_GIB,
        batching: Batching = "auto",
    ) -> None:
        if isinstance(model, (str, Path)):
            model = load_model(str(model), device or "auto", dtype)
        elif device is not None:
            model = model.to(resolve_device(device))
        self.model = model
        self.batch_tokens = batch_tokens
        self.memory_gib = memory_gib
        self.device = next(model.parameters()).device
        check_causal(model, self._model_name)
        rows_can_leave = _rows_can_leave(model)
        self._segment = _SEGMENT if rows_can_leave else 1 << 30
        if batching == "continuous" and not rows_can_leave:
            raise UserError(
                f"engine_kwargs.batching: {self._model_name} has layers that continuous batching has no cache for. Use "
                "static."
            )
        by_default = self.device.type == "cuda" and rows_can_leave
        self._continuous = batching == "continuous" or (batching == "auto" and by_default)
        self.vocabulary = int(model.get_input_embeddings().weight.shape[0])
        if tokenizer is not None:
            highest = max(tokenizer.get_vocab().values())
            if highest >= self.vocabulary:
                raise UserError(
                    f"{self._model_name}: has {self.vocabulary} token embeddings, but the tokenizer's ids go up to "
                    f"{highest}. Use the model's own tokenizer."
                )

    @property
    def _model_name(self) -> str:
        return str(self.model.config.name_or_path or type(self.model).__name__)

    def check_lengths(self, longest: int, *, what: str) -> None:
        """Raises `UserError` where `longest` tokens do not fit into the model's context. `what` names them."""
        context = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if context is not None and longest > context:
            raise UserError(f"{what}: {longest} tokens, but {self._model_name} has a context of {context}.")

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        *,
        stop_token_ids: Sequence[int],
        log_probs: bool = True,
    ) -> list[list[Completion]]:
        """`sampling.samples` completions for each prompt, in order.

        Args:
            prompts: ids, at least one each.
            sampling: how; its seed and the prompt's place in `prompts` decide every draw.
            stop_token_ids: a completion ends after the first of these, which it keeps.
            log_probs: False leaves the log-probs empty, and saves the pass that computes them.

        Raises:
            UserError: a prompt with `max_tokens` does not fit into the model's context.
        """
        assert stop_token_ids, "a completion must be able to end"
        requests = [place for place, _ in enumerate(prompts) for _ in range(sampling.samples)]
        if not requests:
            return []
        longest = max(len(prompt) for prompt in prompts)
        self.check_lengths(longest + sampling.max_tokens, what="longest prompt + max_tokens")
        generate = self._generate_continuously if self._continuous else self._generate_in_batches
        with self._inference():
            sampled = generate([prompts[place] for place in requests], sampling, stop_token_ids)
        raw: list[list[float]] = [[] for _ in requests]
        processed = raw
        if log_probs:
            raw, processed = self._score_sampled([prompts[place] for place in requests], sampled, sampling)
        completions = [
            Completion(
                token_ids=tuple(ids),
                log_probs=tuple(raw[row]),
                processed_log_probs=tuple(processed[row]),
                finish="stop" if ids[-1] in stop_token_ids else "length",
            )
            for row, ids in enumerate(sampled)
        ]
        return [completions[start : start + sampling.samples] for start in range(0, len(requests), sampling.samples)]

    def score(self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> list[list[float]]:
        """Raw log-probs of each completion's tokens given its prompt, teacher-forced, in order."""
        with self._inference():
            return TokenScorer(self.model, self.memory_gib)(prompts, completions).raw

    def score_top(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], k: int
    ) -> tuple[list[list[float]], list[TopTokens]]:
        """`score`, and the k likeliest tokens at each position of each completion, from the same pass."""
        with self._inference():
            scores = TokenScorer(self.model, self.memory_gib)(prompts, completions, top_k=k)
        assert scores.top is not None
        return scores.raw, scores.top

    def close(self) -> None:
        """Nothing to end: the model is freed with the engine."""

    def _score_sampled(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], sampling: Sampling
    ) -> tuple[list[list[float]], list[list[float]]]:
        with self._inference():
            scores = TokenScorer(self.model, self.memory_gib)(prompts, completions, sampled_with=sampling)
        assert scores.processed is not None
        return scores.raw, scores.processed

    def _generate_continuously(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, stop_token_ids: Sequence[int]
    ) -> list[list[int]]:
        """Samples all prompts; as one ends, the next takes its place in the cache.

        What is computed at once follows from the request and `batch_tokens`, and not from the memory that is free, so
        that equal requests give equal completions.
        """
        from transformers import ContinuousBatchingConfig

        longest = max(len(prompt) for prompt in prompts) + sampling.max_tokens
        settings = ContinuousBatchingConfig(
            page_size=_PAGE,
            num_blocks=-(-max(self.batch_tokens, longest) // _PAGE) + 1,
            max_batch_tokens=_FORWARD_TOKENS,
            drop_unsupported_processors=False,
            seed=derive_seed(sampling.seed, "batch", 0),
        )
        with self._seeds_forked():
            outputs = self.model.generate_batch(
                [list(prompt) for prompt in prompts],
                generation_config=_settings(sampling, list(stop_token_ids), sampling.max_tokens),
                continuous_batching_config=settings,
            )
        found = []
        for number in range(len(prompts)):
            output = outputs[f"req_{number}"]
            if output.error is not None or not output.generated_tokens:
                raise RuntimeError(f"Continuous batching: prompt {number} was not answered ({output.error}).")
            found.append(_cut(output.generated_tokens, stop_token_ids))
        return found

    def _generate_in_batches(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, stop_token_ids: Sequence[int]
    ) -> list[list[int]]:
        sampled: list[list[int]] = [[] for _ in prompts]
        for number, rows in enumerate(self._batches([len(prompt) for prompt in prompts], sampling)):
            batch = [prompts[row] for row in rows]
            for row, ids in zip(rows, self._generate_batch(batch, sampling, stop_token_ids, number), strict=True):
                sampled[row] = ids
        return sampled

    def _batches(self, lengths: Sequence[int], sampling: Sampling) -> Iterator[list[int]]:
        """Rows in order of prompt length, as many at once as `batch_tokens` allows."""
        batch: list[int] = []
        for row in sorted(range(len(lengths)), key=lambda row: lengths[row]):
            if batch and (len(batch) + 1) * (lengths[row] + sampling.max_tokens) > self.batch_tokens:
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch

    def _generate_batch(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, stop_token_ids: Sequence[int], number: int
    ) -> list[list[int]]:
        """Samples one batch. Every few tokens the rows that have ended leave it, so that one long completion does not
        keep a whole batch going."""
        stops = torch.tensor(list(stop_token_ids), device=self.device)
        width = max(len(prompt) for prompt in prompts)
        ids = torch.tensor([[stop_token_ids[0]] * (width - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        ids, mask = ids.to(self.device), mask.to(self.device)
        finished: dict[int, list[int]] = {}
        active = torch.arange(len(prompts), device=self.device)
        cache: dict[str, Any] = {}
        with self._seeds_forked():
            torch.manual_seed(derive_seed(sampling.seed, "batch", number))
            while len(active):
                left = width + sampling.max_tokens - ids.shape[1]
                settings = _settings(sampling, list(stop_token_ids), min(self._segment, left))
                output = self.model.generate(ids, attention_mask=mask, generation_config=settings, **cache)
                ids = output.sequences
                mask = torch.nn.functional.pad(mask, (0, ids.shape[1] - mask.shape[1]), value=1)
                ended = torch.isin(ids[:, width:], stops).any(dim=1)
                if ids.shape[1] == width + sampling.max_tokens:
                    ended[:] = True
                for row, tokens in zip(active[ended].tolist(), ids[ended][:, width:].tolist(), strict=True):
                    finished[row] = _cut(tokens, stop_token_ids)
                kept = (~ended).nonzero()[:, 0]
                ids, mask, active = ids[kept], mask[kept], active[kept]
                if len(active):
                    cache = {"past_key_values": output.past_key_values}
                    output.past_key_values.batch_select_indices(kept)
        return [finished[row] for row in range(len(prompts))]

    def _seeds_forked(self) -> Any:
        """A context that leaves torch's generators as they were."""
        return torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else [])

    @contextmanager
    def _inference(self) -> Iterator[None]:
        """Evaluation mode, no gradients, and no generation defaults of the model; all put back afterwards."""
        from transformers import GenerationConfig

        training, defaults = self.model.training, self.model.generation_config
        self.model.eval()
        self.model.generation_config = GenerationConfig()
        try:
            with torch.no_grad():
                yield
        finally:
            self.model.generation_config = defaults
            self.model.train(training)


def open_engine(model: str, tokenizer: Any, resources: Resources, settings: TransformersSettings) -> TransformersEngine:
    """The engine of a configuration, its model loaded. Raises `UserError` where that cannot be."""
    return TransformersEngine(
        model,
        tokenizer,
        resources.device,
        dtype=resources.dtype,
        batch_tokens=resources.batch_tokens,
        memory_gib=resources.memory_gib,
        batching=settings.batching,
    )


def _settings(sampling: Sampling, stops: list[int], new_tokens: int) -> Any:
    from transformers import GenerationConfig

    draws = {"temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p}
    return GenerationConfig(
        max_new_tokens=new_tokens,
        eos_token_id=stops,
        pad_token_id=stops[0],
        do_sample=sampling.temperature > 0,
        return_dict_in_generate=True,
        **(draws if sampling.temperature > 0 else {}),
    )


def _rows_can_leave(model: Any) -> bool:
    """Whether every layer's cache is of plain attention, from which rows can be taken out (not so for state spaces)."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    if getattr(model, "_is_stateful", False):
        return False
    layers = DynamicCache(config=model.config).layers
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)


def _cut(ids: list[int], stops: Sequence[int]) -> list[int]:
    """A row up to its first stop token, which is kept; what follows is padding."""
    end = next((place + 1 for place, token in enumerate(ids) if token in stops), len(ids))
    return ids[:end]


def resolve_device(device: str) -> torch.device:
    """The device of a name. Raises `UserError` where it is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError:
        raise UserError(f"device: '{device}' is not a device. Use auto, cpu, cuda or cuda:0.") from None
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device: '{device}' is not here (CUDA devices: {torch.cuda.device_count()}). Use auto or cpu.")
    return found


def load_model(model: str, device: str = "auto", dtype: Dtype = "auto") -> Any:
    """A causal language model in evaluation mode. Raises `UserError` where there is none, or it cannot be read."""
    return load_causal_model(model, str(resolve_device(device)), dtype)
