"""Engines: what samples completions and scores them. Add one by a file and a line in `ENGINES` and `SETTINGS`."""

import importlib
from typing import Any, Protocol

from pear.engines.protocol import (
    BATCH_TOKENS,
    MEMORY_GIB,
    Completion,
    Engine,
    Resources,
    Sampling,
    derive_seed,
)
from pear.engines.settings import EngineName, engine_settings
from pear.models import Dtype

# Name to the module whose `open_engine` makes it.
ENGINES: dict[str, str] = {
    "transformers": "pear.engines.transformers_engine",
    "vllm": "pear.engines.vllm_engine",
    "server": "pear.engines.server_engine",
    "ray": "pear.engines.ray_engine",
}


class EngineChoice(Protocol):
    """The fields of a configuration that say which engine runs its model, and where."""

    engine: EngineName
    engine_kwargs: dict[str, Any]
    device: str
    dtype: Dtype


def open_engine(choice: EngineChoice, model: str, tokenizer: Any) -> Engine:
    """The engine that a configuration names, ready.

    Args:
        choice: a stage's configuration; `batch_tokens` and `memory_gib` are read where it has them.
        model: a directory or hub id.
        tokenizer: the model's.

    Raises:
        UserError: a package that is missing (says how to install it), a model that cannot be loaded, or settings that
            do not fit.
    """
    resources = Resources(
        device=choice.device,
        dtype=choice.dtype,
        batch_tokens=getattr(choice, "batch_tokens", BATCH_TOKENS),
        memory_gib=getattr(choice, "memory_gib", MEMORY_GIB),
    )
    return make_engine(choice.engine, choice.engine_kwargs, model, tokenizer, resources)


def make_engine(name: str, kwargs: dict[str, Any], model: str, tokenizer: Any, resources: Resources) -> Engine:
    """The engine of a name in `ENGINES`. Raises as `open_engine` does."""
    settings = engine_settings(name, kwargs)
    engine: Engine = importlib.import_module(ENGINES[name]).open_engine(model, tokenizer, resources, settings)
    return engine


__all__ = [
    "ENGINES",
    "Completion",
    "Engine",
    "EngineChoice",
    "Resources",
    "Sampling",
    "derive_seed",
    "make_engine",
    "open_engine",
]
