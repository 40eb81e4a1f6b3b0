"""The study's answer, from differences worked out by hand: every pass@1 is a multiple of 1/480."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from pear.report import verdict_sentence
from pear.report.rows import read_study
from pear.report.verdict import Judgment, judge
from tests.report.synthetic_study import SyntheticStudy, Value

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
        "pear_sequence is better than nll after RL: +0.050 [+0.029, +0.071] (3 units). Take pear_sequence to RL."
    )
    assert (found.take, found.outcome) == ("pear_sequence", "decided")
    assert found.verdicts[0].settle is None
    assert verdict_sentence(tmp_path) == found.sentence


def test_undecided_says_how_many_units_would_settle_it(tmp_path: Path) -> None:
    # Mean 0.05, deviation 12/480 = 0.025: -+ 0.0621 with 3 units; with 4, 3.1824 x 0.025 / 2 = 0.0398 < 0.05.
    found = judged(tmp_path, arms=("nll", "pear_token"), value=with_gains(pear_token=(12, 24, 36)))
    assert found.sentence == (
        "Undecided: pear_token against nll after RL: +0.050 [-0.012, +0.112] (3 units); "
        "at this spread about 4 units would settle it."
    )
    assert (found.take, found.outcome) == (None, "undecided")


def test_where_every_arm_is_worse_the_reference_is_taken(tmp_path: Path) -> None:
    gains = with_gains(pear_token=(-20, -24, -28), pear_sequence=(-40, -44, -48))
    found = judged(tmp_path, value=gains)
    assert found.take == "nll"
    assert found.sentence == (
        "pear_token is worse than nll after RL: -0.050 [-0.071, -0.029] (3 units). So is every other arm. "
        "Take nll to RL."
    )


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
    assert "no number of units would settle a mean of 0" in found.sentence


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
    assert "(2 of 3 units)" in found.sentence


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
    assert found.sentence.startswith("nll is worse than pear_token after RL: -0.050 [-0.071, -0.029] (3 units)")
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
