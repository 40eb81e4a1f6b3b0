"""What a recipe may say about engines: `engine`, a name, and `engine_kwargs`, its settings."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from pear.configuration import NotHashed, StrictModel
from pear.errors import unknown_name

Batching = Literal["auto", "static", "continuous"]


class TransformersSettings(StrictModel):
    """The `transformers` engine; `batch_tokens`, `memory_gib`, `device` and `dtype` are keys of the stage.

    Args:
        batching: how completions are sampled: "static", batches that rows leave as they end; "continuous", where other
            rows take their place; "auto" is continuous on a GPU, and static on a CPU, where it is many times faster.
            It decides the draws.
    """

    batching: Batching = "auto"

    def hashed(self) -> dict[str, Any]:
        """Nothing by default, as before there was a choice."""
        return {} if self.batching == "auto" else super().hashed()


class VllmSettings(StrictModel):
    """The `vllm` engine, in this process.

    Args:
        gpu_memory_utilization: share of each GPU's memory for weights and KV cache.
        tensor_parallel_size: GPUs that one copy of the model is split over.
        max_model_len: longest prompt with completion; the model's own context where left out.
        enforce_eager: no CUDA graphs: slower, less memory, a quicker start.
    """

    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1), NotHashed()] = 0.9
    tensor_parallel_size: Annotated[int, Field(gt=0), NotHashed()] = 1
    max_model_len: Annotated[int | None, Field(gt=0), NotHashed()] = None
    enforce_eager: Annotated[bool, NotHashed()] = False


class ServerSettings(StrictModel):
    """OpenAI-compatible servers that take token ids and return log-probs, such as `vllm serve`.

    Args:
        endpoints: their base URLs, such as `http://gpu1:8000/v1`. All serve the same model.
        served_model: the model's name there; may be left out where it serves one, of the configuration's name.
        concurrency: requests at once, for each endpoint.
        retries: how often a request that failed is sent again to its endpoint, with growing pauses, before the
            endpoint counts as dead and the others take its work.
        timeout_s: how long one request may take.
        api_key_env: the environment variable with the key, where one is needed.
    """

    endpoints: Annotated[list[str], Field(min_length=1), NotHashed()]
    served_model: Annotated[str | None, NotHashed()] = None
    concurrency: Annotated[int, Field(gt=0), NotHashed()] = 64
    retries: Annotated[int, Field(ge=0), NotHashed()] = 3
    timeout_s: Annotated[float, Field(gt=0), NotHashed()] = 600.0
    api_key_env: Annotated[str, NotHashed()] = "OPENAI_API_KEY"


class RaySettings(StrictModel):
    """Ray Data actors, each with an engine of its own, on this machine or on a cluster.

    Args:
        engine: what runs in each actor, and `engine_kwargs`, its settings.
        workers: actors.
        gpus_per_worker: GPUs that each reserves; with 0 they share the CPUs.
        cpus_per_worker: CPU cores likewise.
        prompts_per_part: prompts, or rows to score, that an actor is given at once. Decides the draws.
        address: of a running cluster (`auto`, or `ray://host:10001`); left out, Ray starts here.
    """

    engine: Literal["transformers", "vllm", "server"] = "transformers"
    engine_kwargs: dict[str, Any] = {}
    workers: Annotated[int, Field(gt=0), NotHashed()] = 1
    gpus_per_worker: Annotated[float, Field(ge=0), NotHashed()] = 0.0
    cpus_per_worker: Annotated[float, Field(ge=0), NotHashed()] = 1.0
    prompts_per_part: Annotated[int, Field(gt=0)] = 64
    address: Annotated[str | None, NotHashed()] = None

    @field_validator("engine_kwargs")
    @classmethod
    def _fits(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        return checked_engine_kwargs(value, info)

    def hashed(self) -> dict[str, Any]:
        """What decides the numbers, the actors' engine's settings included."""
        return {**super().hashed(), "engine_kwargs": engine_settings(self.engine, self.engine_kwargs).hashed()}


EngineName = Literal["transformers", "vllm", "server", "ray"]
SETTINGS: dict[str, type[StrictModel]] = {
    "transformers": TransformersSettings,
    "vllm": VllmSettings,
    "server": ServerSettings,
    "ray": RaySettings,
}


def engine_settings(engine: str, values: Mapping[str, Any]) -> StrictModel:
    """The settings of an engine. Raises `UserError` on an unknown engine, key or value."""
    if engine not in SETTINGS:
        raise unknown_name("engine", engine, SETTINGS)
    return SETTINGS[engine].parse(dict(values), source="engine_kwargs")


def checked_engine_kwargs(value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
    """A validator of a field `engine_kwargs` that comes after `engine`."""
    if "engine" in info.data:
        engine_settings(info.data["engine"], value)
    return value


def hashed_engine(values: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration's hashed values with the engine's own: nothing where it is `transformers` by default, as before
    there was a choice, and without addresses and sizes otherwise."""
    rest = {name: value for name, value in values.items() if name not in ("engine", "engine_kwargs")}
    engine = values["engine"]
    settings = engine_settings(engine, values["engine_kwargs"]).hashed()
    if engine == "transformers" and not settings:
        return rest
    return {**rest, "engine": engine, "engine_kwargs": settings}
