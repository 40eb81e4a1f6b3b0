"""A hundred thousand trajectories fit into two gigabytes while they are collected, read and grouped."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import resource, sys
from pathlib import Path

import numpy

import pear.engines
from pear.data.buffer import load_buffer
from pear.data.rendering import load_tokenizer
from pear.engines.protocol import Completion
from pear.models import resolve_model
from pear.stages import collect

MODEL = "pear:affine_chain/behavior"
tokenizer = load_tokenizer(resolve_model(MODEL))
stop = tokenizer.eos_token_id
ordinary = numpy.array(sorted(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids)))
draw = numpy.random.default_rng(0)


class Scripted:
    name, vocabulary = "transformers", len(tokenizer)

    def check_lengths(self, longest, *, what):
        pass

    def generate(self, prompts, sampling, *, stop_token_ids, log_probs=True):
        ids = draw.choice(ordinary, size=(len(prompts), sampling.samples, 300))
        values = -draw.random(size=(len(prompts), sampling.samples, 301))
        return [
            [
                Completion(
                    token_ids=(*ids[row, sample].tolist(), stop),
                    log_probs=tuple(values[row, sample].tolist()),
                    processed_log_probs=tuple(values[row, sample].tolist()),
                    finish="stop",
                )
                for sample in range(sampling.samples)
            ]
            for row in range(len(prompts))
        ]

    def close(self):
        pass


pear.engines.open_engine = lambda *arguments: Scripted()
config = collect.CollectConfig(
    model=MODEL,
    problems=[{"task": "tiny/affine_chain", "level": "n12", "split": "sft", "size": 12_500}],
    sampling={"samples": 8, "max_tokens": 400},
    output_dir=Path(sys.argv[1]),
)
buffer = load_buffer(collect.run(config), correct_only=False)
print(len(buffer), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_hundred_thousand_trajectories_stay_under_two_gigabytes(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "buffer")], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    rows, peak_kib = map(int, result.stdout.split()[-2:])
    assert rows == 100_000
    if sys.platform == "darwin":
        peak_kib //= 1024
    assert peak_kib < 2 * 1024 * 1024, f"{peak_kib / 1024:.0f} MiB"
    print(f"{peak_kib / 1024:.0f} MiB")
