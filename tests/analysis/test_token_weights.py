"""token_weights against loops over tokens, rank correlations against scipy, and position told apart from weight."""

import math
from pathlib import Path
from typing import Any

import numpy
import pyarrow.parquet
import pytest
from scipy import stats

from pear.analysis.token_bins import (
    Tokens,
    bin_rows,
    doubling_bins,
    quantile_bins,
    rank_correlation,
    resampled_counts,
)
from pear.analysis.token_weights import Settings, analyze, check
from pear.errors import UserError
from tests import naive
from tests.analysis.model_fixtures import naive_log_probs, request_for, save_buffer, save_model, trajectories

ROWS = trajectories(9, seed=1, wrong=1)
RIGHT = ROWS[:8]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> tuple[Path, Path, Path]:
    directory = tmp_path_factory.mktemp("inputs")
    models = save_model(directory / "before", 0), save_model(directory / "after", 1)
    return *models, save_buffer(directory / "buffer", ROWS)


@pytest.fixture(scope="module")
def naive_log_prob_pair(inputs) -> tuple[Any, Any]:
    return naive_log_probs(inputs[0], RIGHT), naive_log_probs(inputs[1], RIGHT)


def naive_tokens(before: Any, after: Any, **weighting: Any) -> list[dict[str, float]]:
    """Every response token's trajectory, distance, log-weight, KL(after || before) and NLL under before."""
    tokens = []
    for number, row in enumerate(RIGHT):
        completion = row["completion_ids"]
        log_probs = [values[token] for values, token in zip(before[number], completion, strict=True)]
        ratios = [p - b for p, b in zip(log_probs, row["behavior_log_probs"], strict=True)]
        [log_weights] = naive.log_importance_weights([ratios], [[True] * len(ratios)], **weighting)
        for place, log_weight in enumerate(log_weights):
            tokens.append(
                {
                    "trajectory": number,
                    "distance": len(completion) - 1 - place,
                    "log_weight": round(log_weight, 6),
                    "kl": naive.kl_divergence(after[number][place], before[number][place]),
                    "nll": -log_probs[place],
                }
            )
    return tokens


def token_weights(inputs: tuple[Path, Path, Path], work: Path, **settings: Any) -> tuple[dict[str, Any], list[Any]]:
    asked = request_for(*inputs, work, Settings(**settings))
    check(asked)
    return analyze(asked), pyarrow.parquet.read_table(work / "bins.parquet").to_pylist()


@pytest.mark.parametrize(
    "weighting",
    [
        {"level": "token"},
        {"level": "block", "block_size": 3, "gamma": 0.9},
        {"level": "sequence", "log_ratio_clip": (-1.0, 1.0), "log_weight_clip": (-2.0, 1.0)},
    ],
    ids=lambda weighting: weighting["level"],
)
def test_equal_to_loops_over_single_tokens_in_float64(inputs, naive_log_prob_pair, tmp_path, weighting) -> None:
    tokens = naive_tokens(*naive_log_prob_pair, **weighting)
    metrics, rows = token_weights(inputs, tmp_path, weight_bins=4, resamples=50, **weighting)
    columns = {name: [token[name] for token in tokens] for name in tokens[0]}
    weights = [math.exp(value) for value in columns["log_weight"]]
    assert metrics["token_weights/tokens"] == len(tokens)
    assert metrics["token_weights/effective_sample_size"] == pytest.approx(
        naive.effective_sample_size(weights), rel=1e-5
    )
    expected = naive.spearman_within(columns["distance"], columns["log_weight"], columns["kl"])
    assert metrics["token_weights/rank_correlation"]["value"] == pytest.approx(expected, rel=1e-5)
    expected = naive.spearman(columns["log_weight"], columns["kl"])
    assert metrics["token_weights/rank_correlation_any_distance"]["value"] == pytest.approx(expected, rel=1e-5)
    for row in rows:
        inside = [
            token
            for token in tokens
            if row["low"] - 1e-4 <= token["log_weight"] <= row["high"] + 1e-4
            and row["distance_low"] <= token["distance"] <= row["distance_high"]
        ]
        assert row["tokens"] == len(inside)
        for name in ("kl", "nll"):
            assert row[name] == pytest.approx(math.fsum(token[name] for token in inside) / len(inside), rel=1e-5)
    for by in ("weight", "distance", "weight_and_distance"):
        assert sum(row["tokens"] for row in rows if row["by"] == by) == len(tokens)


def test_rounding_does_not_break_ties(inputs, tmp_path) -> None:
    """With every ratio far below its clip, a token's weight follows from its distance alone."""
    rows = [{**row, "behavior_log_probs": [0.0] * len(row["completion_ids"])} for row in RIGHT]
    metrics, _ = token_weights((*inputs[:2], save_buffer(tmp_path / "buffer", rows)), tmp_path / "work")
    assert metrics["token_weights/rank_correlation"] is None
    assert metrics["token_weights/rank_correlation_any_distance"] is not None


def test_weights_are_of_the_start_of_sft_and_not_of_its_end(inputs, tmp_path) -> None:
    """Trained models differ in KL and not in weight."""
    before, after, buffer = inputs
    other = save_model(tmp_path / "other", 2)
    (one, one_rows), (two, two_rows) = (
        token_weights((before, model, buffer), tmp_path / f"work{number}")
        for number, model in enumerate((after, other))
    )
    name = "token_weights/effective_sample_size"
    assert one[name] == two[name]
    for first, second in zip(one_rows, two_rows, strict=True):
        assert (first["low"], first["high"], first["nll"]) == (second["low"], second["high"], second["nll"])
        assert first["kl"] != second["kl"]


def test_a_behavior_policy_equal_to_before_weighs_all_tokens_equally(inputs, naive_log_prob_pair, tmp_path) -> None:
    own = [
        {
            **row,
            "behavior_log_probs": [
                values[token] for values, token in zip(log_probs, row["completion_ids"], strict=True)
            ],
        }
        for row, log_probs in zip(RIGHT, naive_log_prob_pair[0], strict=True)
    ]
    buffer = save_buffer(tmp_path / "buffer", own)
    metrics, rows = token_weights(
        (*inputs[:2], buffer), tmp_path / "work", level="sequence", log_ratio_clip=(-1e-3, 1e-3)
    )
    assert metrics["token_weights/effective_sample_size"] == pytest.approx(1.0, abs=1e-6)
    assert all(abs(row["low"]) < 1e-4 for row in rows)


def synthetic(seed: int, *, trajectories: int = 30, longest: int = 12, link: float = 0.0) -> Tokens:
    """Weights that grow towards the end; KL that does as well, and `link` times what else the weight depends on."""
    generator = numpy.random.default_rng(seed)
    lengths = generator.integers(1, longest, trajectories)
    trajectory = numpy.repeat(numpy.arange(trajectories), lengths)
    distance = numpy.concatenate([numpy.arange(length)[::-1] for length in lengths])
    noise, other = generator.normal(size=(2, len(trajectory)))
    return Tokens(
        trajectory=trajectory,
        distance=distance,
        log_weight=-distance + 0.1 * noise,
        kl=numpy.exp(-0.5 * distance + 0.1 * link * noise + 0.01 * other),
        nll=numpy.abs(other),
    )


def test_position_is_not_mistaken_for_weight() -> None:
    for link, sign in ((0.0, 0.0), (0.1, 1.0), (-0.1, -1.0)):
        tokens = synthetic(3, trajectories=200, link=link)
        counts = resampled_counts(200, 100, seed=0)
        together = rank_correlation(tokens, counts, within_distance=False)
        within = rank_correlation(tokens, counts, within_distance=True)
        assert together["value"] > 0.9
        assert within["value"] == pytest.approx(0.6 * sign, abs=0.2)
        assert within["low"] <= within["value"] <= within["high"]
        assert (within["low"] <= 0.0 <= within["high"]) == (sign == 0.0)


@pytest.mark.parametrize("decimals", [0, 8], ids=["many ties", "no ties"])
def test_rank_correlations_and_their_intervals_are_those_of_resampled_tokens(decimals) -> None:
    """Against scipy on samples that are written out, ties and distances with few tokens included."""
    tokens = synthetic(5, trajectories=12, longest=6)
    log_weight, kl = (numpy.round(values * 20, decimals) for values in (tokens.log_weight, tokens.kl))
    tokens = Tokens(
        trajectory=tokens.trajectory, distance=tokens.distance, log_weight=log_weight, kl=kl, nll=tokens.nll
    )
    counts = resampled_counts(12, 40, seed=1)

    def expected(times: Any) -> float:
        total = size = 0.0
        for distance in numpy.unique(tokens.distance):
            place = numpy.repeat(numpy.flatnonzero(tokens.distance == distance), times[tokens.distance == distance])
            constant = len(set(log_weight[place])) < 2 or len(set(kl[place])) < 2
            if len(place) >= 3 and not constant:
                total += len(place) * stats.spearmanr(log_weight[place], kl[place]).statistic
                size += len(place)
        return total / size if size else math.nan

    found = rank_correlation(tokens, counts, within_distance=True)
    drawn = [expected(row[tokens.trajectory]) for row in counts]
    assert found["value"] == pytest.approx(expected(numpy.ones(len(kl), dtype=int)), abs=1e-12)
    assert [found["low"], found["high"]] == pytest.approx(list(numpy.nanquantile(drawn, [0.025, 0.975])), abs=1e-12)
    assert found["n"] == 12


def test_no_rank_correlation_where_all_weights_are_equal() -> None:
    tokens = synthetic(0)
    equal = Tokens(
        trajectory=tokens.trajectory,
        distance=tokens.distance,
        log_weight=numpy.full(len(tokens.kl), -10.0),
        kl=tokens.kl,
        nll=tokens.nll,
    )
    counts = resampled_counts(30, 5, seed=0)
    assert rank_correlation(equal, counts, within_distance=True) is None
    [weight] = [row for row in bin_rows(equal, counts, weight_bins=8) if row["by"] == "weight"]
    assert (weight["low"], weight["high"], weight["tokens"]) == (-10.0, -10.0, len(tokens.kl))


def test_intervals_of_bins_resample_whole_trajectories() -> None:
    """Against means over samples that are written out."""
    tokens = synthetic(2, trajectories=10, longest=8)
    counts = resampled_counts(10, 60, seed=4)
    assert (counts.sum(axis=1) == 10).all()
    for row in bin_rows(tokens, counts, weight_bins=3):
        inside = (tokens.log_weight >= row["low"]) & (tokens.log_weight <= row["high"])
        inside &= (tokens.distance >= row["distance_low"]) & (tokens.distance <= row["distance_high"])
        if len(set(tokens.trajectory[inside])) == 1:
            assert (row["kl_low"], row["kl_high"]) == (None, None)
            continue
        drawn = [numpy.repeat(tokens.kl[inside], times[tokens.trajectory[inside]]) for times in counts]
        means = [sample.mean() for sample in drawn if len(sample)]
        assert [row["kl_low"], row["kl_high"]] == pytest.approx(list(numpy.quantile(means, [0.025, 0.975])), rel=1e-12)


def test_an_interval_covers_about_as_often_as_it_says() -> None:
    """200 buffers of 60 trajectories whose tokens go together: intervals over tokens would cover far less often."""
    covered = 0
    for seed in range(200):
        generator = numpy.random.default_rng(seed)
        trajectory = numpy.repeat(numpy.arange(60), 10)
        kl = generator.normal(size=60)[trajectory] + generator.normal(size=600)
        tokens = Tokens(
            trajectory=trajectory, distance=numpy.zeros(600, dtype=int), log_weight=numpy.zeros(600), kl=kl, nll=kl
        )
        row = bin_rows(tokens, resampled_counts(60, 400, seed=seed), weight_bins=2)[0]
        covered += row["kl_low"] <= 0.0 <= row["kl_high"]
    assert 0.90 <= covered / 200 <= 0.98


def test_bins_hold_equally_many_tokens_and_equal_weights_share_one() -> None:
    values = numpy.random.default_rng(0).normal(size=1000)
    assert numpy.bincount(quantile_bins(values, 8)).tolist() == [125] * 8
    floored = numpy.maximum(values, -0.5)
    bins = quantile_bins(floored, 8)
    assert len(set(bins[floored == -0.5])) == 1
    assert sorted(set(bins)) == list(range(bins.max() + 1))
    assert (numpy.diff(bins[numpy.argsort(floored)]) >= 0).all()
    assert doubling_bins(numpy.arange(16)).tolist() == [0, 1, 2, 2, *[3] * 4, *[4] * 8]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"level": "word"}, "level: Input should be 'token', 'block' or 'sequence'"),
        ({"gamma": 1.5}, "gamma: Input should be less than or equal to 1"),
        ({"log_ratio_clip": [0.3, -0.08]}, r"log_ratio_clip is \(low, high\) with low <= high"),
        ({"weight_bin": 8}, "Did you mean 'weight_bins'"),
    ],
)
def test_settings_out_of_their_domain_are_refused(settings, message) -> None:
    with pytest.raises(UserError, match=message):
        Settings.parse(settings, source="settings")
