"""Known failures of weighted SFT, in words, read off the metrics of `pear.ops.diagnostics.WeightSums`."""

from collections.abc import Mapping

FEW_LAST_TOKENS = 0.05
"""At the paper's clip 90% of the weight lies on over half of 40 tokens, and may lie on under 1% of 8,000."""

MOST_CLIPPED = 0.9
"""On the tiny games 12 to 20% of the tokens lie outside the paper's clip; where 90% do, the bounds decide."""

CONSTANT = 0.999
"""An effective sample size above it means that weights differ by about 3% from their mean (1 / (1 + cv^2))."""

LOG_RATIO_LOW = -2.0
"""Minus the mean log-ratio of sampled tokens is KL(pi_beta || pi_theta): at 2 nats a token the target gives what was
sampled an eighth of its probability, token after token. Tokens that are shifted by one give 5 and more."""

LOG_RATIO_HIGH = 0.5
"""Of tokens that pi_beta sampled, the mean cannot be above 0 but by chance, by selecting the right ones and by learning
them by heart, which gains at most pi_beta's entropy, some tenths of a nat a token."""

SMALL_MEAN = 0.01
"""On the tiny games, a base at chance gave sequence weights of .001 on average and learned nothing."""


def weight_warnings(metrics: Mapping[str, float]) -> dict[str, str]:
    """What is wrong with a step's or a run's weights, by kind, each in a sentence; empty when nothing is.

    - `last_tokens`: 90% of the weight lies on the last few tokens (`FEW_LAST_TOKENS`), so that this is training on
      the tail.
    - `clipped`: nearly all log-ratios, or all log-weights, lie beyond a bound (`MOST_CLIPPED`).
    - `constant`: an effective sample size above `CONSTANT`, so that this is plain SFT. Not said of an objective without
      ratios whose weights are exactly equal, since those are equal by design.
    - `log_ratio`: its mean is far from 0 (`LOG_RATIO_LOW`, `LOG_RATIO_HIGH`).
    - `mean`: the mean weight is below `SMALL_MEAN`.

    Args:
        metrics: of `WeightSums.metrics`, over a step or averaged over a run. What is missing is not judged.

    >>> weight_warnings({"weights/effective_sample_size": 0.7, "weights/mean": 0.4})
    {}
    >>> print(*weight_warnings({"weights/effective_sample_size": 0.9, "weights/log_ratio/mean": -7.25}).values())
    The mean log-ratio is -7.25 nats a token: tokens are misaligned, or these are not the log-probs of this policy.
    """
    checks = (_last_tokens, _clipped, _constant, _log_ratio, _mean)
    return {check.__name__.removeprefix("_"): sentence for check in checks if (sentence := check(metrics))}


def _last_tokens(metrics: Mapping[str, float]) -> str | None:
    share = metrics.get("weights/last_tokens_with_90_percent")
    if share is None or share >= FEW_LAST_TOKENS:
        return None
    return (
        f"90% of the weight lies on the last {_percent(share)} of the tokens, so this trains on the tail: raise the "
        "lower clip of the log-ratio, or set ess_target."
    )


def _clipped(metrics: Mapping[str, float]) -> str | None:
    for name, words in (("log_ratio", "log-ratio"), ("log_weight", "log-weight")):
        low, high = (metrics.get(f"weights/clipped/{name}_{side}", 0.0) for side in ("low", "high"))
        if low + high >= MOST_CLIPPED:
            return (
                f"{_percent(low)} of the tokens have their {words} below its bounds and {_percent(high)} above, so the "
                "clip and not the model makes the weights: widen it."
            )
    return None


def _constant(metrics: Mapping[str, float]) -> str | None:
    size = metrics.get("weights/effective_sample_size", 0.0)
    by_design = size == 1.0 and "weights/log_ratio/mean" not in metrics
    if size <= CONSTANT or by_design:
        return None
    return (
        f"The weights are constant (effective sample size {size:.4f}), so this is plain SFT: lower the lower clip of "
        "the log-ratio, or shorten the blocks."
    )


def _log_ratio(metrics: Mapping[str, float]) -> str | None:
    mean = metrics.get("weights/log_ratio/mean", 0.0)
    if LOG_RATIO_LOW <= mean <= LOG_RATIO_HIGH:
        return None
    return (
        f"The mean log-ratio is {mean:.2f} nats a token: tokens are misaligned, or these are not the log-probs of this "
        "policy."
    )


def _mean(metrics: Mapping[str, float]) -> str | None:
    mean = metrics.get("weights/mean", 1.0)
    if mean >= SMALL_MEAN:
        return None
    return (
        f"The mean weight is {mean:.2g}, so almost nothing is learned: the model finds all trajectories unlikely, as a "
        "base at chance does. Train it further first, or use token level or a higher lower clip."
    )


def _percent(share: float) -> str:
    return f"{100 * share:.2g}%" if share < 0.1 else f"{100 * share:.0f}%"
