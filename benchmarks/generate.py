"""Completions a second of the engines, side by side, and what Ray adds with two actors.

    python -m benchmarks.generate MODEL [--pairs 6] [--vllm PYTHON]

MODEL is a directory with a language model, such as SmolLM2-135M (docs/real_model.md). Prompts have 8 to 64 random ids,
and completions run to their last token, so that all engines do the same work. Every measurement is a process of its
own on one thread for each core that it has, which loads the model, samples a little, and then samples all of them with
raw log-probs. The arms take turns; ratios are medians of pairs with a 95% interval.

- `transformers`: batched `generate`, and the pass that takes the log-probs.
- `continuous`: the same with continuous batching (left out of the default, since it is made for GPUs).
- `ray_1`, `ray_2`: one and two actors of Ray around it, each on an equal share of the cores.
- `halves`: what `ray_2` does in two plain processes, each with half of the prompts: what Ray adds is seen beside it.
- `vllm`: vLLM in process, by the Python of the environment that has it; `server`: `vllm serve`, started for each round.
"""

import argparse
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.pairs import median_with_interval

_RAY: dict[str, Any] = {"engine": "transformers"}
ENGINES: dict[str, tuple[str, dict[str, Any]]] = {
    "transformers": ("transformers", {"batching": "static"}),
    "continuous": ("transformers", {"batching": "continuous"}),
    "ray_1": ("ray", {**_RAY, "workers": 1}),
    "ray_2": ("ray", {**_RAY, "workers": 2}),
    "halves": ("transformers", {"batching": "static"}),
    "vllm": ("vllm", {"enforce_eager": True, "gpu_memory_utilization": 0.4}),
    "server": ("server", {}),
}


def prompts(count: int, vocabulary: int) -> list[list[int]]:
    """Random ids; lengths are uniform."""
    draw = random.Random(0)
    return [[draw.randrange(vocabulary) for _ in range(draw.randint(8, 64))] for _ in range(count)]


def measure(options: argparse.Namespace) -> None:
    """One engine, in this process: prints seconds as JSON. Says when it is ready, and waits for a line."""
    from pear.data.rendering import load_tokenizer
    from pear.engines import Resources, Sampling, make_engine

    name, kwargs = ENGINES[options.arm]
    if name == "ray":
        # A part for each actor, all of one size.
        kwargs = {**kwargs, "prompts_per_part": -(-options.count // kwargs["workers"])}
    if options.endpoint:
        kwargs = {"endpoints": [options.endpoint], "served_model": options.model}
    sampling = Sampling(temperature=1.0, max_tokens=options.tokens)
    # An id that is hardly ever drawn, so that next to no completion ends before its last token.
    stops = [options.vocabulary - 1]
    given = prompts(options.count, options.vocabulary)[options.start :: options.step]
    resources = Resources(device="cpu", dtype="float32")
    engine = make_engine(name, kwargs, options.model, load_tokenizer(options.model), resources)
    try:
        # As many as will be asked for, so that every actor has loaded its model.
        engine.generate(given[:1] * len(given), sampling.model_copy(update={"max_tokens": 2}), stop_token_ids=stops)
        print("ready", flush=True)
        sys.stdin.readline()
        start = time.perf_counter()
        groups = engine.generate(given, sampling, stop_token_ids=stops)
        seconds = time.perf_counter() - start
    finally:
        engine.close()
    tokens = sum(len(completion.token_ids) for group in groups for completion in group)
    print("\n" + json.dumps({"seconds": seconds, "tokens": tokens}), flush=True)


def run(arm: str, options: argparse.Namespace, python: str, endpoint: str | None = None) -> tuple[float, int]:
    """Tokens a second of an arm and how many there were; its processes begin together when all are ready."""
    parts = 2 if arm == "halves" else 1
    threads = options.cores // (2 if arm in ("halves", "ray_2") else 1)
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, threads)), "VLLM_CPU_KVCACHE_SPACE": "1"}
    values = [f"--{name}={getattr(options, name)}" for name in ("count", "tokens", "cores")]
    command = [python, "-m", "benchmarks.generate", options.model, f"--arm={arm}", *values, f"--step={parts}"]
    command += [f"--endpoint={endpoint}"] if endpoint else []
    processes = [
        subprocess.Popen(
            [*command, f"--start={start}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        for start in range(parts)
    ]
    for process in processes:
        assert process.stdout is not None
        if not any(line.strip() == "ready" for line in process.stdout):
            raise SystemExit(f"{arm}: ended with status {process.wait()} before it was ready.")
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    seconds, tokens = 0.0, 0
    for process in processes:
        assert process.stdout is not None
        # vLLM's shutdown writes to the same output.
        printed = [line for line in process.stdout if line.startswith('{"seconds"')]
        if not printed:
            raise SystemExit(f"{arm}: ended with status {process.wait()} and without a result.")
        result = json.loads(printed[-1])
        process.wait()
        seconds, tokens = max(seconds, result["seconds"]), tokens + result["tokens"]
    return tokens / seconds, tokens


@contextmanager
def served(python: str, model: str, log: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """The base URL of a vLLM server with a model in float32, started by the Python that has vLLM, and ended afterwards.

    Its output goes to `log`, and `environment` is added to this process's.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # What `vllm serve` runs; the command itself looks for a package of another name than the CPU's.
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--dtype", "float32"]
    command += ["--enforce-eager", "--max-model-len", "512", "--logprobs-mode", "processed_logprobs"]
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--port", str(port)], env={**os.environ, **environment}, stdout=output, stderr=output
        )
    try:
        for _ in range(600):
            assert process.poll() is None, log.read_text()[-3000:]
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(60)


def main() -> None:
    """Prints a line for each arm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--arms", nargs="+", choices=sorted(ENGINES), default=["transformers", "ray_1", "ray_2", "halves"]
    )
    parser.add_argument("--vllm", help="the Python of an environment that has vLLM; adds `vllm` and `server`")
    parser.add_argument("--arm", choices=sorted(ENGINES), help="measure this one in this process")
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--step", type=int, default=1)
    parser.add_argument("--endpoint")
    options = parser.parse_args()
    options.vocabulary = json.loads((Path(options.model) / "config.json").read_text())["vocab_size"]
    if options.arm:
        measure(options)
        return
    arms = [*options.arms, *(["vllm", "server"] if options.vllm else [])]
    threads = {"VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": str(options.cores)}
    speeds: dict[str, list[float]] = {arm: [] for arm in arms}
    tokens = 0
    for _ in range(options.pairs):
        for arm in arms:
            python = options.vllm if arm == "vllm" else sys.executable
            if arm == "server":
                with (
                    tempfile.TemporaryDirectory() as folder,
                    served(options.vllm, options.model, Path(folder, "log"), threads) as endpoint,
                ):
                    speed, tokens = run(arm, options, python, endpoint)
            else:
                speed, tokens = run(arm, options, python)
            speeds[arm].append(speed)
    print(f"{options.count} prompts, {tokens} tokens, {options.pairs} pairs")
    for arm, found in speeds.items():
        ratios = [speed / own for speed, own in zip(found, speeds[arms[0]], strict=True)]
        middle = sorted(found)[len(found) // 2]
        print(f"{arm:14} {middle:8,.0f} tokens a second, speed / {arms[0]}'s {median_with_interval(ratios, 2)}")


if __name__ == "__main__":
    main()
