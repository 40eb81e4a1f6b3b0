"""Tokens a second and peak memory of scoring given completions, against a padded batch with full logits and vLLM.

    python -m benchmarks.score MODEL [--pairs 6] [--vllm PYTHON]

MODEL is a directory with a language model, such as SmolLM2-135M (docs/real_model.md). Trajectories have 16 to 2,048
tokens, most of them short, as real ones do; a fifth of each is its prompt. Every measurement is a process of its own
that loads the model, scores a little, and then scores all of them: its seconds, and how far its memory rose above what
it held with the model loaded (Linux; looked at every millisecond, without files in memory such as the weights, which
the system drops and reads again as it likes; vLLM computes in yet another process). The arms take turns; ratios are
medians of pairs with a 95% interval.

- `pear`: what `pear score` does with the engine `transformers`, sorted by length within a memory budget.
- `padded`: batches of 8 in the order given, padded to the longest, logits of the whole vocabulary in float32,
  `log_softmax`, `gather`.
- `vllm`: pear's engine over vLLM's `prompt_logprobs`, by the Python of the environment that has it.
"""

import argparse
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.pairs import median_with_interval

Trajectories = tuple[list[list[int]], list[list[int]]]
_PADDED_ROWS = 8


def trajectories(count: int, longest: int, vocabulary: int) -> Trajectories:
    """Prompts and completions of random ids; lengths are log-uniform, and one is the longest."""
    draw = random.Random(0)
    lengths = [longest, *(round(16 * (longest / 16) ** draw.random()) for _ in range(count - 1))]
    draw.shuffle(lengths)
    ids = [[draw.randrange(vocabulary) for _ in range(length)] for length in lengths]
    return [row[: len(row) // 5] for row in ids], [row[len(row) // 5 :] for row in ids]


def pear(model: str, memory_gib: float) -> Callable[[Trajectories], list[list[float]]]:
    """The engine `transformers`."""
    return _engine("transformers", {}, model, memory_gib)


def padded(model: str, memory_gib: float) -> Callable[[Trajectories], list[list[float]]]:
    """Full logits of padded batches."""
    import torch
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()

    def score(given: Trajectories) -> list[list[float]]:
        found: list[list[float]] = []
        for start in range(0, len(given[0]), _PADDED_ROWS):
            pairs = list(zip(*(rows[start : start + _PADDED_ROWS] for rows in given), strict=True))
            rows = [torch.tensor(prompt + completion) for prompt, completion in pairs]
            ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
            mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
            with torch.inference_mode():
                log_probs = network(input_ids=ids, attention_mask=mask).logits.float().log_softmax(-1)
                values = log_probs[:, :-1].gather(-1, ids[:, 1:, None]).squeeze(-1)
            for row, (prompt, completion) in zip(values, pairs, strict=True):
                found.append(row[len(prompt) - 1 : len(prompt) + len(completion) - 1].tolist())
        return found

    return score


def vllm(model: str, memory_gib: float) -> Callable[[Trajectories], list[list[float]]]:
    """vLLM's `prompt_logprobs`."""
    return _engine("vllm", {"enforce_eager": True, "gpu_memory_utilization": 0.4}, model, memory_gib)


def _engine(
    name: str, kwargs: dict[str, Any], model: str, memory_gib: float
) -> Callable[[Trajectories], list[list[float]]]:
    from pear.data.rendering import load_tokenizer
    from pear.engines import Resources, make_engine

    resources = Resources(device="cpu", dtype="float32", memory_gib=memory_gib)
    engine = make_engine(name, kwargs, model, load_tokenizer(model), resources)
    return lambda given: engine.score(*given)


ARMS = {"pear": pear, "padded": padded, "vllm": vllm}


def measure(options: argparse.Namespace) -> None:
    """One arm, in this process: prints seconds, megabytes and the sum of all log-probs as JSON."""
    score = ARMS[options.arm](options.model, options.memory_gib)
    given = trajectories(options.count, options.longest, options.vocabulary)
    seen = [_anonymous_kib()]
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.001):
            seen.append(_anonymous_kib())

    watcher = threading.Thread(target=watch)
    watcher.start()
    score(trajectories(2, 64, options.vocabulary))
    start = time.perf_counter()
    found = score(given)
    seconds = time.perf_counter() - start
    ended.set()
    watcher.join()
    total = sum(sum(row) for row in found)
    print("\n" + json.dumps({"seconds": seconds, "mib": (max(seen) - seen[0]) / 1024, "sum": total}), flush=True)


def _anonymous_kib() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


def run(arm: str, options: argparse.Namespace, python: str = sys.executable, **changes: float) -> dict[str, float]:
    """One arm in a process of its own."""
    values = {"count": options.count, "longest": options.longest, "memory_gib": options.memory_gib, **changes}
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in values.items()]
    command = [python, "-m", "benchmarks.score", options.model, f"--arm={arm}", *arguments]
    # vLLM's shutdown writes to the same output, and may abort the process after the measurement.
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    printed = [line for line in ended.stdout.splitlines() if line.startswith('{"seconds"')]
    if not printed:
        raise SystemExit(f"{arm}: ended with status {ended.returncode} and without a result.")
    result: dict[str, float] = json.loads(printed[-1])
    return result


def main() -> None:
    """Prints a line for each arm, the ratios, and how the memory of `pear` follows budget and length."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--longest", type=int, default=2048)
    parser.add_argument("--memory-gib", type=float, default=1.0)
    parser.add_argument("--vllm", help="the Python of an environment that has vLLM")
    parser.add_argument("--arm", choices=sorted(ARMS), help="measure this one in this process")
    options = parser.parse_args()
    options.vocabulary = json.loads((Path(options.model) / "config.json").read_text())["vocab_size"]
    if options.arm:
        measure(options)
        return
    tokens = sum(map(len, trajectories(options.count, options.longest, options.vocabulary)[1]))
    pythons = {"pear": sys.executable, "padded": sys.executable, **({"vllm": options.vllm} if options.vllm else {})}
    results: dict[str, list[dict[str, float]]] = {arm: [] for arm in pythons}
    for _ in range(options.pairs):
        for arm, python in pythons.items():
            results[arm].append(run(arm, options, python))
    print(f"{options.count} trajectories of up to {options.longest} tokens, {tokens} scored, {options.pairs} pairs")
    for arm, measured in results.items():
        seconds = [result["seconds"] for result in measured]
        ratios = [other / own["seconds"] for other, own in zip(seconds, results["pear"], strict=True)]
        print(
            f"{arm:8} {tokens / sorted(seconds)[len(seconds) // 2]:8,.0f} tokens a second, "
            f"{max(result['mib'] for result in measured):8,.0f} MiB more, time / pear's "
            f"{median_with_interval(ratios, 2)}, sum of log-probs {measured[0]['sum']:.2f}"
        )
    for budget in (0.25, 0.5, 1.0):
        peaks = ", ".join(
            f"{run('pear', options, count=8, longest=longest, memory_gib=budget)['mib']:6,.0f} MiB at {longest}"
            for longest in (256, 1024, 2048)
        )
        print(f"pear within {budget:.2f} GiB: {peaks} tokens")


if __name__ == "__main__":
    main()
