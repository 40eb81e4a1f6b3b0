"""Which checkpoint should go to RL: how well each cheap signal predicts the rank of the arms after RL.

Signals are compared with pass@1 after the last RL step within each (base, seed) unit, since bases differ in what they
can reach. Arms without SFT have no checkpoint to choose and are left out.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy
from jaxtyping import Float64

from pear.ops.ranks import RankAgreement, rank_agreement
from pear.ops.statistics import Interval
from pear.report.export import ExportTable
from pear.report.results.chance import Chance, best_by_chance
from pear.report.results.signal_sources import Signal, signals_of
from pear.report.results.verdict import METRIC, count, interval_over
from pear.report.sources.rows import Study, Unit

ENOUGH_ARMS = 3
"""With fewer arms a rank correlation is +1 or -1 in each unit, whatever the signal."""


@dataclass(frozen=True, kw_only=True)
class SignalRow:
    """A signal and how well it predicts pass@1 after RL; `agreement` is None where `missing` says what is needed.

    `values` holds (signal, pass@1 after RL) of every (arm, unit) that has both; the other fields are as in `Signal`.
    """

    name: str
    title: str
    unit: str
    higher_is_better: bool
    agreement: RankAgreement | None
    missing: str
    convention: str
    cost: str
    cheap: bool
    values: Mapping[tuple[str, Unit], tuple[float, float]] = field(repr=False)

    @property
    def direction(self) -> str:
        """`higher` or `lower`: which counts as better; `(by convention)` where that is ours to say."""
        return ("higher" if self.higher_is_better else "lower") + (" (by convention)" if self.convention else "")


def chosen_arms(study: Study) -> list[str]:
    """The arms that have an SFT checkpoint to choose."""
    return [arm for arm in study.arms if not study.is_direct(arm)]


def signal_rows(study: Study) -> list[SignalRow]:
    """Every signal, the ones that the study lacks too, in the order of `signals_of`."""
    return [_row(study, signal) for signal in signals_of(study)]


def _row(study: Study, signal: Signal) -> SignalRow:
    values = _values(study, signal)
    missing = _missing(study, signal, values)
    agreement = None if missing else _agreement(study, signal, values)
    if agreement is not None and agreement.spearman.n == 0:
        agreement, missing = None, f"In every unit it, or {METRIC} after RL, is the same for all arms."
    return SignalRow(
        name=signal.name,
        title=signal.title,
        unit=signal.unit,
        higher_is_better=signal.higher_is_better,
        agreement=agreement,
        missing=missing,
        convention=signal.convention,
        cost=signal.cost,
        cheap=signal.cheap,
        values=values,
    )


def _values(study: Study, signal: Signal) -> dict[tuple[str, Unit], tuple[float, float]]:
    found = {}
    for arm in chosen_arms(study) if study.last_rl_step is not None else []:
        for unit in study.units:
            value, outcome = signal.read(study, arm, unit), study.value(arm, unit, study.last_rl_step or 0, METRIC)
            if value is not None and outcome is not None:
                found[arm, unit] = (value, outcome)
    return found


def _missing(study: Study, signal: Signal, values: Mapping[tuple[str, Unit], tuple[float, float]]) -> str:
    """Why there is nothing to compare, and what to do; empty where there is."""
    if study.last_rl_step is None:
        return "This study evaluates nothing after RL."
    if not values:
        return signal.advice
    if all(sum(other == unit for _, other in values) < 2 for unit in study.units):
        return f"No unit has it, and {METRIC} after RL, for two arms: there is nothing to rank yet."
    return ""


def _agreement(study: Study, signal: Signal, values: Mapping[tuple[str, Unit], tuple[float, float]]) -> RankAgreement:
    matrix = _matrix(study, values)
    return rank_agreement(
        matrix[:, :, 0],
        matrix[:, :, 1],
        bases=[unit.base for unit in study.units],
        seeds=[unit.seed for unit in study.units],
        higher_is_better=signal.higher_is_better,
    )


def _matrix(
    study: Study, values: Mapping[tuple[str, Unit], tuple[float, float]]
) -> Float64[numpy.ndarray, "arm unit 2"]:
    """Signal and outcome of every arm that has a checkpoint and every unit; NaN where one is missing."""
    nothing = (numpy.nan, numpy.nan)
    return numpy.array([[values.get((arm, unit), nothing) for unit in study.units] for arm in chosen_arms(study)])


def chance_of(study: Study, rows: Sequence[SignalRow]) -> Chance | None:
    """How far the best of the cheap signals would get if none said anything about the result after RL."""
    cheap = [row for row in rows if row.cheap and row.agreement is not None]
    if not cheap:
        return None
    signs = [1.0 if row.higher_is_better else -1.0 for row in cheap]
    signals = [sign * _matrix(study, row.values)[:, :, 0] for sign, row in zip(signs, cheap, strict=True)]
    step = study.last_rl_step or 0
    found = [[study.value(arm, unit, step, METRIC) for unit in study.units] for arm in chosen_arms(study)]
    return best_by_chance(signals, numpy.array(found, dtype=numpy.float64))


def regret_of_a_random_pick(study: Study) -> Interval | None:
    """What a blind pick costs: pass@1 after RL of a unit's best arm minus its arms' mean; the mean over units."""
    losses = []
    for unit in study.units if study.last_rl_step is not None else []:
        found = [study.value(arm, unit, study.last_rl_step or 0, METRIC) for arm in chosen_arms(study)]
        outcomes = [value for value in found if value is not None]
        if len(outcomes) > 1:
            losses.append(max(outcomes) - sum(outcomes) / len(outcomes))
    return interval_over(losses)


def best_rows(rows: Sequence[SignalRow]) -> list[SignalRow]:
    """The cheap signals with the largest Spearman correlation and, among these, the least regret: often one alone."""
    judged = [
        ((round(row.agreement.spearman.value, 9), round(-row.agreement.regret.value, 9)), row)
        for row in rows
        if row.cheap and row.agreement is not None
    ]
    best = max((merit for merit, _ in judged), default=None)
    return [row for merit, row in judged if merit == best]


def signal_sentences(study: Study, rows: Sequence[SignalRow]) -> list[str]:
    """The answer first, then what has to be known to read the table."""
    best = best_rows(rows)
    if not best or best[0].agreement is None:
        return ["No cheap signal can be compared with the result after RL yet."]
    found = best[0].agreement
    sentences = [_answer(rows, best, found), _caution(study, rows, best)]
    if found.arms < ENOUGH_ARMS:
        sentences.append(
            f"With {count(found.arms, 'arm')} a rank correlation is +1 or \N{MINUS SIGN}1 in each unit and says "
            f"little: at least {ENOUGH_ARMS} arms are needed, and many are better."
        )
    usual = next(row for row in rows if row.name == "pass_at_1")
    if usual.agreement is not None and usual not in best:
        sentences.append(
            f"{usual.title}, the usual choice, has Spearman {correlation_text(usual.agreement.spearman)} and costs "
            f"{_regret(usual.agreement.regret)}."
        )
    blind = regret_of_a_random_pick(study)
    if blind is not None:
        sentences.append(f"An arm picked blindly costs {_regret(blind)} on average.")
    left_out = [arm for arm in study.arms if study.is_direct(arm)]
    if left_out:
        sentences.append(f"Left out, since without SFT there is no checkpoint to choose: {', '.join(left_out)}.")
    if len({row.agreement.arms for row in rows if row.agreement is not None}) > 1:
        sentences.append("Not every signal is there for every arm: compare only rows with equally many arms.")
    directions = " ".join(conventions(rows))
    return [*sentences, directions] if directions else sentences


def _looked_at(rows: Sequence[SignalRow]) -> int:
    return sum(row.cheap and row.agreement is not None for row in rows)


def _answer(rows: Sequence[SignalRow], best: Sequence[SignalRow], found: RankAgreement) -> str:
    names = [row.title for row in best]
    listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    agree, by = ("agrees best", "it") if len(names) == 1 else ("agree best, and equally,", "any of them")
    return (
        f"Of {count(_looked_at(rows), 'cheap signal')}, {listed} {agree} with the ranks after RL: Spearman "
        f"{correlation_text(found.spearman)}. Choosing by {by} costs {_regret(found.regret)} of {METRIC} after RL "
        f"against the best arm in hindsight ({count(found.arms, 'arm')}, {count(found.units, 'unit')})."
    )


def _caution(study: Study, rows: Sequence[SignalRow], best: Sequence[SignalRow]) -> str:
    looked_at = _looked_at(rows)
    if looked_at == 1:
        return "No other cheap signal can be compared. Confirm it on other seeds."
    it, was = ("it", "It was") if len(best) == 1 else ("them", "They were")
    caution = f"{was} chosen after looking at {looked_at}, which flatters {it}"
    chance = chance_of(study, rows)
    if chance is not None:
        orders = f"all {chance.shuffles:,} orders" if chance.exact else f"{chance.shuffles:,} random orders"
        caution += (
            f": with the results shuffled among the arms ({orders}), the best of {looked_at} gets as far "
            f"{100 * chance.share:.1f}% of the time"
        )
    return f"{caution}. Confirm {it} on other seeds."


def conventions(rows: Sequence[SignalRow]) -> list[str]:
    """Why a direction counts as better, where that is a convention."""
    return list(dict.fromkeys(row.convention for row in rows if row.convention and row.agreement is not None))


def correlation_text(interval: Interval) -> str:
    """`+0.83 [+0.40, +0.95]`; without brackets where one unit gives no interval."""
    return _with_bounds(interval, "+.2f")


def _regret(interval: Interval) -> str:
    return _with_bounds(interval, ".3f")


def _with_bounds(interval: Interval, form: str) -> str:
    bounds = f" [{interval.low:{form}}, {interval.high:{form}}]" if math.isfinite(interval.low) else ""
    return f"{interval.value:{form}}{bounds}".replace("-", "\N{MINUS SIGN}")


def signal_tables(rows: Sequence[SignalRow]) -> list[ExportTable]:
    """How well each signal predicts the result after RL, and what the study lacks."""
    judged = [(row, row.agreement) for row in rows if row.agreement is not None]
    tables = [
        ExportTable(
            name="signals",
            title=f"How well signals of an SFT checkpoint predict {METRIC} after RL",
            columns=(
                *("signal", "title", "unit", "better", "cost", "spearman", "kendall"),
                *("reversals", "pairs", "regret", "arms", "units"),
            ),
            rows=[
                (
                    row.name,
                    row.title,
                    row.unit,
                    row.direction,
                    row.cost,
                    found.spearman,
                    found.kendall,
                    found.reversals,
                    found.pairs,
                    found.regret,
                    found.arms,
                    found.units,
                )
                for row, found in judged
            ],
            note=(
                "Rank correlations within each unit, averaged over units; positive: the signal points to the better "
                f"arm. Regret: {METRIC} after RL of the best arm minus that of the arm that the signal picks. "
                + " ".join(conventions(rows))
            ),
        )
    ]
    lacking = [(row.name, row.title, row.missing) for row in rows if row.missing]
    if lacking:
        title = "Signals that this study does not have"
        tables.append(
            ExportTable(name="signals_missing", title=title, columns=("signal", "title", "needs"), rows=lacking)
        )
    return tables
