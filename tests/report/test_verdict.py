"""The study's answer, from differences worked out by hand: every pass@1 is a multiple of 1/480."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from pear.ops.statistics import Needed, paired_t_interval
from pear.report import verdict_sentence
from pear.report.results.verdict import Judgment, Verdict, judge
from pear.report.sources.rows import read_study
from tests.report.synthetic_study import SyntheticStudy, Value, many_arms, spread_level

STEP = 1 / 480


def with_gains(**gains: Sequence[int]) -> Value:
    """nll goes 96, 192, 240, 400 of 480; an arm's gain is added after the last RL step, unit by unit."""

    def value(arm: str | None, unit: int, rl_step: int | None) -> float:
        count = {None: 96, 0: 192, 20: 240, 60: 400}[rl_step] + 2 * unit * (rl_step == 0)
        return STEP * (count + (gains[arm][unit] if arm in gains and rl_step == 60 else 0))

    return value


def judged(directory: Path, **settings: object) -> Judgment:
    return judge(read_study(SyntheticStudy(logged_steps=1, **settings).write(directory)))  # type: ignore[arg-type]


def test_a_better_arm_is_named_with_its_interval(tmp_path: Path) -> None:
    # Mean 24/480 = 0.05, deviation 4/480; t(2) = 4.3027, so 0.05 -+ 4.3027 x 0.008333 / sqrt(3) = 0.05 -+ 0.0207.
    found = judged(tmp_path, arms=("nll", "pear_sequence"), value=with_gains(pear_sequence=(20, 24, 28)))
    assert found.sentence == (
        "pear_sequence is better than nll after RL: +0.050 [+0.029, +0.071] (paired 95% t interval over 3 units). "
        "Take pear_sequence to RL."
    )
    assert (found.take, found.outcome) == ("pear_sequence", "decided")
    assert found.verdicts[0].settle is None
    assert verdict_sentence(tmp_path) == found.sentence


def test_undecided_says_what_would_settle_it(tmp_path: Path) -> None:
    # Mean 0.05, deviation 12/480 = 0.025: -+ 0.0621 with 3 units; with 4, 3.1824 x 0.025 / 2 = 0.0398 < 0.05.
    found = judged(tmp_path, arms=("nll", "pear_token"), value=with_gains(pear_token=(12, 24, 36)))
    # The units differ by far more than 60 problems explain, so that more of these would not help.
    assert found.sentence == (
        "Undecided: pear_token against nll after RL: +0.050 [-0.012, +0.112] (paired 95% t interval over 3 units); "
        "at this spread about 4 units instead of 3 would settle it, more problems or samples alone would not."
    )
    assert found.correction == ""
    assert (found.take, found.outcome) == (None, "undecided")


def test_where_every_arm_is_worse_the_reference_is_taken(tmp_path: Path) -> None:
    gains = with_gains(pear_token=(-20, -24, -28), pear_sequence=(-40, -44, -48))
    found = judged(tmp_path, value=gains)
    assert found.take == "nll"
    assert found.sentence == (
        "pear_token is worse than nll after RL: -0.050 [-0.071, -0.029] (paired 95% t interval over 3 units; p = 0.009 "
        "corrected for 2 comparisons). So is every other arm. Take nll to RL."
    )


def test_the_corrected_p_value_decides(tmp_path: Path) -> None:
    # With df = 2, p = 1 - t / sqrt(t^2 + 2). Alone: t = 26 sqrt(3) / 8 gives 0.0301, t = 24 sqrt(3) / 8 gives 0.0351;
    # Holm makes both 2 x 0.0301.
    found = judged(tmp_path, value=with_gains(pear_token=(18, 26, 34), pear_sequence=(16, 24, 32)))
    token, sequence = found.verdicts
    assert (token.p_value, sequence.p_value) == (pytest.approx(0.03014, abs=1e-5), pytest.approx(0.03510, abs=1e-5))
    assert (token.adjusted_p, sequence.adjusted_p) == (pytest.approx(0.06028, abs=1e-5),) * 2
    assert all(verdict.interval is not None and verdict.interval.low > 0 for verdict in found.verdicts)
    assert [verdict.outcome for verdict in found.verdicts] == ["undecided", "undecided"]
    assert found.take is None
    assert "p = 0.060 corrected for 2 comparisons" in found.sentence
    assert found.sentence.endswith("It has the largest mean of 2 undecided arms.")
    assert "for 2 comparisons (Holm)" in found.correction
    # At the level that Holm asks of both, 0.05 / 2: t(3; 0.9875) x 8 / sqrt(4) = 4.177 x 4 = 16.7 < 24.
    assert (token.settle, sequence.settle) == (4, 4)


def test_a_first_arm_that_is_decided_lowers_the_level_of_the_others(tmp_path: Path) -> None:
    gains = with_gains(pear_token=(12, 24, 36), pear_sequence=(20, 24, 28))
    token, sequence = judged(tmp_path, value=gains).verdicts
    # p = 1 - sqrt(12 / 14) = 0.0742 is the largest, and Holm leaves it as it is.
    assert (sequence.outcome, token.outcome) == ("better", "undecided")
    assert token.adjusted_p == token.p_value == pytest.approx(0.07418, abs=1e-5)
    assert token.settle == 4


def test_many_arms_stay_readable(tmp_path: Path) -> None:
    arms = many_arms(24)
    found = judged(tmp_path, arms=arms, rl_steps=(60,), value=spread_level)
    assert len(found.verdicts) == 23
    assert {verdict.comparisons for verdict in found.verdicts} == {23}
    assert re.search(r" and \d+ others are better than nll too", found.sentence)
    assert len(found.sentence) < 450
    alone = [verdict for verdict in found.verdicts if verdict.p_value is not None and verdict.p_value < 0.05]
    decided = [verdict for verdict in found.verdicts if verdict.outcome in ("better", "worse")]
    assert len(decided) < len(alone)


def test_an_arm_that_a_probe_left_behind_is_not_missing(tmp_path: Path) -> None:
    gains = with_gains(pear_sequence=(20, 24, 28))
    found = judged(tmp_path, value=gains, dropped=("pear_token",))
    token, sequence = found.verdicts
    assert (token.outcome, sequence.outcome) == ("dropped", "better")
    assert token.sentence == "pear_token was left behind by the probe, before RL step 60"
    # The probe's arms that were not taken further are no comparison after RL.
    assert sequence.comparisons == 1
    assert found.take == "pear_sequence"


def test_a_dropped_arm_does_not_keep_the_reference_from_being_taken(tmp_path: Path) -> None:
    found = judged(tmp_path, value=with_gains(pear_sequence=(-20, -24, -28)), dropped=("pear_token",))
    assert found.take == "nll"
    assert "every other arm" not in found.sentence


def test_a_dropped_reference_is_said(tmp_path: Path) -> None:
    found = judged(tmp_path, dropped=("nll",))
    assert found.sentence == "No verdict: the probe left the reference arm nll behind, before RL step 60."


@pytest.mark.parametrize(
    ("needed", "text"),
    [
        ((7, 900, 64), "at this spread about 7 units instead of 3, 900 problems instead of 60 or 64 samples a problem "
         "instead of 8 would settle it"),
        ((7, 1200, None), "at this spread about 7 units instead of 3 or 1,200 problems instead of 60 would settle it, "
         "more samples alone would not"),
        ((None, None, None), "no number of units, problems or samples would settle it"),
    ],
)  # fmt: skip
def test_what_would_settle_it_in_words(needed: tuple[int | None, int | None, int | None], text: str) -> None:
    verdict = Verdict(
        arm="a", reference="nll", rl_step=60, planned_units=3, interval=paired_t_interval([-0.1, 0.1, 0.05]),
        p_value=0.8, adjusted_p=0.8, comparisons=1, problems=60, samples=8, dropped=False,
        needed=Needed(units=needed[0], problems=needed[1], samples=needed[2]),
    )  # fmt: skip
    assert verdict.settle_text == text


def test_without_outcome_files_only_units_are_counted(tmp_path: Path) -> None:
    SyntheticStudy(arms=("nll", "pear_token"), logged_steps=1, value=with_gains(pear_token=(12, 24, 36))).write(
        tmp_path
    )
    (tmp_path / "runs" / "evaluate-1-2-60" / "outcomes.parquet").unlink()
    assert judge(read_study(tmp_path)).sentence.endswith("about 4 units instead of 3 would settle it.")


def test_a_better_arm_goes_before_a_larger_but_undecided_mean(tmp_path: Path) -> None:
    found = judged(tmp_path, value=with_gains(pear_token=(5, 6, 7), pear_sequence=(0, 24, 48)))
    assert found.take == "pear_token"
    assert [verdict.outcome for verdict in found.verdicts] == ["better", "undecided"]


def test_several_better_arms_are_all_named(tmp_path: Path) -> None:
    found = judged(tmp_path, value=with_gains(pear_token=(5, 6, 7), pear_sequence=(20, 24, 28)))
    assert found.take == "pear_sequence"
    assert found.sentence.endswith("pear_token is better than nll too; the largest mean is taken here.")


def test_one_unit_decides_nothing(tmp_path: Path) -> None:
    found = judged(tmp_path, arms=("nll", "pear_token"), units=1, value=with_gains(pear_token=(48,)))
    assert found.sentence == (
        "Undecided: pear_token against nll after RL: +0.100 (1 unit); "
        "one unit gives no interval, at least two are needed."
    )
    assert found.take is None


def test_equal_arms_cannot_be_settled(tmp_path: Path) -> None:
    found = judged(tmp_path, arms=("nll", "pear_token"), value=with_gains(pear_token=(-4, 0, 4)))
    assert "no number of units, problems or samples would settle it" in found.sentence


def test_only_units_with_both_arms_count(tmp_path: Path) -> None:
    found = judged(
        tmp_path,
        arms=("nll", "pear_token"),
        value=with_gains(pear_token=(20, 24, 28)),
        absent={"evaluate-0-1-60"},
    )
    assert found.verdicts[0].interval is not None
    assert found.verdicts[0].interval.value == pytest.approx(0.05)
    assert found.verdicts[0].interval.n == 2
    assert "(paired 95% t interval over 2 of 3 units)" in found.sentence


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"arms": ()}, "No verdict: this study has no arms."),
        ({"arms": ("nll",)}, "No verdict: nll is the only arm, and there is nothing to compare it with."),
        ({"arms": ("pear_token",)}, "No verdict: the reference arm nll is not in this study."),
        ({"rl_steps": ()}, "No verdict: this study evaluates nothing after RL."),
        (
            {"arms": ("nll", "pear_token"), "absent": [f"evaluate-1-{unit}-60" for unit in range(3)]},
            "No verdict yet: no unit has nll and another arm evaluated after RL step 60.",
        ),
    ],
)
def test_without_numbers_there_is_no_verdict(tmp_path: Path, settings: dict[str, object], sentence: str) -> None:
    found = judged(tmp_path, **settings)
    assert found.sentence == sentence
    assert (found.take, found.outcome) == (None, "missing")


def test_another_reference(tmp_path: Path) -> None:
    gains = with_gains(pear_token=(20, 24, 28))
    found = judged(tmp_path, arms=("nll", "pear_token"), reference="pear_token", value=gains)
    assert found.sentence.startswith("nll is worse than pear_token after RL: -0.050 [-0.071, -0.029] (paired")
    assert found.take == "pear_token"


def test_sanity_checks_are_of_the_reference_arm(tmp_path: Path) -> None:
    found = judged(tmp_path, arms=("nll", "pear_token"), value=with_gains(pear_token=(0, 0, 0)))
    sft, rl = found.checks
    # After SFT 192, 194, 196 against 96; after RL 400 against those.
    assert sft.interval is not None
    assert rl.interval is not None
    assert sft.interval.value == pytest.approx(98 / 480)
    assert rl.interval.value == pytest.approx(206 / 480)
    # The deviation is 2/480 in both: half a width is 4.302653 x 2 / 480 / sqrt(3).
    assert sft.interval.high - sft.interval.value == pytest.approx(0.010351, abs=1e-6)
    assert (sft.outcome, rl.outcome) == ("better", "better")
