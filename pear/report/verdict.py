"""Which checkpoint to take to RL, and how sure that is.

An arm is compared with the reference arm after the last RL step, on pass@1, over the (base, seed) units that have both:
a paired 95% t interval. An interval that holds 0 decides nothing, and "undecided" is a verdict.
"""

import math
from dataclasses import dataclass
from typing import Literal

from pear.ops.statistics import Interval, paired_t_interval, units_to_settle
from pear.report.rows import BASE_STAGE, Study

METRIC = "pass@1"
Outcome = Literal["better", "worse", "undecided", "missing"]


def interval_over(values: list[float]) -> Interval | None:
    """The 95% t interval of a mean over units; None without a unit, infinite with a single one."""
    if not values:
        return None
    import numpy

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
        return f"{interval.value:+.3f}"
    return f"{interval.value:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"


def count(number: int, noun: str) -> str:
    """`1 unit`, `3 units`.

    >>> count(1, "unit"), count(3, "unit")
    ('1 unit', '3 units')
    """
    return f"{number} {noun}" + ("" if number == 1 else "s")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One arm against the reference after the last RL step.

    `interval` is of pass@1 of the arm minus that of the reference over units; `settle` is about how many units at this
    mean and spread would leave out 0, where the interval does not.
    """

    arm: str
    reference: str
    rl_step: int
    planned_units: int
    interval: Interval | None
    settle: int | None

    @property
    def outcome(self) -> Outcome:
        """Whether the arm is better, worse, or which of both is undecided."""
        return outcome_of(self.interval)

    @property
    def units_text(self) -> str:
        """`3 units`, or `2 of 3 units` where some are missing."""
        found = 0 if self.interval is None else self.interval.n
        planned = count(self.planned_units, "unit")
        return planned if found == self.planned_units else f"{found} of {planned}"

    @property
    def sentence(self) -> str:
        """The comparison in words, without a full stop."""
        if self.interval is None:
            return (
                f"No verdict on {self.arm}: no unit has both {self.arm} and {self.reference} evaluated after "
                f"RL step {self.rl_step}"
            )
        numbers = f"{interval_text(self.interval)} ({self.units_text})"
        if self.outcome != "undecided":
            return f"{self.arm} is {self.outcome} than {self.reference} after RL: {numbers}"
        if not math.isfinite(self.interval.low):
            hint = "one unit gives no interval, at least two are needed"
        elif self.settle is None:
            hint = "no number of units would settle a mean of 0"
        else:
            hint = f"at this spread about {self.settle} units would settle it"
        return f"Undecided: {self.arm} against {self.reference} after RL: {numbers}; {hint}"


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
    """The study's answer: one sentence, what to take to RL (None: undecided), and a verdict for each other arm."""

    sentence: str
    take: str | None
    outcome: Literal["decided", "undecided", "missing"]
    verdicts: tuple[Verdict, ...]
    checks: tuple[SanityCheck, ...]


def judge(study: Study) -> Judgment:
    """Every arm against the reference, and the sentence that sums them up."""
    verdicts = _verdicts(study)
    checks = _checks(study)
    sentence, take = _summary(study, verdicts)
    decided: Literal["undecided", "missing"] = (
        "undecided" if any(verdict.outcome != "missing" for verdict in verdicts) else "missing"
    )
    return Judgment(
        sentence=sentence, take=take, outcome="decided" if take else decided, verdicts=verdicts, checks=checks
    )


def _verdicts(study: Study) -> tuple[Verdict, ...]:
    step = study.last_rl_step
    if step is None or study.reference not in study.arms:
        return ()
    verdicts = []
    for arm in study.arms:
        if arm == study.reference:
            continue
        differences = list(study.paired(arm, step, METRIC).values())
        interval = interval_over(differences)
        verdicts.append(
            Verdict(
                arm=arm,
                reference=study.reference,
                rl_step=step,
                planned_units=len(study.units),
                interval=interval,
                settle=_settle(differences) if outcome_of(interval) == "undecided" else None,
            )
        )
    return tuple(verdicts)


def _settle(differences: list[float]) -> int | None:
    if len(differences) < 2:
        return None
    import numpy

    return units_to_settle(numpy.asarray(differences, dtype=numpy.float64))


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
    judged = [verdict for verdict in verdicts if verdict.interval is not None]
    if not judged:
        step = study.last_rl_step
        return f"No verdict yet: no unit has {study.reference} and another arm evaluated after RL step {step}.", None
    best = max(judged, key=lambda verdict: (verdict.outcome == "better", _mean(verdict)))
    if best.outcome == "better":
        others = [verdict.arm for verdict in judged if verdict.outcome == "better" and verdict is not best]
        more = ""
        if others:
            verb = "is" if len(others) == 1 else "are"
            more = f" {', '.join(others)} {verb} better than {study.reference} too; the largest mean is taken here."
        return f"{best.sentence}. Take {best.arm} to RL.{more}", best.arm
    if all(verdict.outcome == "worse" for verdict in verdicts):
        worst = "" if len(verdicts) == 1 else " So is every other arm."
        return f"{best.sentence}.{worst} Take {study.reference} to RL.", study.reference
    undecided = max((verdict for verdict in judged if verdict.outcome != "worse"), key=_mean, default=best)
    return f"{undecided.sentence}.", None


def _mean(verdict: Verdict) -> float:
    return -math.inf if verdict.interval is None else verdict.interval.value
