"""The `server` engine: OpenAI-compatible endpoints that take token ids as `prompt` and return ids with log-probs.

One request is one completion, with a seed of its own, so neither the endpoint nor the order of answers decides what is
sampled. Text never crosses the line: an endpoint that does not give token ids is refused.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pear.data.teacher_top import TopTokens
from pear.engines.answers import checked_finish, checked_log_probs, parsed_top, token_ids, top_tokens
from pear.engines.protocol import Completion, Resources, Sampling, derive_seed
from pear.engines.settings import ServerSettings
from pear.errors import UserError, missing_extra
from pear.models import unreadable_model
from pear.runs import note

_Result = TypeVar("_Result")
# One token is left to draw, so its log-prob is 0; raw, a model is not as sure as that of so many.
_PROBE = Sampling(top_k=1, max_tokens=8)
_PROBE_SLACK = 1e-4
_EXAMPLE = "http://gpu1:8000/v1"
# How long an endpoint that was dead may take to say that it is back.
_BACK_S = 5.0


@dataclass(kw_only=True, eq=False)
class _Endpoint:
    """One server: what it calls the model, its context, and why it counts as dead (None while it does not)."""

    url: str
    client: Any
    model: str = ""
    context: int | None = None
    fault: str | None = None
    is_processed: bool = False
    probing: asyncio.Lock = field(default_factory=asyncio.Lock)


class _DeadError(Exception):
    """An endpoint that did not answer, however often it was asked."""


class ServerEngine:
    """Samples and scores over HTTP, on one server or several that serve the same model.

    Raw log-probs of sampling that is not the model's own distribution, and of greedy decoding, come from scoring the
    finished completion; so they mean the same whatever the server's settings.

    Args:
        model: the configuration's model; its config.json says how many token ids there are.
        settings: the endpoints, and how they are asked.

    Raises:
        UserError: openai is not installed, no endpoint answers, or one serves another model.
    """

    name = "server"

    def __init__(self, model: str, settings: ServerSettings) -> None:
        try:
            from openai import AsyncOpenAI
        except ImportError:
            raise missing_extra("openai (for the `server` engine)", "server") from None
        self._settings = settings
        self._model_name = Path(model).name
        self.vocabulary, self._context = _sizes(model)
        self._runner = asyncio.Runner()
        key = os.environ.get(settings.api_key_env) or "none"
        self._endpoints = [
            _Endpoint(
                url=url,
                client=AsyncOpenAI(base_url=url, api_key=key, max_retries=settings.retries, timeout=settings.timeout_s),
            )
            for url in settings.endpoints
        ]
        try:
            self._runner.run(self._open_all())
        except BaseException:
            self.close()
            raise

    def check_lengths(self, longest: int, *, what: str) -> None:
        """Raises `UserError` where `longest` tokens do not fit into the context that is served. `what` names them."""
        contexts = [endpoint.context for endpoint in self._endpoints if endpoint.context is not None]
        context = min([*contexts, *([self._context] if self._context is not None else [])], default=None)
        # vLLM scores only what is shorter than its context.
        if context is not None and longest >= context:
            raise UserError(
                f"{what}: {longest} tokens, but {self._model_name} is served with a context of {context}, of which one "
                "is kept free."
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
            UserError: no endpoint is left, or one refuses a request or answers with what is no completion.
        """
        assert stop_token_ids, "a completion must be able to end"
        stops = list(stop_token_ids)

        def job(place: int, sample: int) -> Callable[[_Endpoint], Awaitable[Completion]]:
            own = sampling.model_copy(update={"seed": derive_seed(sampling.seed, "request", place, sample)})
            return lambda endpoint: self._complete(endpoint, list(prompts[place]), own, stops, log_probs)

        places = range(len(prompts))
        found = self._run([job(place, sample) for place in places for sample in range(sampling.samples)])
        return [found[start : start + sampling.samples] for start in range(0, len(found), sampling.samples)]

    def score(self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> list[list[float]]:
        """Raw log-probs of each completion's tokens given its prompt, teacher-forced, in order. Raises as `generate`
        does."""
        return [list(log_probs) for log_probs, _ in self._score_all(prompts, completions, 0)]

    def score_top(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], k: int
    ) -> tuple[list[list[float]], list[TopTokens]]:
        """`score`, and the k likeliest tokens at each position of each completion."""
        found = self._score_all(prompts, completions, k)
        return [list(log_probs) for log_probs, _ in found], [top_tokens(top, k) for _, top in found]

    def close(self) -> None:
        """Closes the connections; the servers go on."""
        for endpoint in self._endpoints:
            self._runner.run(endpoint.client.close())
        self._runner.close()

    def _score_all(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], k: int
    ) -> list[tuple[tuple[float, ...], list[dict[int, float]]]]:
        def job(prompt: list[int], completion: list[int]) -> Callable[[_Endpoint], Awaitable[Any]]:
            return lambda endpoint: self._score(endpoint, prompt, completion, k)

        pairs = zip(prompts, completions, strict=True)
        return self._run([job(list(prompt), list(completion)) for prompt, completion in pairs])

    async def _complete(
        self, endpoint: _Endpoint, prompt: list[int], sampling: Sampling, stops: list[int], log_probs: bool
    ) -> Completion:
        is_own = sampling.is_raw or sampling.temperature == 0
        if log_probs and not is_own:
            await self._check_processed(endpoint, prompt)
        ids, sampled = await self._sample(endpoint, prompt, sampling, stops)
        finish = checked_finish(ids, sampling, stops, self.vocabulary, endpoint.url)
        raw: tuple[float, ...] = ()
        processed: tuple[float, ...] = ()
        if log_probs:
            raw = processed = checked_log_probs(sampled, len(ids), endpoint.url)
            if not sampling.is_raw:
                raw, _ = await self._score(endpoint, prompt, ids, 0)
            if sampling.temperature == 0:
                processed = (0.0,) * len(ids)
        return Completion(token_ids=tuple(ids), log_probs=raw, processed_log_probs=processed, finish=finish)

    async def _sample(
        self, endpoint: _Endpoint, prompt: list[int], sampling: Sampling, stops: list[int]
    ) -> tuple[list[int], list[float | None]]:
        """The ids of one completion, and their log-probs as the server gave them."""
        choice = await self._request(
            endpoint,
            prompt,
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=sampling.seed,
            logprobs=0,
            # Everything that a model's generation configuration could set on the server is said here.
            presence_penalty=0.0,
            frequency_penalty=0.0,
            extra_body={
                "top_k": sampling.top_k or -1,
                "min_p": 0.0,
                "repetition_penalty": 1.0,
                "stop_token_ids": stops,
                "ignore_eos": True,
                "skip_special_tokens": False,
                "return_token_ids": True,
                "return_tokens_as_token_ids": True,
            },
        )
        given = getattr(choice, "token_ids", None)
        ids = given if given is not None else token_ids(choice.logprobs, endpoint.url)
        if not ids or not all(isinstance(token, int) for token in ids):
            raise UserError(f"{endpoint.url}: gave {ids} as a completion's token ids. Update it, or use another.")
        return ids, list(choice.logprobs.token_logprobs or ())

    async def _score(
        self, endpoint: _Endpoint, prompt: list[int], completion: list[int], k: int
    ) -> tuple[tuple[float, ...], list[dict[int, float]]]:
        """Raw log-probs of a completion's tokens, and what is likeliest at each."""
        choice = await self._request(
            endpoint,
            [*prompt, *completion],
            max_tokens=0,
            echo=True,
            temperature=1.0,
            logprobs=k,
            extra_body={"return_tokens_as_token_ids": True, "return_token_ids": True},
        )
        if token_ids(choice.logprobs, endpoint.url) != [*prompt, *completion]:
            raise UserError(
                f"{endpoint.url}: returned the log-probs of other token ids than it was asked for. Let it take token "
                "ids as they are, and use `max_tokens: 0` with `echo`."
            )
        values = list(choice.logprobs.token_logprobs or ())[len(prompt) :]
        log_probs = checked_log_probs(values, len(completion), endpoint.url)
        if k == 0:
            return log_probs, []
        tops = list(choice.logprobs.top_logprobs or ())[len(prompt) :]
        if len(tops) != len(completion) or any(top is None or len(top) < k for top in tops):
            raise UserError(f"{endpoint.url}: gave fewer than {k} likeliest tokens. Start it with --max-logprobs {k}.")
        return log_probs, [parsed_top(top, endpoint.url) for top in tops]

    async def _check_processed(self, endpoint: _Endpoint, prompt: list[int]) -> None:
        """Raises `UserError` where an endpoint's log-probs are not those of the distribution that it samples."""
        async with endpoint.probing:
            if endpoint.is_processed:
                return
            ids, values = await self._sample(endpoint, prompt[:1], _PROBE, [])
            log_probs = checked_log_probs(values, len(ids), endpoint.url)
            if min(log_probs) < -_PROBE_SLACK:
                raise UserError(
                    f"{endpoint.url}: gives log-probs of the raw distribution, and sampling with a temperature, top_k "
                    "or top_p needs those that it draws from. Start the server with --logprobs-mode "
                    "processed_logprobs."
                )
            endpoint.is_processed = True

    async def _request(self, endpoint: _Endpoint, prompt: list[int], **fields: Any) -> Any:
        """The one choice of an answer, which has log-probs."""
        with _refusals(endpoint, self._settings):
            answer = await endpoint.client.completions.create(model=endpoint.model, prompt=prompt, **fields)
        choices = getattr(answer, "choices", None)
        if not isinstance(choices, list) or len(choices) != 1:
            raise UserError(f"{endpoint.url}: answered without a completion. Name the base URL, such as {_EXAMPLE}.")
        if getattr(choices[0], "logprobs", None) is None:
            raise UserError(f"{endpoint.url}: returns no log-probs. Use a server that does, such as `vllm serve`.")
        return choices[0]

    async def _open_all(self) -> None:
        await asyncio.gather(*(self._open(endpoint) for endpoint in self._endpoints))
        self._alive()

    async def _open(self, endpoint: _Endpoint, **options: Any) -> None:
        """Finds the model at an endpoint, and its context; an endpoint that does not answer is dead."""
        try:
            with _refusals(endpoint, self._settings):
                page = await endpoint.client.with_options(**options).models.list()
        except _DeadError as error:
            self._bury(endpoint, error)
            return
        cards = getattr(page, "data", None) or []
        wanted = self._settings.served_model
        names = {card.id: Path(getattr(card, "root", None) or card.id).name for card in cards}
        if wanted is None:
            found = [name for name, root in names.items() if self._model_name in (Path(name).name, root)]
        else:
            found = [name for name in names if name == wanted]
        if len(found) != 1:
            raise UserError(
                f"{endpoint.url}: serves {', '.join(names) or 'no model'}, not {wanted or self._model_name}. Serve "
                "that, or name what stands for it as engine_kwargs.served_model."
            )
        card = next(card for card in cards if card.id == found[0])
        endpoint.model, endpoint.context = card.id, getattr(card, "max_model_len", None)
        endpoint.fault, endpoint.is_processed = None, False

    def _bury(self, endpoint: _Endpoint, error: _DeadError) -> None:
        if endpoint.fault is None and len(self._endpoints) > 1:
            note(f"{endpoint.url}: does not answer ({error}); the others take its requests.")
        endpoint.fault = str(error)

    def _alive(self) -> list[_Endpoint]:
        """The endpoints that answer. Raises `UserError` where none does."""
        alive = [endpoint for endpoint in self._endpoints if endpoint.fault is None]
        if not alive:
            faults = "; ".join(f"{endpoint.url} ({endpoint.fault})" for endpoint in self._endpoints)
            raise UserError(
                f"No endpoint answers: {faults}. Start the servers and run the same command again: it goes on where "
                "it was."
            )
        return alive

    def _run(self, jobs: Sequence[Callable[[_Endpoint], Awaitable[_Result]]]) -> list[_Result]:
        """The results of jobs, in order, whatever endpoint did them."""
        return self._runner.run(self._do_all(jobs))

    async def _do_all(self, jobs: Sequence[Callable[[_Endpoint], Awaitable[_Result]]]) -> list[_Result]:
        dead = [endpoint for endpoint in self._endpoints if endpoint.fault is not None]
        await asyncio.gather(*(self._open(endpoint, max_retries=0, timeout=_BACK_S) for endpoint in dead))
        results: dict[int, _Result] = {}
        left: asyncio.Queue[int] = asyncio.Queue()
        for place in range(len(jobs)):
            left.put_nowait(place)

        async def work(endpoint: _Endpoint) -> None:
            while True:
                place = await left.get()
                try:
                    results[place] = await jobs[place](endpoint)
                except (_DeadError, asyncio.CancelledError):
                    left.put_nowait(place)  # for another endpoint
                    left.task_done()
                    raise
                left.task_done()

        async def serve(endpoint: _Endpoint) -> None:
            workers: list[asyncio.Task[None]] = []
            try:
                for _ in range(self._settings.concurrency):
                    workers.append(asyncio.create_task(work(endpoint)))
                    # In turns, so that a few jobs are spread over all endpoints.
                    await asyncio.sleep(0)
                await asyncio.gather(*workers)
            except _DeadError as error:
                self._bury(endpoint, error)
            finally:
                await _cancel(workers)

        everyone: asyncio.Future[Any] = asyncio.gather(*(serve(endpoint) for endpoint in self._alive()))
        done: asyncio.Future[Any] = asyncio.ensure_future(left.join())
        try:
            await asyncio.wait([everyone, done], return_when=asyncio.FIRST_COMPLETED)
            if everyone.done():
                everyone.result()
                self._alive()
        finally:
            await _cancel([everyone, done])
        return [results[place] for place in range(len(jobs))]


async def _cancel(tasks: Sequence["asyncio.Future[Any]"]) -> None:
    """Ends tasks, and waits until they have ended; what they raised has been looked at."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def _refusals(endpoint: _Endpoint, settings: ServerSettings) -> Iterator[None]:
    """Tells an endpoint that is down or overloaded (`_DeadError`) from one that refuses a request (`UserError`)."""
    import openai

    try:
        yield
    except openai.APITimeoutError:
        raise _DeadError(f"no answer within {settings.timeout_s:g} s") from None
    except (openai.APIConnectionError, openai.InternalServerError, openai.RateLimitError) as error:
        raise _DeadError(_first_line(error.__cause__ or error)) from None
    except (openai.AuthenticationError, openai.PermissionDeniedError):
        raise UserError(f"{endpoint.url}: wants a key. Put it into the variable {settings.api_key_env}.") from None
    except openai.NotFoundError:
        raise UserError(f"{endpoint.url}: has no such address. Name the base URL, such as {_EXAMPLE}.") from None
    except (openai.APIError, ValueError) as error:
        raise UserError(f"{endpoint.url}: refused a request ({_first_line(error)}).") from None


def _first_line(error: BaseException) -> str:
    body = getattr(error, "body", None)
    text = str(body["message"]) if isinstance(body, dict) and "message" in body else str(error)
    return text.strip().splitlines()[0][:300].rstrip(".") if text.strip() else type(error).__name__


def _sizes(model: str) -> tuple[int, int | None]:
    """How many token ids a model has, and its context. Raises `UserError` where its configuration cannot be read."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(model, trust_remote_code=False).get_text_config()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise unreadable_model(model, error) from None
    return int(config.vocab_size), getattr(config, "max_position_embeddings", None)


def open_engine(model: str, tokenizer: Any, resources: Resources, settings: ServerSettings) -> ServerEngine:
    """The engine of a configuration, its endpoints found; `tokenizer` and `resources` are for models that run here.
    Raises `UserError` where that cannot be."""
    return ServerEngine(model, settings)
