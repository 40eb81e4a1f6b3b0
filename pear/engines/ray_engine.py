"""The `ray` engine: actors of Ray, on this machine or on a cluster, each with another engine inside.

The actors live as long as the engine, so each loads its model once. Ray Data's own actors live for one execution, which
here is one shard. Ray restarts an actor that dies and runs its part again. Every part has its own seed, so who does it
when decides nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from pear.engines.protocol import Completion, Engine, Resources, Sampling, derive_seed
from pear.engines.ray_cluster import connect
from pear.engines.settings import RaySettings
from pear.errors import UserError, missing_extra

if TYPE_CHECKING:
    from pear.data.teacher_top import TopTokens

_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True)
class _Part:
    """One call of the engine inside: a method's name, and what it is given."""

    method: str
    arguments: tuple[Any, ...]
    options: dict[str, Any]


class _Worker:
    """What an actor runs: an engine of its own, made at the first call, so that what is wrong is raised by a call."""

    def __init__(self, model: str, resources: Resources, settings: RaySettings) -> None:
        self._model, self._resources, self._settings = model, resources, settings

    @cached_property
    def _engine(self) -> Engine:
        from pear.data.rendering import load_tokenizer
        from pear.engines import make_engine

        tokenizer, settings = load_tokenizer(self._model), self._settings
        return make_engine(settings.engine, settings.engine_kwargs, self._model, tokenizer, self._resources)

    def vocabulary(self) -> int:
        return self._engine.vocabulary

    def run(self, part: _Part) -> Any:
        return getattr(self._engine, part.method)(*part.arguments, **part.options)


class RayEngine:
    """Gives parts of a request to actors, and puts their results in order.

    Args:
        model: a directory or hub id that every machine of the cluster can load.
        resources: what each actor's engine may use.
        settings: how many actors, and what is in them.

    Raises:
        UserError: Ray is not installed or not reachable, this machine has less than the actors reserve, or the engine
            inside cannot be made.
    """

    name = "ray"

    def __init__(self, model: str, resources: Resources, settings: RaySettings) -> None:
        try:
            import ray
            from ray.util import ActorPool
        except ImportError:
            raise missing_extra("The `ray` engine", "ray") from None
        self._ray = ray
        self._part_size = settings.prompts_per_part
        self._owns_cluster = not ray.is_initialized()
        if self._owns_cluster:
            self._connect(settings)
        # An actor that dies is started again, and so is the part that it had.
        actor = ray.remote(
            num_cpus=settings.cpus_per_worker,
            num_gpus=settings.gpus_per_worker,
            max_restarts=-1,
            max_task_retries=-1,
        )(_Worker)
        self._actors: list[Any] = [actor.remote(model, resources, settings) for _ in range(settings.workers)]
        self._pool = ActorPool(self._actors)
        try:
            self.vocabulary: int = self._get(self._actors[0].vocabulary.remote())
        except BaseException:
            self.close()
            raise

    def _connect(self, settings: RaySettings) -> None:
        connect(settings.address, setting="engine_kwargs.address")
        wanted = {
            "CPU": settings.workers * settings.cpus_per_worker,
            "GPU": settings.workers * settings.gpus_per_worker,
        }
        here = self._ray.cluster_resources()
        for kind, amount in wanted.items():
            # A cluster may grow; this machine does not, and Ray would wait forever.
            if settings.address is None and amount > here.get(kind, 0.0):
                self._ray.shutdown()
                raise UserError(
                    f"engine_kwargs: {settings.workers} worker(s) reserve {amount:g} {kind}s, and this machine has "
                    f"{here.get(kind, 0.0):g}. Lower `workers` or `{kind.lower()}s_per_worker`, or name a cluster's "
                    "`address`."
                )

    def check_lengths(self, longest: int, *, what: str) -> None:
        """Raises `UserError` where `longest` tokens do not fit into the model's context. `what` names them."""
        part = _Part(method="check_lengths", arguments=(longest,), options={"what": what})
        self._get(self._actors[0].run.remote(part))

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        *,
        stop_token_ids: Sequence[int],
        log_probs: bool = True,
    ) -> list[list[Completion]]:
        """`sampling.samples` completions for each prompt, in order. Each part of a request has its own seed."""

        def part(number: int, chosen: slice) -> _Part:
            own = sampling.model_copy(update={"seed": derive_seed(sampling.seed, "part", number)})
            options = {"stop_token_ids": list(stop_token_ids), "log_probs": log_probs}
            return _Part(method="generate", arguments=(list(prompts[chosen]), own), options=options)

        return [group for groups in self._map(len(prompts), part) for group in groups]

    def score(self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> list[list[float]]:
        """Raw log-probs of each completion's tokens given its prompt, teacher-forced, in order."""

        def part(_number: int, chosen: slice) -> _Part:
            return _Part(method="score", arguments=(list(prompts[chosen]), list(completions[chosen])), options={})

        return [row for rows in self._map(len(prompts), part) for row in rows]

    def score_top(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], k: int
    ) -> "tuple[list[list[float]], list[TopTokens]]":
        """`score`, and the k likeliest tokens at each position of each completion."""

        def part(_number: int, chosen: slice) -> _Part:
            arguments = (list(prompts[chosen]), list(completions[chosen]), k)
            return _Part(method="score_top", arguments=arguments, options={})

        results = self._map(len(prompts), part)
        return [row for rows, _ in results for row in rows], [top for _, tops in results for top in tops]

    def close(self) -> None:
        """Ends the actors, and Ray where this engine has started it."""
        for actor in self._actors:
            self._ray.kill(actor)
        if self._owns_cluster:
            self._ray.shutdown()

    def _map(self, count: int, part: Callable[[int, slice], _Part]) -> list[Any]:
        """The results of all parts, in order."""
        starts = range(0, count, self._part_size)
        parts = [part(number, slice(start, start + self._part_size)) for number, start in enumerate(starts)]
        return self._unwrapped(lambda: list(self._pool.map(lambda actor, item: actor.run.remote(item), parts)))

    def _get(self, reference: Any) -> Any:
        return self._unwrapped(lambda: self._ray.get(reference))

    def _unwrapped(self, call: Callable[[], _Result]) -> _Result:
        """A call's result; what an actor raised is raised here as itself."""
        from ray.exceptions import RayTaskError

        try:
            return call()
        except RayTaskError as error:
            raise error.cause from None


def open_engine(model: str, tokenizer: Any, resources: Resources, settings: RaySettings) -> RayEngine:
    """The engine of a configuration, its actors started; each loads the tokenizer itself. Raises `UserError` where that
    cannot be."""
    return RayEngine(model, resources, settings)
