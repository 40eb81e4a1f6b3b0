"""Which checkpoint to take to RL, and how sure that is.

Every arm is compared with the reference arm after the last RL step, on pass@1, over the (base, seed) units that have
both: a paired 95% t interval, and a paired t test whose p-value is corrected for the number of arms compared (Holm).
The corrected p-value decides; with two arms that is whether the interval leaves out 0. "Undecided" is a verdict.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy

from pear.ops.statistics import (
    Interval,
    Needed,
    holm,
    needed_to_settle,
    paired_t_interval,
    paired_t_test,
    units_to_settle,
)
from pear.report.sources.rows import BASE_STAGE, Study

METRIC = "pass@1"
LEVEL = 0.05
"""The corrected p-value below which an arm is better or worse."""
_NAMED = 4
Outcome = Literal["better", "worse", "undecided", "missing", "dropped"]


def interval_over(values: list[float]) -> Interval | None:
    """The 95% t interval of a mean over units; None without a unit, infinite with a single one."""
    if not values:
        return None
    return paired_t_interval(numpy.asarray(values, dtype=numpy.float64))


def outcome_of(interval: Interval | None) -> Outcome:
    """What an interval of differences says: it decides only where it leaves out 0."""
    if interval is None:
        return "missing"
    if interval.low > 0:
        return "better"
    return "worse" if interval.high < 0 else "undecided"


def interval_text(interval: Interval) -> str:
    """A difference with its interval: `+0.051 [+0.012, +0.090]`; without brackets where one unit gives none."""
    if not math.isfinite(interval.low):
        return _signed(interval.value)
    return f"{_signed(interval.value)} [{_signed(interval.low)}, {_signed(interval.high)}]"


def _signed(value: float) -> str:
    # The sum turns -0.0 into 0.0.
    return f"{round(value, 3) + 0.0:+.3f}"


def count(number: int, noun: str) -> str:
    """`1 unit`, `3 units`.

    >>> count(1, "unit"), count(3, "unit")
    ('1 unit', '3 units')
    """
    return f"{number} {noun}" + ("" if number == 1 else "s")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One arm against the reference after the last RL step.

    Args:
        arm: and `reference`, what is compared.
        rl_step: after how many steps of RL.
        planned_units: the units of the study.
        interval: of pass@1 of the arm minus that of the reference over units, by itself; None without a unit.
        p_value: of the paired t test, by itself; None with fewer than two units.
        adjusted_p: corrected for `comparisons` (Holm); it decides.
        comparisons: how many arms are compared with the reference.
        needed: what would settle it at this mean and spread, each number by itself; None where it is settled, or where
            one unit tells no spread.
        problems: and `samples`, the sizes of these evaluations, where all are equal.
        dropped: whether a probe left the arm behind before the last RL step.
    """

    arm: str
    reference: str
    rl_step: int
    planned_units: int
    interval: Interval | None
    p_value: float | None
    adjusted_p: float | None
    comparisons: int
    needed: Needed | None
    problems: int | None
    samples: int | None
    dropped: bool

    @property
    def outcome(self) -> Outcome:
        """Whether the arm is better, worse, or which of both is undecided."""
        if self.interval is None:
            return "dropped" if self.dropped else "missing"
        if self.adjusted_p is None or self.adjusted_p >= LEVEL:
            return "undecided"
        return "better" if self.interval.value > 0 else "worse"

    @property
    def settle(self) -> int | None:
        """About how many units would settle what is undecided, where any number would."""
        return None if self.needed is None else self.needed.units

    @property
    def units_text(self) -> str:
        """`3 units`, or `2 of 3 units` where some are missing."""
        found = 0 if self.interval is None else self.interval.n
        planned = count(self.planned_units, "unit")
        return planned if found == self.planned_units else f"{found} of {planned}"

    @property
    def sentence(self) -> str:
        """The comparison in words, without a full stop."""
        if self.interval is None and self.dropped:
            return f"{self.arm} was left behind by the probe, before RL step {self.rl_step}"
        if self.interval is None:
            return (
                f"No verdict on {self.arm}: no unit has both {self.arm} and {self.reference} evaluated after "
                f"RL step {self.rl_step}"
            )
        meaning = self.units_text
        if self.adjusted_p is not None:
            meaning = f"paired 95% t interval over {self.units_text}"
            if self.comparisons > 1:
                meaning += f"; {p_text(self.adjusted_p)} corrected for {self.comparisons} comparisons"
        numbers = f"{interval_text(self.interval)} ({meaning})"
        if self.outcome != "undecided":
            return f"{self.arm} is {self.outcome} than {self.reference} after RL: {numbers}"
        return f"Undecided: {self.arm} against {self.reference} after RL: {numbers}; {self.settle_text}"

    @property
    def settle_text(self) -> str:
        """What would settle an undecided comparison."""
        if self.interval is None or not math.isfinite(self.interval.low):
            return "one unit gives no interval, at least two are needed"
        if self.needed is None:
            return ""
        ways, others = [], []
        sizes = (
            (self.needed.units, self.interval.n, "units", ""),
            (self.needed.problems, self.problems, "problems", ""),
            (self.needed.samples, self.samples, "samples", " a problem"),
        )
        for wanted, there, noun, each in sizes:
            if wanted is not None and there is not None:
                ways.append(f"{wanted:,} {noun}{each} instead of {there:,}")
            elif there is not None:
                others.append(noun)
        if not ways:
            return f"no number of {_listed(others, 'or')} would settle it"
        hint = f"at this spread about {_listed(ways, 'or')} would settle it"
        return hint + (f", more {_listed(others, 'or')} alone would not" if others else "")


def p_text(p_value: float) -> str:
    """A p-value as it is reported.

    >>> p_text(0.0312), p_text(0.00004)
    ('p = 0.031', 'p < 0.001')
    """
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"


def _listed(words: Sequence[str], last: str) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"


@dataclass(frozen=True, kw_only=True)
class SanityCheck:
    """Whether the pipeline works at all, on the reference arm: a later stage minus an earlier one over units."""

    claim: str
    interval: Interval | None
    planned_units: int

    @property
    def outcome(self) -> Outcome:
        """`better` where the claim holds."""
        return outcome_of(self.interval)


@dataclass(frozen=True, kw_only=True)
class Judgment:
    """The study's answer: one sentence, what to take to RL (None: undecided), and a verdict for each other arm.

    `correction` says how many comparisons the verdicts are corrected for; empty where there is one.
    """

    sentence: str
    take: str | None
    outcome: Literal["decided", "undecided", "missing"]
    verdicts: tuple[Verdict, ...]
    checks: tuple[SanityCheck, ...]
    correction: str


def judge(study: Study) -> Judgment:
    """Every arm against the reference, and the sentence that sums them up."""
    verdicts = _verdicts(study)
    checks = _checks(study)
    sentence, take = _summary(study, verdicts)
    compared = [verdict for verdict in verdicts if verdict.interval is not None]
    comparisons = max((verdict.comparisons for verdict in verdicts), default=0)
    return Judgment(
        sentence=sentence,
        take=take,
        outcome="decided" if take else "undecided" if compared else "missing",
        verdicts=verdicts,
        checks=checks,
        correction="" if comparisons < 2 else _CORRECTION.format(comparisons=comparisons, level=LEVEL),
    )


_CORRECTION = (
    "Each interval stands for itself. An arm is better or worse where the p-value of its paired t test, corrected for "
    "{comparisons} comparisons (Holm), is below {level}."
)


def _verdicts(study: Study) -> tuple[Verdict, ...]:
    step = study.last_rl_step
    if step is None or study.reference not in study.arms:
        return ()
    arms = [arm for arm in study.arms if arm != study.reference]
    differences = {arm: list(study.paired(arm, step, METRIC).values()) for arm in arms}
    p_values, adjusted = _p_values(differences)
    # Holm multiplies the p-value of each arm that stays undecided by at most this.
    open_comparisons = sum(p_value >= LEVEL for p_value in adjusted.values())
    verdicts = []
    for arm in arms:
        interval = interval_over(differences[arm])
        needed, problems, samples = None, None, None
        if arm in adjusted and adjusted[arm] >= LEVEL:
            needed, problems, samples = _needed(study, arm, step, differences[arm], 1 - LEVEL / open_comparisons)
        verdicts.append(
            Verdict(
                arm=arm,
                reference=study.reference,
                rl_step=step,
                planned_units=len(study.units),
                interval=interval,
                p_value=p_values.get(arm),
                adjusted_p=adjusted.get(arm),
                comparisons=len(adjusted),
                needed=needed,
                problems=problems,
                samples=samples,
                dropped=arm in study.dropped,
            )
        )
    return tuple(verdicts)


def _p_values(differences: Mapping[str, Sequence[float]]) -> tuple[dict[str, float], dict[str, float]]:
    """The p-value of every arm that has two units or more, by itself and corrected for their number."""
    p_values = {arm: paired_t_test(found) for arm, found in differences.items() if len(found) > 1}
    return p_values, dict(zip(p_values, holm(list(p_values.values())), strict=True))


def _needed(
    study: Study, arm: str, step: int, differences: Sequence[float], confidence: float
) -> tuple[Needed, int | None, int | None]:
    """What would settle an open comparison, and the problems and samples that its evaluations have now."""
    found = [
        [study.outcome_matrix(name, unit, step) for name in (arm, study.reference)]
        for unit in study.paired(arm, step, METRIC)
    ]
    outcomes = [one for pair in found for one in pair if one is not None]
    shapes = {one.correct.shape for one in outcomes}
    problem_sets = {frozenset(one.problem_ids) for one in outcomes}
    if len(outcomes) < 2 * len(differences) or len(shapes) > 1 or len(problem_sets) > 1:
        # Without the same problems in every outcome file, only the number of units can be worked out.
        return Needed(units=units_to_settle(differences, confidence), problems=None, samples=None), None, None
    problems, samples = shapes.pop()
    order = outcomes[0].problem_ids
    pairs = [(ours.of(order), theirs.of(order)) for ours, theirs in zip(outcomes[::2], outcomes[1::2], strict=True)]
    return needed_to_settle(pairs, confidence), problems, samples


def _checks(study: Study) -> tuple[SanityCheck, ...]:
    steps = [("SFT improves on the base", BASE_STAGE, 0)]
    if study.last_rl_step is not None:
        steps.append(("RL improves on SFT", 0, study.last_rl_step))
    checks = []
    for claim, before, after in steps:
        gains = []
        for unit in study.units:
            start, end = (study.value(study.reference, unit, stage, METRIC) for stage in (before, after))
            if start is not None and end is not None:
                gains.append(end - start)
        checks.append(SanityCheck(claim=claim, interval=interval_over(gains), planned_units=len(study.units)))
    return tuple(checks)


def _summary(study: Study, verdicts: tuple[Verdict, ...]) -> tuple[str, str | None]:
    """The sentence, and the arm to take to RL where that is decided."""
    if not study.arms:
        return "No verdict: this study has no arms.", None
    if study.reference not in study.arms:
        return f"No verdict: the reference arm {study.reference} is not in this study.", None
    if study.last_rl_step is None:
        return "No verdict: this study evaluates nothing after RL.", None
    if not verdicts:
        return f"No verdict: {study.reference} is the only arm, and there is nothing to compare it with.", None
    step = study.last_rl_step
    if study.reference in study.dropped:
        return f"No verdict: the probe left the reference arm {study.reference} behind, before RL step {step}.", None
    judged = [verdict for verdict in verdicts if verdict.interval is not None]
    if not judged:
        return f"No verdict yet: no unit has {study.reference} and another arm evaluated after RL step {step}.", None
    best = max(judged, key=lambda verdict: (verdict.outcome == "better", _mean(verdict)))
    if best.outcome == "better":
        others = [verdict for verdict in judged if verdict.outcome == "better" and verdict is not best]
        more = ""
        if others:
            verb = "is" if len(others) == 1 else "are"
            names = _names([verdict.arm for verdict in sorted(others, key=_mean, reverse=True)])
            more = f" {names} {verb} better than {study.reference} too; the largest mean is taken here."
        return f"{best.sentence}. Take {best.arm} to RL.{more}", best.arm
    if all(verdict.outcome in ("worse", "dropped") for verdict in verdicts):
        kept = " that the probe kept" if len(judged) < len(verdicts) else ""
        worst = "" if len(judged) == 1 else f" So is every other arm{kept}."
        return f"{best.sentence}.{worst} Take {study.reference} to RL.", study.reference
    undecided = max((verdict for verdict in judged if verdict.outcome != "worse"), key=_mean, default=best)
    open_arms = sum(verdict.outcome == "undecided" for verdict in judged)
    rest = f" It has the largest mean of {open_arms} undecided arms." if open_arms > 1 else ""
    return f"{undecided.sentence}.{rest}", None


def _names(arms: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    if len(arms) <= _NAMED + 1:
        return _listed(arms, "and")
    return f"{', '.join(arms[:_NAMED])} and {len(arms) - _NAMED} others"


def _mean(verdict: Verdict) -> float:
    return -math.inf if verdict.interval is None else verdict.interval.value
