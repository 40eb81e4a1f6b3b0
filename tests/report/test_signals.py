"""Which signals predict the rank after RL: known orders, what is left out, what is missing, what is said."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pyarrow.parquet
import pytest

from pear.report.figures.signals import signal_figures
from pear.report.results.chance import best_by_chance
from pear.report.results.signals import (
    SignalRow,
    best_rows,
    regret_of_a_random_pick,
    signal_rows,
    signal_sentences,
    signal_tables,
)
from pear.report.sources.rows import Study, read_study
from tests.report import naive_signals
from tests.report.fitting import drawing
from tests.report.synthetic_study import ANALYSES, SyntheticStudy, Value, many_arms, spread_level

ARMS = ("nll", "a", "b", "c", "d")


def ordered(arm: str | None, unit: int, rl_step: int | None) -> float:
    """After SFT and after RL the arms come in one order, after 6 steps of RL in the opposite one; units differ."""
    place = -1 if arm is None or arm == "direct" else ARMS.index(arm)
    level = {None: 0.1, 0: 0.2 + 0.05 * place, 6: 0.6 - 0.05 * place, 20: 0.5}.get(rl_step, 0.6 + 0.05 * place)
    return level + 0.1 * unit


def study_of(directory: Path, **settings: Any) -> Study:
    synthetic = SyntheticStudy(logged_steps=20, **{"arms": ARMS, "value": ordered, "units": 2, **settings})
    return read_study(synthetic.write(directory))


def rewrite(study: Study, analysis: str, change: Callable[[int, int], Mapping[str, Any]]) -> Study:
    """Gives every (arm, unit) of an analysis other metrics, by the arm's place and the unit's."""
    for place, arm in enumerate(study.arms):
        for number, unit in enumerate(study.units):
            node = study.analysis_node(analysis, arm, unit, 0)
            assert node is not None
            (node.directory / "metrics.json").write_text(json.dumps(dict(change(place, number))))
    return read_study(study.directory)


def by_name(rows: list[SignalRow]) -> dict[str, SignalRow]:
    return {row.name: row for row in rows}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Every signal is there; the held-out NLL falls with the result after RL, and the KL grows with it."""
    directory = tmp_path_factory.mktemp("signals")
    found = study_of(directory, rl_steps=(6, 20, 60), analyses=ANALYSES, rl_signal=True)

    def divergence(place: int, unit: int) -> dict[str, Any]:
        entry = {"low": 0.0, "high": 1.0, "n": 9}
        return {
            "divergence/nll": {"value": 1.0 - 0.1 * place + unit, **entry},
            "divergence/forward_kl": {"value": 0.1 * place, **entry},
        }

    return rewrite(found, "divergence", divergence)


@pytest.fixture(scope="module")
def rows(study: Study) -> list[SignalRow]:
    return signal_rows(study)


def test_a_perfect_predictor(rows: list[SignalRow]) -> None:
    for name in ("pass_at_1", "held_out_nll"):
        found = by_name(rows)[name].agreement
        assert found is not None
        assert (found.spearman.value, found.kendall.value) == (pytest.approx(1), pytest.approx(1)), name
        assert (found.reversals, found.pairs, found.regret.value) == (0, 10, 0.0), name
        assert (found.arms, found.units) == (5, 2)


def test_a_reversed_predictor(rows: list[SignalRow]) -> None:
    for name in ("grpo_probe", "forward_kl"):
        found = by_name(rows)[name].agreement
        assert found is not None
        assert (found.spearman.value, found.kendall.value) == (pytest.approx(-1), pytest.approx(-1)), name
        assert (found.reversals, found.pairs) == (10, 10), name
        assert found.regret.value == pytest.approx(0.2, abs=0.002), name


def test_directions_are_declared_and_conventions_explained(rows: list[SignalRow]) -> None:
    lower = {"held_out_nll", "forward_kl", "spectrum_shift", "gradient_rotation"}
    assert {row.name for row in rows if not row.higher_is_better} == lower
    conventions = {"forward_kl", "sparsity", "sparsity_bf16", "spectrum_shift"}
    conventions |= {"effective_sample_size", "gradient_rotation", "entropy"}
    assert {row.name for row in rows if row.convention} == conventions
    assert by_name(rows)["held_out_nll"].direction == "lower"
    assert by_name(rows)["sparsity"].direction == "higher (by convention)"
    assert all(row.cost and row.unit and row.title for row in rows)


def test_values_are_those_of_the_files(study: Study, rows: list[SignalRow]) -> None:
    unit = study.units[1]
    values = {row.name: row.values["b", unit][0] for row in rows}

    def metrics(role: str, analysis: str | None = None) -> Any:
        node = study.node(role, "b", unit, 0, analysis)
        assert node is not None
        return json.loads((node.directory / "metrics.json").read_text())

    evaluation = metrics("eval")
    assert values["pass_at_1"] == evaluation["pass@1"]["value"]
    assert values["pass_at_large_k"] == evaluation["pass@8"]["value"]
    assert values["majority_vote"] == evaluation["maj@n"]["value"]
    assert values["held_out_nll"] == metrics("analysis", "divergence")["divergence/nll"]["value"]
    drift = metrics("analysis", "weight_drift")
    for name in ("sparsity", "sparsity_bf16", "spectrum_shift"):
        assert values[name] == drift[f"drift/{name}"]
    assert values["gradient_rotation"] == metrics("analysis", "gradient_rotation")["gradients/rotation_degrees"]
    sft = [line["weights/effective_sample_size"] for line in study.log("sft", "b", unit) or [] if "epoch" in line]
    assert values["effective_sample_size"] == pytest.approx(sum(sft) / len(sft))
    rl = [line for line in study.log("grpo", "b", unit) or [] if line["step"] <= 6]
    assert len(rl) == 6
    for name, key in (("entropy", "rl/entropy"), ("early_reward", "rl/reward")):
        assert values[name] == pytest.approx(sum(line[key] for line in rl) / 6)
    assert values["grpo_probe"] == pytest.approx(ordered("b", 1, 6), abs=0.002)
    assert by_name(rows)["pass_at_1"].values["b", unit][1] == pytest.approx(ordered("b", 1, 60), abs=0.002)


def test_mixed_outcomes_are_the_groups_with_right_and_wrong_answers(study: Study, rows: list[SignalRow]) -> None:
    unit = study.units[0]
    node = study.rl_signal_node("c", unit)
    assert node is not None
    right: dict[str, list[bool]] = {}
    for row in pyarrow.parquet.read_table(node.directory / "outcomes.parquet").to_pylist():
        right.setdefault(row["problem_id"], []).append(row["correct"])
    mixed = [any(group) and not all(group) for group in right.values()]
    assert 0 < sum(mixed) < len(mixed)
    assert by_name(rows)["mixed_outcomes"].values["c", unit][0] == pytest.approx(sum(mixed) / len(mixed))


def share_by_hand(study: Study, rows: list[SignalRow]) -> float:
    """How often some signal orders shuffled results as well as the best one did: perfectly."""
    signals = [
        [[row.values[arm, unit][0] * (1 if row.higher_is_better else -1) for unit in study.units] for arm in ARMS]
        for row in rows
        if row.agreement is not None
    ]
    results = [[rows[0].values[arm, unit][1] for unit in study.units] for arm in ARMS]
    return naive_signals.best_over_orders(signals, results)[0]


def test_the_answer_says_how_it_was_chosen(study: Study, rows: list[SignalRow]) -> None:
    first, caution, *others = signal_sentences(study, rows)
    best = best_rows(rows)
    assert {row.name for row in best} >= {"pass_at_1", "held_out_nll"}
    assert all(row.title in first for row in best)
    assert "agree best, and equally, with the ranks after RL: Spearman +1.00 [+1.00, +1.00]" in first
    assert "Choosing by any of them costs 0.000 [0.000, 0.000] of pass@1 after RL" in first
    assert "(5 arms, 2 units)" in first
    looked_at = sum(row.agreement is not None for row in rows)
    assert first.startswith(f"Of {looked_at} cheap signals, ")
    assert caution == (
        f"They were chosen after looking at {looked_at}, which flatters them: with the results shuffled among the arms "
        f"(all 120 orders), the best of {looked_at} gets as far {100 * share_by_hand(study, rows):.1f}% of the time. "
        "Confirm them on other seeds."
    )
    blind = regret_of_a_random_pick(study)
    assert blind is not None
    assert blind.value == pytest.approx(0.1, abs=0.002)
    assert any(sentence.startswith("An arm picked blindly costs 0.100 ") for sentence in others)
    assert "Staying close to the base" in others[-1]


def test_one_best_signal_is_named_beside_the_usual_choice(tmp_path: Path) -> None:
    def reversed_after_sft(arm: str | None, unit: int, rl_step: int | None) -> float:
        step = {0: 6, 6: 0}.get(rl_step or 0, rl_step) if rl_step is not None else None
        return ordered(arm, unit, step)

    found = study_of(tmp_path, value=reversed_after_sft, rl_steps=(6, 60))
    judged = signal_rows(found)
    assert [row.name for row in best_rows(judged)] == ["grpo_probe"]
    sentences = signal_sentences(found, judged)
    assert ", GRPO probe agrees best with the ranks after RL: Spearman +1.00" in sentences[0]
    assert sentences[1].endswith("Confirm it on other seeds.")
    assert any("pass@1 after SFT, the usual choice, has Spearman \N{MINUS SIGN}1.00" in text for text in sentences)


def test_an_expensive_probe_is_labeled_and_is_no_cheap_signal(tmp_path: Path) -> None:
    judged = signal_rows(study_of(tmp_path, rl_steps=(20, 60)))
    probe = by_name(judged)["grpo_probe"]
    assert (probe.cheap, probe.cost, probe.unit) == (False, "33% of RL", "pass@1 after 20 of 60 RL steps")
    assert "grpo_probe" not in {row.name for row in best_rows([replace(row, cheap=False) for row in judged])}
    early = by_name(judged)["early_reward"]
    assert (early.cheap, early.cost, early.unit) == (True, "10% of RL", "mean reward, first 6 of 60 RL steps")


def test_the_pilot_of_the_gradient_rotation_is_part_of_its_cost(tmp_path: Path) -> None:
    found = study_of(tmp_path, analyses=("gradient_rotation",))
    for steps, cost, cheap in ((6, "6 steps of SFT and of GRPO (10% of RL)", True), (10, "(17% of RL)", False)):
        metrics = {"gradients/steps": steps}
        found = rewrite(
            found,
            "gradient_rotation",
            lambda place, unit, metrics=metrics: {"gradients/rotation_degrees": place, **metrics},
        )
        row = by_name(signal_rows(found))["gradient_rotation"]
        assert (cost in row.cost, row.cheap) == (True, cheap)
        assert row.agreement is not None


def test_what_is_missing_says_what_to_add(tmp_path: Path) -> None:
    bare = by_name(signal_rows(study_of(tmp_path / "bare", rl_steps=(60,))))
    assert "`divergence` to the study file's `analyze.analyses`" in bare["held_out_nll"].missing
    assert "`weight_drift`" in bare["sparsity"].missing
    assert "`gradient_rotation`" in bare["gradient_rotation"].missing
    assert "`rl_signal_problems` above 0" in bare["mixed_outcomes"].missing
    assert bare["grpo_probe"].missing == "Add 6 to `evaluate.at_rl_steps`, or run `pear study --probe`."
    assert bare["pass_at_1"].missing == ""
    tables = {table.name: table for table in signal_tables(list(bare.values()))}
    assert {row[0] for row in tables["signals_missing"].rows} == {name for name, row in bare.items() if row.missing}
    assert len(tables["signals"].rows) + len(tables["signals_missing"].rows) == len(bare)

    absent = [f"analyze-{place}-{unit}-divergence" for place in range(5) for unit in range(2)]
    planned = by_name(signal_rows(study_of(tmp_path / "planned", analyses=("divergence",), absent=absent)))
    assert planned["held_out_nll"].missing == "It is planned, but none of its runs is complete."


def test_arms_without_sft_and_arms_without_a_result_are_left_out(tmp_path: Path) -> None:
    arms = ("nll", "direct", "a", "b", "c")
    found = study_of(tmp_path, arms=arms, rl_steps=(6, 60), dropped=("c",), absent=["evaluate-2-1-0"])
    judged = signal_rows(found)
    first, second = found.units
    keys = set(by_name(judged)["pass_at_1"].values)
    assert keys == {("nll", first), ("nll", second), ("a", first), ("b", first), ("b", second)}
    agreement = by_name(judged)["pass_at_1"].agreement
    assert agreement is not None
    assert (agreement.spearman.value, agreement.arms, agreement.units) == (pytest.approx(1), 3, 2)
    text = " ".join(signal_sentences(found, judged))
    assert "Left out, since without SFT there is no checkpoint to choose: direct." in text


def test_few_arms(tmp_path: Path) -> None:
    two = study_of(tmp_path / "two", arms=("nll", "a"))
    text = " ".join(signal_sentences(two, signal_rows(two)))
    assert "With 2 arms a rank correlation is +1 or \N{MINUS SIGN}1 in each unit and says little" in text
    one = study_of(tmp_path / "one", arms=("nll",))
    judged = signal_rows(one)
    assert all(row.agreement is None for row in judged)
    assert "for two arms: there is nothing to rank yet" in by_name(judged)["pass_at_1"].missing
    assert signal_sentences(one, judged) == ["No cheap signal can be compared with the result after RL yet."]
    assert signal_figures(one, judged) == []
    no_rl = study_of(tmp_path / "no_rl", rl_steps=())
    assert {row.missing for row in signal_rows(no_rl)} == {"This study evaluates nothing after RL."}


def test_a_signal_that_is_the_same_for_all_arms_predicts_nothing(tmp_path: Path) -> None:
    found = rewrite(
        study_of(tmp_path, analyses=("weight_drift",)), "weight_drift", lambda place, unit: {"drift/sparsity": 1.0}
    )
    row = by_name(signal_rows(found))["sparsity"]
    assert row.agreement is None
    assert "the same for all arms" in row.missing


def test_one_unit_has_no_interval(tmp_path: Path) -> None:
    found = study_of(tmp_path, units=1, rl_steps=(6, 60))
    first = signal_sentences(found, signal_rows(found))[0]
    assert "Spearman +1.00. Choosing by" in first
    assert "nan" not in first
    assert "inf" not in first


def test_figures_hold_the_table_and_its_units(study: Study, rows: list[SignalRow]) -> None:
    with drawing() as outside:
        drawn = {picture.name: picture for picture in signal_figures(study, rows)}
    assert outside == []
    judged = [row for row in rows if row.agreement is not None]
    assert set(drawn) == {"signals_spearman", "signals_regret", *(f"signal_{row.name}" for row in judged)}
    spearman = drawn["signals_spearman"].data.rows
    values = [row[1].value for row in spearman]  # type: ignore[union-attr]
    assert values == sorted(values, reverse=True)
    assert len(values) == len(judged)
    assert drawn["signals_regret"].data.rows[-1][0] == "a blind pick"
    scatter = drawn["signal_pass_at_1"]
    assert scatter.data.columns == ("arm", "base", "seed", "pass_at_1", "pass@1 after RL")
    assert [row[0] for row in scatter.data.rows[:5]] == list(ARMS)
    assert len(scatter.data.rows) == 5 + 10
    for picture in drawn.values():
        assert "95%" in picture.file
        assert "unit" in picture.file
    assert "Spearman +1.00" in scatter.file
    for name, figure in (("forward_kl", "9a"), ("sparsity", "9b"), ("spectrum_shift", "9c")):
        assert drawn[f"signal_{name}"].title.endswith(f"(Figure {figure})")
    assert "share of the evaluation problems (\N{RIGHTWARDS ARROW} better)" in scatter.file
    assert "(\N{LEFTWARDS ARROW} better)" in drawn["signal_held_out_nll"].file


def probed(value: Value) -> Value:
    """Numbers that know an evaluation after 6 steps."""
    return lambda arm, unit, step: value(arm, unit, 0 if step == 6 else step) + (0.02 if step == 6 else 0)


@pytest.mark.slow
def test_24_arms_and_3_seeds_fit(tmp_path: Path) -> None:
    directory = tmp_path / "study"
    synthetic = SyntheticStudy(
        arms=many_arms(24),
        value=probed(spread_level),
        rl_steps=(6, 20, 60),
        logged_steps=10,
        analyses=ANALYSES,
        rl_signal=True,
    )
    found = read_study(synthetic.write(directory))
    judged = signal_rows(found)
    agreement = by_name(judged)["pass_at_1"].agreement
    assert agreement is not None
    assert (agreement.arms, agreement.units, agreement.pairs) == (23, 3, 253)
    with drawing() as outside:
        drawn = signal_figures(found, judged)
    assert outside == []
    assert "1,001 random orders" in signal_sentences(found, judged)[1]
    # 24 names at every point would be unreadable: the reference, the best and the signal's pick have theirs.
    scatter = next(picture for picture in drawn if picture.name == "signal_pass_at_1")
    assert len(scatter.data.rows) == 23 + 69
    inside = scatter.inline
    assert sum(f">{arm}<" in inside for arm in found.arms) <= 3


def test_the_best_by_chance_is_that_of_every_order() -> None:
    generator = numpy.random.default_rng(5)
    outcome = generator.normal(size=(5, 2))
    signals = [generator.integers(0, 4, size=(5, 2)).astype(float) for _ in range(3)]
    signals[0][1, 0] = math.nan
    signals[1][:, 1] = 2.0
    found = best_by_chance(signals, outcome)
    assert found is not None
    share, median = naive_signals.best_over_orders([signal.tolist() for signal in signals], outcome.tolist())
    assert found.exact
    assert found.shuffles == 120
    assert found.share == pytest.approx(share)
    assert found.median == pytest.approx(median)


def test_looking_at_more_signals_makes_chance_better() -> None:
    generator = numpy.random.default_rng(1)
    outcome = numpy.arange(8.0)[:, None] + numpy.zeros((8, 3))
    perfect, noise = outcome.copy(), [generator.normal(size=(8, 3)) for _ in range(12)]
    alone = best_by_chance([perfect], outcome)
    many = best_by_chance([perfect, *noise], outcome)
    assert alone is not None
    assert many is not None
    assert alone.share == pytest.approx(1 / 1001)
    assert alone.median == pytest.approx(0, abs=0.1)
    assert many.median > alone.median + 0.2
    assert best_by_chance([perfect, *noise], outcome) == many
    weak = best_by_chance([noise[0], *noise], outcome)
    assert weak is not None
    assert weak.share > many.share


def test_arms_without_every_outcome_are_not_shuffled() -> None:
    outcome = numpy.array([[1.0], [2.0], [math.nan], [3.0]])
    signal = numpy.array([[1.0], [2.0], [9.0], [3.0]])
    found = best_by_chance([signal], outcome)
    assert found is not None
    assert (found.shuffles, found.share) == (6, pytest.approx(1 / 6))
    assert best_by_chance([signal], numpy.array([[1.0], [math.nan], [math.nan], [math.nan]])) is None
    assert best_by_chance([numpy.full((4, 1), math.nan)], outcome) is None
