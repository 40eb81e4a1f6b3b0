"""Which engine a configuration names: its settings, what of them is hashed, and what is refused."""

from pathlib import Path
from typing import Any

import pytest

from pear.engines import ENGINES
from pear.engines.settings import SETTINGS, engine_settings
from pear.errors import UserError
from pear.stages.collect import CollectConfig
from pear.stages.score import ScoreConfig

PROBLEMS = [{"task": "tiny/affine_chain", "level": "n8", "split": "sft", "size": 4}]


def config(**fields: Any) -> CollectConfig:
    values = {"model": "pear:affine_chain/behavior", "problems": PROBLEMS, "output_dir": Path("out"), **fields}
    return CollectConfig.parse(values, source="collect")


def test_every_engine_has_settings_and_a_module() -> None:
    assert ENGINES.keys() == SETTINGS.keys()


def test_the_default_engine_leaves_fingerprints_as_they_were() -> None:
    assert not {"engine", "engine_kwargs"} & config().hashed().keys()


def test_addresses_and_sizes_are_not_hashed_but_what_decides_the_draws_is() -> None:
    one = config(engine="server", engine_kwargs={"endpoints": ["http://a/v1"]})
    other = config(engine="server", engine_kwargs={"endpoints": ["http://b/v1", "http://c/v1"], "concurrency": 4})
    assert one.hashed() == other.hashed() != config().hashed()
    continuous = config(engine_kwargs={"batching": "continuous"}).hashed()
    assert continuous["engine_kwargs"] == {"batching": "continuous"}
    assert config(engine_kwargs={"batching": "auto"}).hashed() == config().hashed()
    ray = config(engine="ray", engine_kwargs={"workers": 2}).hashed()
    assert ray["engine_kwargs"]["engine_kwargs"] == {}
    assert ray == config(engine="ray", engine_kwargs={"workers": 8, "gpus_per_worker": 1}).hashed()
    assert ray != config(engine="ray", engine_kwargs={"workers": 2, "prompts_per_part": 8}).hashed()
    assert ray != config(engine="ray", engine_kwargs={"engine": "vllm"}).hashed()


@pytest.mark.parametrize(
    ("engine", "kwargs", "sentence"),
    [
        ("server", {}, "engine_kwargs: endpoints: this key is required."),
        ("server", {"endpoint": "http://a/v1"}, "Did you mean 'endpoints'?"),
        ("vllm", {"tensor_parallel_size": 0}, "engine_kwargs: tensor_parallel_size"),
        ("transformers", {"workers": 2}, "engine_kwargs: workers"),
        ("ray", {"engine": "server", "engine_kwargs": {}}, "endpoints: this key is required."),
        ("ray", {"engine": "ray"}, "engine_kwargs: engine"),
    ],
)
def test_settings_that_do_not_fit_are_one_sentence(engine: str, kwargs: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as error:
        config(engine=engine, engine_kwargs=kwargs)
    assert sentence in str(error.value)


def test_unknown_engines_are_refused() -> None:
    with pytest.raises(UserError, match="engine"):
        ScoreConfig.parse({"model": "m", "inputs": ["x"], "engine": "vlm", "output_dir": "out"}, source="score")
    with pytest.raises(UserError, match="Did you mean 'vllm'"):
        engine_settings("vlm", {})
