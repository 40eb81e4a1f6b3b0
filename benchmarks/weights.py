"""Time of `log_importance_weights` on a million tokens, as a multiple of one float64 `cumsum` over as many numbers.

    python -m benchmarks.weights [--pairs 20] [--threads 1]

For each level it times weights and cumsum in turn, pair by pair, and prints the median of the pairs' ratios with a
distribution-free 95% interval. It reports and never fails: a busy machine slows the longer of the two more. CPU time is
shown beside wall time for that reason; with more than one thread it counts all of them.
"""

import argparse
import functools
import time
from collections.abc import Callable

import torch

from benchmarks.pairs import median_with_interval
from pear.ops.ratios import Level, log_importance_weights

NUM_TOKENS = 2**20
CASES: list[tuple[Level, int, bool]] = [
    ("token", 1, False),
    ("token", 1, True),
    ("block", 16, False),
    ("block", 16, True),
    ("sequence", 1, False),
    ("sequence", 1, True),
]


def elapsed(function: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(f"{NUM_TOKENS} tokens, {options.pairs} pairs, {options.threads} threads; multiples of one float64 cumsum")
    for rows in (32, 1):
        shape = (rows, NUM_TOKENS // rows)
        position = torch.arange(shape[1]).expand(shape)
        log_ratio = 0.1 * torch.randn(shape)
        numbers = log_ratio.double()
        # Sequences of 300 tokens, the first 60 of each a prompt.
        response_mask, segment_ids = position % 300 >= 60, position // 300
        for level, block_size, packed in CASES:
            weights = functools.partial(
                log_importance_weights,
                log_ratio,
                response_mask,
                level=level,
                block_size=block_size,
                segment_ids=segment_ids if packed else None,
            )
            walls, processors = [], []
            for pair in range(options.pairs + 2):
                base, ours = elapsed(functools.partial(numbers.cumsum, dim=1)), elapsed(weights)
                if pair >= 2:  # the first two warm caches and the allocator
                    walls.append(ours[0] / base[0])
                    processors.append(ours[1] / base[1])
            name = level if block_size == 1 else f"{level} of {block_size}"
            print(
                f"{rows:3} rows{', packed' if packed else '':8}  {name:12} "
                f"wall {median_with_interval(walls):>18}   CPU {median_with_interval(processors):>18}"
            )


if __name__ == "__main__":
    main()
