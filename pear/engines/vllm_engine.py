"""The `vllm` engine: `vllm.LLM` in this process, token ids in and out.

The model is loaded with `logprobs_mode="processed_logprobs"`: what comes with a sample is of the distribution that was
sampled, which at temperature 1 without truncation is the model's own. Raw log-probs of other samples come from
`prompt_logprobs`, which vLLM computes before any processing, whatever its mode.
"""

import multiprocessing
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from queue import Queue
from typing import Any

from pear.data.teacher_top import TopTokens
from pear.engines.answers import checked_finish, checked_log_probs, top_tokens
from pear.engines.protocol import Completion, Resources, Sampling, derive_seed
from pear.engines.settings import VllmSettings
from pear.errors import UserError, missing_extra
from pear.models import check_model

_NAME = "vllm"
# float32 logits and their log-softmax, with the bfloat16 logits that they come from.
_BYTES_PER_LOGIT = 10
_FEWEST_STEP_TOKENS, _MOST_STEP_TOKENS = 128, 1 << 13
_MOST_SEQUENCES = 256
# Log-probs that are Python objects at once: about 200 bytes each.
_MOST_VALUES = 1 << 19
# How long its processes have to end by themselves.
_PATIENCE_S = 30.0
# Kills the processes that it is given as soon as the one that started it is gone and its standard input ends. A pidfd
# names a process for good, where a number may come to mean another one.
_REAPER = """
import contextlib, os, signal, sys
files = [os.pidfd_open(int(word)) for word in sys.argv[1:]]
sys.stdin.read()
for file in files:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(file, signal.SIGKILL)
"""


class VllmEngine:
    """Samples and scores with vLLM. Every completion has a seed of its own.

    A step of vLLM takes so many tokens of prompts that their logits, which `prompt_logprobs` makes all at once, fit
    into the memory that scoring may take; longer prompts are taken in several steps.

    Args:
        model: a directory or hub id.
        resources: `device` must be what this build of vLLM runs on; `batch_tokens` plays no part.
        settings: vLLM's own.

    Raises:
        UserError: vLLM is not installed, runs on another device, or cannot load the model.
    """

    name = _NAME

    def __init__(self, model: str, resources: Resources, settings: VllmSettings) -> None:
        try:
            from vllm import LLM
            from vllm.platforms import current_platform
        except ImportError:
            raise missing_extra("vLLM (for the `vllm` engine)", "vllm") from None
        device = current_platform.device_type
        if resources.device not in ("auto", device):
            raise UserError(
                f"device: '{resources.device}', but vLLM runs on {device} here. Use auto, and CUDA_VISIBLE_DEVICES to "
                "choose among GPUs."
            )
        check_model(model)
        self._model_name = model
        step_tokens = _step_tokens(model, resources.memory_gib)
        dtype = resources.dtype if resources.dtype != "auto" else ("float32" if device == "cpu" else "bfloat16")
        before = set(multiprocessing.active_children())
        try:
            self._llm = LLM(
                model=model,
                dtype=dtype,
                skip_tokenizer_init=True,
                trust_remote_code=False,
                generation_config="vllm",
                logprobs_mode="processed_logprobs",
                max_logprobs=-1,
                max_num_batched_tokens=step_tokens,
                max_num_seqs=min(_MOST_SEQUENCES, step_tokens),
                gpu_memory_utilization=settings.gpu_memory_utilization,
                tensor_parallel_size=settings.tensor_parallel_size,
                max_model_len=settings.max_model_len,
                enforce_eager=settings.enforce_eager,
            )
        except (ValueError, RuntimeError, OSError) as error:
            raise UserError(f"{model}: vLLM cannot load it ({_first_line(error)}).") from error
        self._processes = set(multiprocessing.active_children()) - before
        if self._processes:
            answers = self._llm.llm_engine.engine_core.outputs_queue
            threading.Thread(target=_answer_when_ended, args=(self._processes, answers), daemon=True).start()
        # Without it vLLM 0.32 outlives a `kill -9` of this process, and holds the memory that the next start needs.
        self._reaper = subprocess.Popen(
            [sys.executable, "-c", _REAPER, *(str(process.pid) for process in self._processes)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        self.vocabulary = int(self._llm.model_config.get_vocab_size())
        self._context = int(self._llm.model_config.max_model_len)

    def check_lengths(self, longest: int, *, what: str) -> None:
        """Raises `UserError` where `longest` tokens do not fit into the model's context. `what` names them."""
        # vLLM scores only what is shorter than its context.
        if longest >= self._context:
            raise UserError(
                f"{what}: {longest} tokens, but {self._model_name} runs with a context of {self._context}, of which "
                "vLLM keeps one free."
            )

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
            sampling: how; its seed, the prompt's place in `prompts` and the sample's number decide every draw.
            stop_token_ids: a completion ends after the first of these, which it keeps.
            log_probs: False leaves the log-probs empty.

        Raises:
            UserError: a prompt with `max_tokens` does not fit, vLLM has ended, or it gave what is no completion.
        """
        assert stop_token_ids, "a completion must be able to end"
        if not prompts:
            return []
        self.check_lengths(max(map(len, prompts)) + sampling.max_tokens, what="longest prompt + max_tokens")
        places = [(place, sample) for place in range(len(prompts)) for sample in range(sampling.samples)]
        settings = [
            self._settings(sampling, stop_token_ids, derive_seed(sampling.seed, "request", *place), log_probs)
            for place in places
        ]
        outputs = self._ask([prompts[place] for place, _ in places], settings)
        ids = [tuple(output.outputs[0].token_ids) for output in outputs]
        finishes = [checked_finish(row, sampling, stop_token_ids, self.vocabulary, _NAME) for row in ids]
        raw: list[tuple[float, ...]] = [()] * len(ids)
        processed = raw
        if log_probs:
            raw = processed = [
                _of_tokens(output.outputs[0].logprobs, row) for output, row in zip(outputs, ids, strict=True)
            ]
            if not sampling.is_raw:
                raw = [tuple(values) for values in self.score([prompts[place] for place, _ in places], ids)]
            if sampling.temperature == 0:
                processed = [(0.0,) * len(row) for row in ids]
        completions = [
            Completion(token_ids=ids[row], log_probs=raw[row], processed_log_probs=processed[row], finish=finish)
            for row, finish in enumerate(finishes)
        ]
        return [completions[start : start + sampling.samples] for start in range(0, len(ids), sampling.samples)]

    def score(self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> list[list[float]]:
        """Raw log-probs of each completion's tokens given its prompt, teacher-forced, in order."""
        return [log_probs for log_probs, _ in self._scored(prompts, completions, 0)]

    def score_top(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], k: int
    ) -> tuple[list[list[float]], list[TopTokens]]:
        """`score`, and the k likeliest tokens at each position of each completion."""
        found = [(log_probs, top_tokens(tops, k)) for log_probs, tops in self._scored(prompts, completions, k)]
        return [log_probs for log_probs, _ in found], [top for _, top in found]

    def close(self) -> None:
        """Ends vLLM's processes, and waits until they are gone: the next engine needs their memory."""
        self._llm.llm_engine.engine_core.shutdown()
        for process in self._processes:
            process.join(_PATIENCE_S)
            if process.is_alive():
                process.kill()
                process.join()
        self._reaper.communicate()

    def _scored(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], k: int
    ) -> Iterator[tuple[list[float], list[dict[int, float]]]]:
        """Each row's log-probs, and those of the k likeliest tokens at each position; so many rows at once as may be
        Python objects."""
        from vllm import SamplingParams

        settings = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=k, detokenize=False, ignore_eos=True)
        rows = [[*prompt, *completion] for prompt, completion in zip(prompts, completions, strict=True)]
        if rows:
            self.check_lengths(max(map(len, rows)), what="longest prompt + completion")
        for chosen in _parts([len(row) * (k + 1) for row in rows]):
            outputs = self._ask([rows[row] for row in chosen], [settings] * len(chosen))
            for row, output in zip(chosen, outputs, strict=True):
                values = output.prompt_logprobs[len(prompts[row]) :]
                tops = [{token: item.logprob for token, item in top.items()} for top in values] if k else []
                yield list(_of_tokens(values, completions[row])), tops

    def _settings(self, sampling: Sampling, stops: Sequence[int], seed: int, log_probs: bool) -> Any:
        from vllm import SamplingParams

        return SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            max_tokens=sampling.max_tokens,
            seed=seed,
            stop_token_ids=list(stops),
            ignore_eos=True,
            logprobs=0 if log_probs else None,
            detokenize=False,
        )

    def _ask(self, prompts: Sequence[Sequence[int]], settings: list[Any]) -> list[Any]:
        with _living():
            return self._llm.generate(
                [{"prompt_token_ids": list(prompt)} for prompt in prompts], settings, use_tqdm=False
            )


def _step_tokens(model: str, memory_gib: float) -> int:
    """How many tokens' logits fit into the memory that scoring may take."""
    from transformers import AutoConfig

    vocabulary = AutoConfig.from_pretrained(model, trust_remote_code=False).get_text_config().vocab_size
    fitting = int(memory_gib * (1 << 30) / (_BYTES_PER_LOGIT * vocabulary))
    return max(_FEWEST_STEP_TOKENS, min(_MOST_STEP_TOKENS, fitting))


def _parts(sizes: Sequence[int]) -> Iterator[list[int]]:
    """Rows, in order, whose sizes add up to `_MOST_VALUES` at most; a larger one is alone."""
    part: list[int] = []
    total = 0
    for row, size in enumerate(sizes):
        if part and total + size > _MOST_VALUES:
            yield part
            part, total = [], 0
        part.append(row)
        total += size
    if part:
        yield part


def _of_tokens(values: Sequence[Any], token_ids: Sequence[int]) -> tuple[float, ...]:
    """Log-probs of the tokens themselves, by their ids."""
    found = [item[token].logprob for item, token in zip(values, token_ids, strict=True)]
    return checked_log_probs(found, len(token_ids), _NAME)


def _answer_when_ended(processes: set[BaseProcess], answers: "Queue[Any]") -> None:
    """Wakes who waits for an answer of a process that was killed: vLLM 0.32 sees its end, and goes on waiting."""
    from vllm.v1.engine.exceptions import EngineDeadError

    connection.wait([process.sentinel for process in processes])
    answers.put(EngineDeadError())


@contextmanager
def _living() -> Iterator[None]:
    from vllm.v1.engine.exceptions import EngineDeadError

    try:
        yield
    except EngineDeadError as error:
        raise UserError(
            f"vLLM's process has ended ({_first_line(error)}). Run the same command again: it goes on where it was."
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300].rstrip(".")


def open_engine(model: str, tokenizer: Any, resources: Resources, settings: VllmSettings) -> VllmEngine:
    """The engine of a configuration, its model loaded; vLLM needs no tokenizer, since no text crosses the line. Raises
    `UserError` where that cannot be."""
    return VllmEngine(model, resources, settings)
