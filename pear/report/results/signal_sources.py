"""The signals of a checkpoint: where a study has each of them, which direction counts as better, what it costs.

A signal is one number of an SFT checkpoint, known before RL or from RL's first steps.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from pear.report.results.verdict import METRIC
from pear.report.sources.reading import number
from pear.report.sources.rows import Study, Unit

EARLY_SHARE = 0.1
"""The share of RL's steps that a signal may use and still be called cheap."""

Read = Callable[[Study, str, Unit], float | None]


@dataclass(frozen=True, kw_only=True)
class Signal:
    """A number of a checkpoint.

    Args:
        name: in tables and file names.
        title: on the page; `unit` says what the number is in.
        higher_is_better: the direction that the comparison assumes.
        convention: why, where the direction is a convention and not part of what the number is.
        cost: what it takes to have it, beside the SFT that is there anyway.
        read: the value of one (arm, unit), or None where it is missing.
        advice: what makes a study have it.
        cheap: whether it needs at most `EARLY_SHARE` of RL.
    """

    name: str
    title: str
    unit: str
    higher_is_better: bool
    cost: str
    read: Read
    advice: str
    convention: str = ""
    cheap: bool = True


def signals_of(study: Study) -> list[Signal]:
    """Every signal, with what this study's settings say about it: its largest k, its group size, its RL steps."""
    return [
        *_evaluated(study),
        _in_analysis(
            study,
            "divergence",
            "divergence/nll",
            name="held_out_nll",
            title="Held-out NLL",
            unit="nats a token of calibration trajectories",
            higher_is_better=False,
            cost="a forward pass",
        ),
        _in_analysis(
            study,
            "divergence",
            "divergence/forward_kl",
            name="forward_kl",
            title="Forward KL to the base",
            unit="nats a token, KL(base || checkpoint)",
            higher_is_better=False,
            cost="two forward passes",
            convention=_CONSERVATIVE,
        ),
        *_drifts(study),
        Signal(
            name="effective_sample_size",
            title="Effective sample size",
            unit="share of the target tokens, mean over SFT",
            higher_is_better=True,
            cost="none: the SFT log",
            read=_logged("sft", "weights/effective_sample_size"),
            advice="Logged by `pear sft` with every objective; the logs of these runs are missing.",
            convention="A higher effective sample size counts as better: the weights then lean on more of the data.",
        ),
        _rotation(study),
        *_grpo(study),
    ]


_CONSERVATIVE = (
    "Staying close to the base (a smaller KL, a sparser update, a smaller shift) counts as better, as these signals "
    "are meant; the paper found the opposite (Appendix G), which would be a negative correlation here."
)


def _rotation(study: Study) -> Signal:
    """Its pilot of GRPO is part of its cost: in a short RL that is more than a cheap signal may use."""
    found = (study.analysis("gradient_rotation", arm, unit, 0) or {} for arm in study.arms for unit in study.units)
    steps = max((number(metrics.get("gradients/steps")) or 0 for metrics in found), default=0)
    share = steps / study.last_rl_step if study.last_rl_step else 0.0
    cost = f"{steps:.0f} steps of SFT and of GRPO ({100 * share:.0f}% of RL)" if steps else "steps of SFT and of GRPO"
    return _in_analysis(
        study,
        "gradient_rotation",
        "gradients/rotation_degrees",
        name="gradient_rotation",
        title="Gradient rotation",
        unit="degrees between offline and GRPO gradients",
        higher_is_better=False,
        cost=cost,
        convention="A smaller rotation counts as better, as in the paper's Figure 7: SFT pushes where GRPO will.",
        cheap=share <= EARLY_SHARE,
    )


def early_steps(study: Study) -> int:
    """How many of RL's first steps cost `EARLY_SHARE` of it: at least one."""
    return max(1, int(EARLY_SHARE * (study.last_rl_step or 0)))


def group_size(study: Study) -> int | None:
    """RL's completions per prompt: from a run's own record, or as the study file has it."""
    records = [node.manifest.get("config", {}) for node in study.nodes if node.stage == "grpo" and node.manifest]
    found = [record["group_size"] for record in [*records, study.config.get("rl") or {}] if "group_size" in record]
    return int(found[0]) if found else None


def analyzed(study: Study, analysis: str, key: str, arm: str, unit: Unit, rl_step: int = 0) -> float | None:
    """A number of an analysis: of base to SFT checkpoint, or with the last `rl_step` of SFT to RL checkpoint."""
    entry = (study.analysis(analysis, arm, unit, rl_step) or {}).get(key)
    return number(entry.get("value") if isinstance(entry, Mapping) else entry)


def _evaluated(study: Study) -> Iterable[Signal]:
    def evaluation(name: str, metric: str, title: str, advice: str) -> Signal:
        return Signal(
            name=name,
            title=title,
            unit="share of the evaluation problems",
            higher_is_better=True,
            cost="an evaluation",
            read=lambda study, arm, unit: study.value(arm, unit, 0, metric),
            advice=advice,
        )

    yield evaluation("pass_at_1", METRIC, f"{METRIC} after SFT", "Every study evaluates after SFT; that is missing.")
    largest = study.pass_metrics[-1] if study.pass_metrics else METRIC
    more = "Set `evaluate.k` to several values, such as [1, 8], and `evaluate.samples` to at least twice the largest."
    if largest == METRIC:
        yield evaluation("pass_at_large_k", "pass@k", "pass@large-k after SFT", more)
    else:
        yield evaluation("pass_at_large_k", largest, f"{largest} after SFT", more)
    again = (
        "These evaluations were made before `pear evaluate` reported maj@n: run the study again, only they are redone."
    )
    yield evaluation("majority_vote", "maj@n", "Majority vote after SFT", again)


def _in_analysis(
    study: Study,
    analysis: str,
    key: str,
    *,
    name: str,
    title: str,
    unit: str,
    higher_is_better: bool,
    cost: str,
    convention: str = "",
    cheap: bool = True,
) -> Signal:
    return Signal(
        name=name,
        title=title,
        unit=unit,
        higher_is_better=higher_is_better,
        cost=cost,
        read=lambda study, arm, unit: analyzed(study, analysis, key, arm, unit),
        advice=_PLANNED if analysis in study.analyses else f"Add `{analysis}` to the study file's `analyze.analyses`.",
        convention=convention,
        cheap=cheap,
    )


_PLANNED = "It is planned, but none of its runs is complete."


def _drifts(study: Study) -> Iterable[Signal]:
    yield _in_analysis(
        study,
        "weight_drift",
        "drift/sparsity",
        name="sparsity",
        title="Update sparsity",
        unit="share of weights moved by less than 1e-5",
        higher_is_better=True,
        cost="reading the weights",
        convention=_CONSERVATIVE,
    )
    yield _in_analysis(
        study,
        "weight_drift",
        "drift/sparsity_bf16",
        name="sparsity_bf16",
        title="Sparsity, bf16-aware",
        unit="share of weights moved by less than 0.1%",
        higher_is_better=True,
        cost="reading the weights",
        convention=_CONSERVATIVE,
    )
    yield _in_analysis(
        study,
        "weight_drift",
        "drift/spectrum_shift",
        name="spectrum_shift",
        title="Spectrum shift (NSS)",
        unit="change of singular values, base to SFT",
        higher_is_better=False,
        cost="singular values",
        convention=_CONSERVATIVE,
    )


def _grpo(study: Study) -> Iterable[Signal]:
    steps, total = early_steps(study), study.last_rl_step or 0
    first = f"first {steps} of {total} RL steps"
    share = f"{100 * steps / total:.0f}% of RL" if total else "a start of RL"
    cheap = steps <= EARLY_SHARE * total
    size = group_size(study)
    yield Signal(
        name="mixed_outcomes",
        title="Mixed-outcome RL prompts",
        unit="share of groups" + (f" of {size}" if size else "") + " that are mixed",
        higher_is_better=True,
        cost="an evaluation on RL's prompts",
        read=_mixed_share,
        advice=_PLANNED
        if any(use.role == "rl_signal" for node in study.nodes for use in node.uses)
        else "Give the study file an `analyze` block, with `rl_signal_problems` above 0.",
    )
    for name, key, title, unit, convention in (
        ("entropy", "rl/entropy", "Entropy as RL begins", "nats a token", _EXPLORES),
        ("early_reward", "rl/reward", "Reward as RL begins", "mean reward", ""),
    ):
        yield Signal(
            name=name,
            title=title,
            unit=f"{unit}, {first}",
            higher_is_better=True,
            cost=share,
            read=_logged("grpo", key, steps),
            advice=f"`pear grpo` logs {key}; the logs of these runs are missing or do not have it.",
            convention=convention,
            cheap=cheap,
        )
    yield _probe(study)


_EXPLORES = "A higher entropy counts as better: RL can only reinforce what is sampled."


def _probe(study: Study) -> Signal:
    """pass@1 after the longest cheap part of RL; where none was evaluated, after the first part that was."""
    total = study.last_rl_step or 0
    before_the_end = [step for step in study.rl_steps if 0 < step < total]
    cheap = [step for step in before_the_end if step <= EARLY_SHARE * total]
    step = cheap[-1] if cheap else next(iter(before_the_end), None)
    share = EARLY_SHARE if step is None else step / total
    return Signal(
        name="grpo_probe",
        title="GRPO probe",
        unit=METRIC if step is None else f"{METRIC} after {step} of {total} RL steps",
        higher_is_better=True,
        cost=f"{100 * share:.0f}% of RL",
        read=lambda study, arm, unit: None if step is None else study.value(arm, unit, step, METRIC),
        advice=f"Add {early_steps(study)} to `evaluate.at_rl_steps`, or run `pear study --probe`.",
        cheap=share <= EARLY_SHARE,
    )


def _logged(role: str, key: str, steps: int | None = None) -> Read:
    """The mean of a logged metric over a run, or over its first `steps`."""

    def read(study: Study, arm: str, unit: Unit) -> float | None:
        series = study.series(role, arm, key).get(unit, [])
        values = [value for step, value in series if steps is None or step <= steps]
        return sum(values) / len(values) if values else None

    return read


def _mixed_share(study: Study, arm: str, unit: Unit) -> float | None:
    """The chance that a group of RL's size has right and wrong answers, mean over RL's prompts."""
    from pear.ops.pass_at_k import mixed_at_k

    outcomes, size = study.rl_signal(arm, unit), group_size(study)
    if outcomes is None or size is None or outcomes.correct.shape[1] < size:
        return None
    return float(mixed_at_k(outcomes.correct, size).mean())
