"""A small OpenAI-compatible server with the transformers engine behind it, and faults that can be switched on."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pear.engines.protocol import Sampling
from pear.engines.transformers_engine import TransformersEngine

# The transformers engine is for one thread at a time, and servers of one process may share a model.
_ENGINE = threading.Lock()


@dataclass(kw_only=True)
class State:
    """What the server does wrong, and what it has seen.

    Args:
        processed: log-probs are those of the sampled distribution, as under `--logprobs-mode processed_logprobs`.
        failures: so many requests are answered with 500.
        dies_after: from this answer on, connections are closed without one.
        delay_s: how long each answer takes.
        refusal: the sentence of a 400.
        spoil: changes a choice before it is sent.
    """

    engine: TransformersEngine
    name: str
    processed: bool = True
    context: int = 256
    failures: int = 0
    dies_after: int | None = None
    delay_s: float = 0.0
    refusal: str | None = None
    spoil: Callable[[dict[str, Any]], object] | None = None
    answered: int = 0
    refused: int = 0
    seeds: list[int] = field(default_factory=list)


def completion(state: State, request: dict[str, Any]) -> dict[str, Any]:
    prompt = request["prompt"]
    if request.get("echo"):
        assert request["max_tokens"] == 0
        k = request["logprobs"]
        raw, top = state.engine.score_top([prompt[:1]], [prompt[1:]], max(k, 1))
        tops = [
            {f"token_id:{token}": float(value) for token, value in zip(ids, values, strict=True)}
            for ids, values in zip(top[0].ids[:, :k], top[0].log_probs[:, :k], strict=True)
        ]
        chosen = [{f"token_id:{token}": value} for token, value in zip(prompt[1:], raw[0], strict=True)]
        lists = {
            "tokens": [f"token_id:{token}" for token in prompt],
            "token_logprobs": [None, *raw[0]],
            "top_logprobs": [None, *({**own, **best} for own, best in zip(chosen, tops, strict=True))],
        }
        return {"index": 0, "text": "", "logprobs": lists, "finish_reason": "length", "token_ids": []}
    state.seeds.append(request["seed"])
    sampling = Sampling(
        temperature=request["temperature"],
        top_p=request["top_p"],
        top_k=max(request["top_k"], 0),
        max_tokens=request["max_tokens"],
        seed=request["seed"],
    )
    assert request["ignore_eos"]
    # The engine must have a stop token; an id that no model samples stands for none.
    stops = request["stop_token_ids"] or [state.engine.vocabulary + 1]
    ((found,),) = state.engine.generate([prompt], sampling, stop_token_ids=stops)
    ids = list(found.token_ids)
    lists = {
        "tokens": [f"token_id:{token}" for token in ids],
        "token_logprobs": list(found.processed_log_probs if state.processed else found.log_probs),
    }
    return {"index": 0, "text": "", "logprobs": lists, "finish_reason": found.finish, "token_ids": ids}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: State

    def log_message(self, *arguments: object) -> None:
        """Says nothing."""

    def answer(self, status: int, value: dict[str, Any]) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def fails(self) -> bool:
        state = self.state
        if state.dies_after is not None and state.answered >= state.dies_after:
            self.close_connection = True
            return True
        if state.failures > 0:
            state.failures -= 1
            self.answer(500, {"error": {"message": "out of order"}})
            return True
        return False

    def do_GET(self) -> None:
        if not self.fails():
            card = {"id": self.state.name, "object": "model", "max_model_len": self.state.context}
            self.answer(200, {"object": "list", "data": [card]})

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        state = self.state
        time.sleep(state.delay_s)
        with _ENGINE:
            if self.fails():
                return
            if state.refusal is not None:
                state.refused += 1
                self.answer(400, {"error": {"message": state.refusal}})
                return
            choice = completion(state, request)
            if state.spoil is not None:
                state.spoil(choice)
            state.answered += 1
        self.answer(200, {"id": "1", "object": "text_completion", "model": state.name, "choices": [choice]})


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *arguments: object) -> None:
        """A client that has been killed is no news."""


@contextmanager
def serving(state: State, port: int = 0) -> Iterator[str]:
    """Serves in a thread; gives the base URL."""
    server = Server(("127.0.0.1", port), type("Bound", (Handler,), {"state": state}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()
