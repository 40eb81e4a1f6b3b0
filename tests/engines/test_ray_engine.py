"""Ray: the same rows whoever makes them, a killed actor and a killed driver included."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from pear.data.rendering import load_tokenizer, stop_token_ids
from pear.engines import Resources, Sampling, make_engine
from pear.engines.ray_engine import RayEngine
from pear.engines.transformers_engine import TransformersEngine
from pear.errors import UserError
from pear.models import resolve_model
from tests.engines.local_server import State, serving

MODEL = resolve_model("pear:affine_chain/base_1")
TOKENIZER = load_tokenizer(MODEL)
STOPS = stop_token_ids(TOKENIZER, MODEL)
PROMPTS = [[place % 20 + 1, 3, 4] for place in range(13)]
COMPLETIONS = [[place % 7 + 2] * (place % 5 + 1) for place in range(13)]
DRAWN = Sampling(temperature=0.7, top_k=9, max_tokens=12, samples=2, seed=3)


def ray_engine(workers: int) -> RayEngine:
    kwargs = {"workers": workers, "cpus_per_worker": 0.5, "prompts_per_part": 4}
    engine = make_engine("ray", kwargs, MODEL, TOKENIZER, Resources())
    assert isinstance(engine, RayEngine)
    return engine


@pytest.fixture(scope="module")
def two() -> Iterator[RayEngine]:
    engine = ray_engine(2)
    yield engine
    engine.close()


def test_what_is_not_drawn_equals_the_engine_inside(two: RayEngine) -> None:
    inside = TransformersEngine(MODEL, TOKENIZER)
    greedy = Sampling(temperature=0, max_tokens=12)
    found = two.generate(PROMPTS, greedy, stop_token_ids=STOPS)
    expected = inside.generate(PROMPTS, greedy, stop_token_ids=STOPS)
    assert [[one.token_ids for one in group] for group in found] == [
        [one.token_ids for one in group] for group in expected
    ]
    assert two.vocabulary == inside.vocabulary
    for row, other in zip(two.score(PROMPTS, COMPLETIONS), inside.score(PROMPTS, COMPLETIONS), strict=True):
        assert row == pytest.approx(other, abs=1e-5)
    rows, top = two.score_top(PROMPTS, COMPLETIONS, 3)
    assert rows == [pytest.approx(row, abs=1e-5) for row in inside.score(PROMPTS, COMPLETIONS)]
    assert [tokens.ids.shape for tokens in top] == [(len(completion), 3) for completion in COMPLETIONS]


def test_mistakes_come_back_as_they_were_raised(two: RayEngine) -> None:
    with pytest.raises(UserError, match=r"^a prompt: 100000 tokens, but .* has a context of 512\.$"):
        two.check_lengths(100_000, what="a prompt")


@pytest.mark.slow
def test_a_killed_actor_changes_no_row(two: RayEngine) -> None:
    many = PROMPTS * 40
    expected = two.generate(many, DRAWN, stop_token_ids=STOPS)
    killed: list[int] = []

    def kill_one() -> None:
        time.sleep(0.3)
        workers = [process for process in psutil.process_iter(["cmdline"]) if is_worker(process)]
        killed.append(workers[0].pid)
        os.kill(workers[0].pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    found = two.generate(many, DRAWN, stop_token_ids=STOPS)
    assert killer.is_alive() is False, "the work was over before the kill"
    assert killed
    assert found == expected
    assert two.generate(PROMPTS, DRAWN, stop_token_ids=STOPS)


def is_worker(process: Any) -> bool:
    return any("ray::_Worker" in word for word in process.info["cmdline"] or ())


def test_the_number_of_actors_decides_nothing(two: RayEngine) -> None:
    expected = two.generate(PROMPTS, DRAWN, stop_token_ids=STOPS)
    one = ray_engine(1)
    try:
        assert one.generate(PROMPTS, DRAWN, stop_token_ids=STOPS) == expected
    finally:
        one.close()
    assert two.generate(PROMPTS[:4], DRAWN, stop_token_ids=STOPS) == expected[:4]


def test_servers_can_be_inside() -> None:
    """Two actors, each of which asks two servers."""
    inside = TransformersEngine(MODEL, TOKENIZER)
    with ExitStack() as stack:
        states = [State(engine=inside, name=MODEL, context=512) for _ in range(2)]
        endpoints = [stack.enter_context(serving(state)) for state in states]
        kwargs = {
            **{"workers": 2, "cpus_per_worker": 0.5, "prompts_per_part": 4},
            **{"engine": "server", "engine_kwargs": {"endpoints": endpoints}},
        }
        engine = stack.enter_context(closing(make_engine("ray", kwargs, MODEL, TOKENIZER, Resources())))
        greedy = Sampling(temperature=0, max_tokens=12)
        found = engine.generate(PROMPTS, greedy, stop_token_ids=STOPS)
        scored = engine.score(PROMPTS, COMPLETIONS)
    expected = inside.generate(PROMPTS, greedy, stop_token_ids=STOPS)
    assert [group[0].token_ids for group in found] == [group[0].token_ids for group in expected]
    assert scored == [pytest.approx(row, abs=1e-5) for row in inside.score(PROMPTS, COMPLETIONS)]
    assert all(state.answered for state in states)


SHOULD_NOT_START = """
import sys
from pear.engines import Resources, make_engine
from pear.errors import UserError
for model, kwargs in (("/nowhere/model", {}), (sys.argv[1], {"workers": 1000})):
    try:
        make_engine("ray", kwargs, model, None, Resources())
    except UserError as error:
        print(error)
"""


@pytest.mark.slow
def test_what_cannot_start_is_a_sentence() -> None:
    command = [sys.executable, "-c", SHOULD_NOT_START, MODEL]
    sentences = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.splitlines()
    assert sentences[0].startswith("/nowhere/model: no tokenizer can be loaded from it")
    assert sentences[1].startswith("engine_kwargs: 1000 worker(s) reserve 1000 CPUs, and this machine has")


@pytest.mark.slow
def test_a_killed_driver_goes_on_and_the_buffer_is_the_same(tmp_path: Path) -> None:
    words = [
        *("--model", "pear:affine_chain/behavior", "--sampling.max-tokens", "64", "--shard-problems", "10"),
        *("--problems", "task=tiny/affine_chain,level=n8,split=sft,size=60"),
        *("--engine", "ray", "--engine-kwargs", "{workers: 2, cpus_per_worker: 0.5, prompts_per_part: 4}"),
    ]

    def command(name: str) -> list[str]:
        return [sys.executable, "-m", "pear", "collect", *words, "--output-dir", str(tmp_path / name)]

    subprocess.run(command("whole"), check=True, capture_output=True, timeout=300)
    driver = subprocess.Popen(command("killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not list((tmp_path / "killed.partial").glob("*.parquet")):
        assert driver.poll() is None, "it was over before the kill"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    driver.kill()
    driver.wait()
    before = {path.name for path in (tmp_path / "killed.partial").glob("*.parquet")}
    assert 0 < len(before) < 6
    subprocess.run(command("killed"), check=True, capture_output=True, timeout=300)
    shards = sorted(path.name for path in (tmp_path / "whole").glob("*.parquet"))
    assert len(shards) == 6
    for name in shards:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
