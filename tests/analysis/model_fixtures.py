"""Two tiny models of one vocabulary, a buffer of random trajectories, and their logits token by token."""

import math
import random
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from pear.analysis.request import Request
from pear.data.rendering import load_tokenizer, render_prompt
from pear.runs import SCRATCH
from pear.training.tiny_models import build_model, build_tokenizer
from tests.data.conftest import row, write_buffer

WORDS = [f"w{number}" for number in range(20)]
END = 1


def save_model(path: Path, seed: int, *, words: list[str] = WORDS, spread: float = 3.0) -> Path:
    """A random Qwen3; `spread` makes its distributions far from uniform."""
    tokenizer = build_tokenizer(words)
    torch.manual_seed(seed)
    model = build_model(tokenizer, hidden_size=16, num_layers=2, num_heads=2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter *= spread
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def trajectories(count: int, *, seed: int = 0, longest: int = 12, wrong: int = 0) -> list[dict[str, Any]]:
    """Rows of random tokens; the last `wrong` of them are not correct."""
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        completion = [*(draw.randrange(5, 25) for _ in range(draw.randrange(longest))), END]
        rows.append(
            row(
                problem_id=f"p{number}",
                task=f"task {number % 2}",
                prompt=[{"role": "user", "content": " ".join(draw.choices(WORDS, k=draw.randrange(1, 6)))}],
                completion_ids=completion,
                behavior_log_probs=[-draw.expovariate(0.5) for _ in completion],
                correct=number < count - wrong,
            )
        )
    return rows


def save_buffer(path: Path, rows: list[dict[str, Any]], tokenizer: PreTrainedTokenizerFast | None = None) -> Path:
    return write_buffer(path, tokenizer or build_tokenizer(WORDS), rows)


def tables_in(work: Path) -> list[str]:
    return sorted(path.name for path in work.iterdir() if path.name != SCRATCH)


def request_for(before: Path, after: Path, buffer: Path, work: Path, settings: Any, **fields: Any) -> Request:
    work.mkdir(exist_ok=True)
    values = {"progress": lambda done, total, unit: None, **fields}
    return Request(before=str(before), after=str(after), buffer=str(buffer), work=work, settings=settings, **values)


def naive_log_probs(model: Path, rows: list[dict[str, Any]]) -> list[list[list[float]]]:
    """For each row and response token, log pi(v) of every v: in float64, one forward pass per token, no cache."""
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64)
    tokenizer = load_tokenizer(model)
    result = []
    for one in rows:
        prompt = render_prompt(tokenizer, one["prompt"])
        completion = one["completion_ids"]
        result.append([_log_softmax(loaded, [*prompt, *completion[:place]]) for place in range(len(completion))])
    return result


def _log_softmax(model: Any, ids: list[int]) -> list[float]:
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].tolist()
    largest = max(logits)
    total = math.log(math.fsum(math.exp(value - largest) for value in logits)) + largest
    return [value - total for value in logits]
