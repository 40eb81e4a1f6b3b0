"""The `server` engine over HTTP: against the transformers engine, and with every fault that a server may have."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy
import pytest

from pear.engines.protocol import Completion, Sampling
from pear.engines.server_engine import ServerEngine
from pear.engines.settings import ServerSettings
from pear.engines.transformers_engine import TransformersEngine
from pear.errors import UserError
from tests.engines.conftest import STOP, requests
from tests.engines.local_server import State, serving

ROOT = Path(__file__).resolve().parents[2]
STOPS = [STOP, 7]
GREEDY = Sampling(temperature=0, max_tokens=12)
TEMPERED = Sampling(temperature=0.7, top_k=12, top_p=0.9, max_tokens=12, samples=2)
Open = Callable[..., tuple[ServerEngine, list[State]]]


@pytest.fixture
def local(qwen3: Any) -> TransformersEngine:
    return TransformersEngine(qwen3)


@pytest.fixture
def opened(qwen3: Any, tmp_path: Path) -> Iterator[Open]:
    """Opens an engine on so many servers; their states are given back, to be spoiled."""
    qwen3.save_pretrained(tmp_path / "the_model")
    with ExitStack() as stack:

        def start(count: int = 1, served: str = "/elsewhere/the_model", **settings: Any) -> Any:
            states = [State(engine=TransformersEngine(qwen3), name=served) for _ in range(count)]
            urls = [stack.enter_context(serving(state)) for state in states]
            values = {"retries": 1, "concurrency": 4, "timeout_s": 20.0, **settings}
            engine = ServerEngine(str(tmp_path / "the_model"), ServerSettings(endpoints=urls, **values))
            return stack.enter_context(closing(engine)), states

        yield start


def flat(groups: list[list[Completion]]) -> list[Completion]:
    return [completion for group in groups for completion in group]


def test_greedy_completions_are_the_transformers_engines(opened: Open, local: TransformersEngine) -> None:
    engine, _ = opened()
    prompts, _ = requests(12)
    wanted = flat(local.generate(prompts, GREEDY, stop_token_ids=STOPS))
    found = flat(engine.generate(prompts, GREEDY, stop_token_ids=STOPS))
    assert {completion.finish for completion in found} == {"stop", "length"}
    assert [(c.token_ids, c.finish) for c in found] == [(c.token_ids, c.finish) for c in wanted]
    for own, other in zip(found, wanted, strict=True):
        assert own.log_probs == pytest.approx(other.log_probs, abs=1e-4)
        assert own.processed_log_probs == other.processed_log_probs == (0.0,) * len(own.token_ids)


@pytest.mark.parametrize("sampling", [Sampling(max_tokens=12, samples=2), TEMPERED], ids=["raw", "tempered"])
def test_log_probs_are_raw_and_processed(opened: Open, local: TransformersEngine, sampling: Sampling) -> None:
    engine, (state,) = opened()
    prompts, _ = requests(6)
    found = flat(engine.generate(prompts, sampling, stop_token_ids=STOPS))
    repeated = [prompt for prompt in prompts for _ in range(2)]
    raw, processed = local._score_sampled(repeated, [c.token_ids for c in found], sampling)
    for completion, own, sampled in zip(found, raw, processed, strict=True):
        assert completion.log_probs == pytest.approx(own, abs=1e-4)
        assert completion.processed_log_probs == pytest.approx(sampled, abs=1e-4)
    assert len(set(state.seeds)) == len(state.seeds) >= 12, "every completion has a seed of its own"
    assert flat(engine.generate(prompts, sampling, stop_token_ids=STOPS)) == found
    without = engine.generate(prompts, sampling, stop_token_ids=STOPS, log_probs=False)
    assert [c.token_ids for c in flat(without)] == [c.token_ids for c in found]
    assert all(c.log_probs == c.processed_log_probs == () for c in flat(without))


def test_scores_are_the_transformers_engines(opened: Open, local: TransformersEngine) -> None:
    engine, _ = opened(2)
    prompts, completions = requests(12)
    wanted, wanted_top = local.score_top(prompts, completions, 5)
    assert engine.vocabulary == local.vocabulary
    for found in (engine.score(prompts, completions), engine.score_top(prompts, completions, 5)[0]):
        assert all(own == pytest.approx(other, abs=1e-4) for own, other in zip(found, wanted, strict=True))
    for own, other in zip(engine.score_top(prompts, completions, 5)[1], wanted_top, strict=True):
        assert numpy.array_equal(own.ids, other.ids)
        assert own.log_probs == pytest.approx(other.log_probs, abs=1e-4)
    assert engine.score([], []) == []
    assert engine.generate([], GREEDY, stop_token_ids=STOPS) == []


def test_results_are_in_the_order_of_the_request_whoever_answers(opened: Open) -> None:
    one, _ = opened(1)
    two, (fast, slow) = opened(2)
    slow.delay_s = 0.15
    prompts, _ = requests(20)
    sampling = Sampling(max_tokens=6)
    assert two.generate(prompts, sampling, stop_token_ids=STOPS) == one.generate(
        prompts, sampling, stop_token_ids=STOPS
    )
    assert fast.answered > slow.answered > 0


def test_failures_are_tried_again(opened: Open, capsys: pytest.CaptureFixture[str]) -> None:
    engine, (state,) = opened(retries=2)
    prompts, _ = requests(5)
    wanted = engine.generate(prompts, GREEDY, stop_token_ids=STOPS)
    state.failures = 2
    assert engine.generate(prompts, GREEDY, stop_token_ids=STOPS) == wanted
    assert capsys.readouterr().err == ""


def test_a_dead_endpoints_requests_go_to_the_others_and_it_may_come_back(
    opened: Open, capsys: pytest.CaptureFixture[str]
) -> None:
    engine, (first, second) = opened(2)
    prompts, _ = requests(30)
    wanted = engine.generate(prompts, GREEDY, stop_token_ids=STOPS)
    first.dies_after = first.answered + 5
    assert engine.generate(prompts, GREEDY, stop_token_ids=STOPS) == wanted
    assert "does not answer" in capsys.readouterr().err
    assert first.answered == first.dies_after
    first.dies_after, before = None, first.answered
    assert engine.generate(prompts, GREEDY, stop_token_ids=STOPS) == wanted
    assert first.answered > before
    first.dies_after, second.dies_after = first.answered + 3, second.answered + 3
    with pytest.raises(UserError, match=r"^No endpoint answers: http://127.*; http://127.*run the same command again"):
        engine.generate(prompts, GREEDY, stop_token_ids=STOPS)


def test_an_endpoint_that_hangs_is_dead(opened: Open) -> None:
    engine, (hanging, _) = opened(2, timeout_s=0.5, retries=0)
    prompts, _ = requests(4)
    wanted = engine.generate(prompts, Sampling(max_tokens=2), stop_token_ids=STOPS)
    hanging.delay_s = 3.0
    assert engine.generate(prompts, Sampling(max_tokens=2), stop_token_ids=STOPS) == wanted
    alone, (state,) = opened(1, timeout_s=0.5, retries=0)
    state.delay_s = 3.0
    with pytest.raises(UserError, match=r"No endpoint answers: .*no answer within 0\.5 s"):
        alone.generate(prompts, Sampling(max_tokens=2), stop_token_ids=STOPS)


def test_nobody_there(qwen3: Any, tmp_path: Path) -> None:
    qwen3.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"No endpoint answers: http://127.0.0.1:9/v1 \(.+\)\. Start the servers"):
        ServerEngine(str(tmp_path), ServerSettings(endpoints=["http://127.0.0.1:9/v1"], retries=0))


def test_the_served_model_is_the_configurations(opened: Open) -> None:
    assert opened(served="org/the_model")[0].vocabulary == 48
    assert opened(served="short", served_model="short")[0].vocabulary == 48
    with pytest.raises(UserError, match=r"serves other, not the_model\. Serve that, or .*served_model"):
        opened(served="other")
    with pytest.raises(UserError, match="serves other, not another"):
        opened(served="other", served_model="another")


def test_lengths_are_those_of_the_served_context(opened: Open) -> None:
    engine, _ = opened()
    engine.check_lengths(255, what="here")
    with pytest.raises(UserError, match=r"here: 256 tokens, but the_model is served with a context of 256"):
        engine.check_lengths(256, what="here")


def test_log_probs_of_the_raw_distribution_are_refused_where_they_are_not_sampled(opened: Open) -> None:
    engine, (state,) = opened()
    state.processed = False
    prompts, _ = requests(3)
    with pytest.raises(UserError, match="Start the server with --logprobs-mode processed_logprobs"):
        engine.generate(prompts, TEMPERED, stop_token_ids=STOPS)
    engine.generate(prompts, Sampling(max_tokens=4), stop_token_ids=STOPS)
    engine.generate(prompts, GREEDY, stop_token_ids=STOPS)
    engine.generate(prompts, TEMPERED, stop_token_ids=STOPS, log_probs=False)


def set_tokens(choice: dict[str, Any]) -> None:
    choice["token_ids"] = None
    choice["logprobs"]["tokens"] = ["word"] * len(choice["logprobs"]["tokens"])


BAD: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (set_tokens, "returns tokens as text, which cannot be mapped back to ids"),
    (lambda choice: choice.update(logprobs=None), "returns no log-probs"),
    (lambda choice: choice["logprobs"]["token_logprobs"].pop(), "gave 11 log-probs for 12 tokens"),
    (lambda choice: choice["logprobs"]["token_logprobs"].__setitem__(3, float("nan")), "gave nan as the log-prob of"),
    (lambda choice: choice["logprobs"]["token_logprobs"].__setitem__(0, 2.5), r"gave 2\.5 as the log-prob of token 1"),
    (lambda choice: choice["logprobs"]["token_logprobs"].__setitem__(0, None), "gave None as the log-prob of token 1"),
    (lambda choice: choice["token_ids"].__setitem__(0, 48), "sampled the token id 48, and the model has 48"),
    (lambda choice: choice["token_ids"].pop(), "a completion of 11 tokens ends neither with the first"),
    (lambda choice: choice["token_ids"].__setitem__(2, STOP), "a completion of 12 tokens ends neither"),
    (lambda choice: choice["token_ids"].clear(), r"gave \[\] as a completion's token ids"),
]


@pytest.mark.parametrize(("spoil", "sentence"), BAD)
def test_a_bad_answer_is_a_sentence(opened: Open, spoil: Callable[[dict[str, Any]], object], sentence: str) -> None:
    engine, (state,) = opened()
    state.spoil = spoil
    with pytest.raises(UserError, match=rf"^http://127\.0\.0\.1:\d+/v1: .*{sentence}"):
        # No token stops this one, so there are twelve.
        engine.generate([[5, 9]], Sampling(max_tokens=12), stop_token_ids=[STOP])


def test_ids_written_as_tokens_will_do(opened: Open) -> None:
    engine, (state,) = opened()
    prompts, _ = requests(4)
    wanted = engine.generate(prompts, GREEDY, stop_token_ids=STOPS)
    state.spoil = lambda choice: choice.pop("token_ids")
    assert engine.generate(prompts, GREEDY, stop_token_ids=STOPS) == wanted


def test_scores_of_other_ids_are_refused(opened: Open) -> None:
    engine, (state,) = opened()
    state.spoil = lambda choice: choice["logprobs"]["tokens"].__setitem__(1, "token_id:3")
    with pytest.raises(UserError, match="returned the log-probs of other token ids"):
        engine.score([[5]], [[9, 8]])
    state.spoil = lambda choice: choice["logprobs"]["top_logprobs"][1].clear()
    with pytest.raises(UserError, match="Start it with --max-logprobs 5"):
        engine.score_top([[5]], [[int(engine.vocabulary) - 1]], 5)


def test_a_refusal_is_not_tried_again(opened: Open) -> None:
    engine, (state,) = opened(retries=5)
    state.refusal = "logprobs are switched off"
    with pytest.raises(UserError, match=r"refused a request \(logprobs are switched off\)\."):
        engine.score([[5]], [[9, 8]])
    assert state.refused == 1


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_collect_is_killed_and_goes_on(tmp_path: Path) -> None:
    """Two servers of which one dies, and kill -9 of the driver: the rows of an unbroken run, in its order."""
    from pear.data.buffer import read_shards
    from pear.models import resolve_model

    model = resolve_model("pear:affine_chain/base_1")

    def collect(output: str, urls: list[str]) -> "subprocess.Popen[bytes]":
        settings = json.dumps({"endpoints": urls, "retries": 1})
        command = [
            sys.executable, "-m", "pear", "collect", "--model", "pear:affine_chain/base_1", "--problems",
            "task=tiny/affine_chain,level=n8,split=sft,size=24", "--sampling.max-tokens", "24", "--sampling.samples",
            "2", "--shard-problems", "4", "--engine", "server", "--engine-kwargs", settings, "--output-dir", output,
        ]  # fmt: skip
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE)

    def rows(output: str) -> list[dict[str, Any]]:
        return [row for table in read_shards(tmp_path / output) for row in table.to_pylist()]

    with ExitStack() as stack:
        engine = TransformersEngine(model, device="cpu")
        states = [State(engine=engine, name=model, context=512) for _ in range(2)]
        urls = [stack.enter_context(serving(state)) for state in states]
        whole = collect("whole", urls)
        assert whole.wait() == 0, whole.stderr and whole.stderr.read()
        for state in states:
            state.delay_s, state.answered = 0.05, 0
        killed = collect("killed", urls)
        while sum(state.answered for state in states) < 20:
            assert killed.poll() is None
            time.sleep(0.01)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert not (tmp_path / "killed").exists()
        states[1].dies_after = states[1].answered + 6
        again = collect("killed", urls)
        _, text = again.communicate()
        assert again.returncode == 0, text
        assert b"the others take its requests" in text
        assert states[1].answered == states[1].dies_after
    assert len(rows("whole")) == 48
    assert rows("killed") == rows("whole")
    manifest = json.loads((tmp_path / "killed" / "buffer.json").read_text())
    assert manifest["engine"] == "server"
