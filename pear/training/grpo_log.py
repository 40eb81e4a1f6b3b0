"""What a GRPO run reports of its signal, under documented names."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

# Our key to TRL's. Equal steps are not equal signal, so every run shows:
# - rl/reward: mean reward of the step's completions;
# - rl/groups_without_variance: share of groups whose completions all got the same reward, and teach nothing;
# - rl/completion_length: mean tokens of a completion, EOS included;
# - rl/truncated: share of completions cut by length;
# - rl/entropy: mean entropy of the next token over completion tokens, in nats;
# - rl/kl_to_start: mean KL estimate (k3) per completion token to the model that RL began with; absent where beta is 0;
# - rl/generated_tokens: completion tokens since the first step. Counted here: TRL's `num_tokens` has the prompts in it.
SIGNALS: dict[str, str] = {
    "rl/reward": "reward",
    "rl/groups_without_variance": "frac_reward_zero_std",
    "rl/completion_length": "completions/mean_length",
    "rl/truncated": "completions/clipped_ratio",
    "rl/entropy": "entropy",
    "rl/kl_to_start": "kl",
}
# Wall times differ between two equal runs, whose files are equal otherwise.
_TIMES = frozenset({"step_time"})


def grpo_log(history: Iterable[Mapping[str, Any]], completions_per_step: int) -> list[dict[str, Any]]:
    """One entry per step: `SIGNALS` and `rl/generated_tokens`, and TRL's own log under its own names.

    >>> entry = {"step": 1, "reward": 0.5, "completions/mean_length": 7.5, "step_time": 0.1}
    >>> grpo_log([entry, {"step": 1, "train_runtime": 9.0}], completions_per_step=4)[0]["rl/generated_tokens"]
    30
    """
    lines: list[dict[str, Any]] = []
    generated = 0
    for entry in history:
        # The summary at the end of training is no step.
        if "reward" not in entry:
            continue
        generated += round(entry["completions/mean_length"] * completions_per_step)
        lines.append(
            {
                "step": entry["step"],
                **{name: entry[source] for name, source in SIGNALS.items() if source in entry},
                "rl/generated_tokens": generated,
                # Sorted, because a resumed run reads the earlier entries in this order.
                **{name: value for name, value in sorted(entry.items()) if name not in _TIMES},
            }
        )
    return lines


def write_metrics(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """One JSON object per line; what is not finite becomes null."""
    path.write_text("".join(json.dumps(_finite(line), allow_nan=False) + "\n" for line in lines), encoding="utf-8")


def _finite(line: Mapping[str, Any]) -> dict[str, Any]:
    def is_finite(value: Any) -> bool:
        return not isinstance(value, float) or math.isfinite(value)

    return {name: value if is_finite(value) else None for name, value in line.items()}
