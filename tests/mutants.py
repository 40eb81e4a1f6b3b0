"""Breaks the code one line at a time; each break must turn a named test red.

`python tests/mutants.py` copies the package and the tests to a temporary folder, applies one break there, runs the
tests that should notice, and fails when one survives.
"""

import concurrent.futures
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """In `file`, `old` (which occurs once) becomes `new`; `tests` must fail."""

    file: str
    old: str
    new: str
    tests: str


MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        file="pear/ops/ratios.py",
        old="return in_float64(target) - in_float64(behavior)",
        new="return in_float64(behavior) - in_float64(target)",
        tests="tests/ops",
    ),
    Mutant(
        file="pear/ops/ratios.py",
        old="steps.clamp_(*log_ratio_clip)",
        new="steps.clamp_(-9.0, 9.0)",
        tests="tests/ops",
    ),
    Mutant(
        file="pear/ops/ratios.py",
        old="steps.add_(math.log(gamma))",
        new="steps.add_(-math.log(gamma))",
        tests="tests/ops",
    ),
    Mutant(
        file="pear/ops/ratios.py",
        old="            keep_bits(steps, kept)\n        if",
        new="        if",
        tests="tests/ops",
    ),
    Mutant(
        file="pear/ops/ratios.py",
        old="log_weights.clamp_(*log_weight_clip)",
        new="log_weights.clamp_(-99.0, 99.0)",
        tests="tests/ops",
    ),
    Mutant(
        file="pear/ops/ratios.py",
        old="result[at] = keep_bits(log_weights[at.start - first : at.stop - first], shown(at))",
        new="result[at] = log_weights[at.start - first : at.stop - first]",
        tests="tests/ops",
    ),
    Mutant(
        file="pear/ops/ratios.py",
        old="totals = sequences.at_end(prefix) - sequences.before_start(prefix)",
        new="totals = sequences.at_end(prefix)",
        tests="tests/ops",
    ),
    Mutant(
        file="pear/ops/ratios.py",
        old="prefix = steps.cumsum_(dim=0)\n    return torch.sub",
        new="prefix = steps.cumsum_(dim=0) - steps\n    return torch.sub",
        tests="tests/ops",
    ),
    Mutant(
        file="pear/ops/ratios.py",
        old="torch.add(prefix[starts[1:] - 1], ranks[1:]",
        new="torch.add(prefix[starts[1:]], ranks[1:]",
        tests="tests/ops",
    ),
    Mutant(
        file="pear/ops/ratios.py",
        old="prefix[starts[1:] - 1], ranks[1:], alpha=log_gamma",
        new="prefix[starts[1:] - 1], ranks[1:] - 1, alpha=log_gamma",
        tests="tests/ops",
    ),
    Mutant(
        file="pear/ops/ratios.py",
        old="suffix[(blocks_through - 1)[blocks_through > 0]] = 0.0",
        new="suffix[-1] = 0.0",
        tests="tests/ops",
    ),
    Mutant(
        file="pear/ops/ratios.py",
        old="shift = first - (blocks_through - num_blocks) * block_size",
        new="shift = first - (blocks_through - num_blocks) * block_size + 1",
        tests="tests/ops",
    ),
    Mutant(
        file="pear/ops/masking.py",
        old="flags[whole:].nonzero().squeeze(1) + whole",
        new="flags[whole:].nonzero().squeeze(1)",
        tests="tests/ops",
    ),
    Mutant(
        file="pear/ops/masking.py",
        old="yield first, end, Sequences(starts=self.starts[of_part] - first",
        new="yield first, end, Sequences(starts=self.starts[of_part]",
        tests="tests/ops",
    ),
    Mutant(
        file="pear/ops/losses.py",
        old="weights.detach(), 0.0",
        new="weights, 0.0",
        tests="tests/ops",
    ),
    Mutant(
        file="pear/ops/losses.py",
        old="return -keep_response",
        new="return keep_response",
        tests="tests/ops",
    ),
    Mutant(
        file="pear/ops/pass_at_k.py",
        old="1.0 - k / np.arange(n, 0, -1",
        new="1.0 - k / np.arange(n + 1, 1, -1",
        tests="tests/ops",
    ),
    Mutant(
        file="pear/objectives/objective.py",
        old="return weights.detach()",
        new="return weights",
        tests="tests/objectives",
    ),
    Mutant(
        file="pear/training/token_fields.py",
        old="name: columns[name][:, 1:] for name",
        new="name: columns[name][:, :-1] for name",
        tests="tests/training/test_sft_trainer.py",
    ),
    Mutant(
        file="pear/training/token_fields.py",
        old="segment_ids=None if segment_ids is None else segment_ids[:, 1:],\n            step=",
        new="segment_ids=None if segment_ids is None else segment_ids[:, 1:] * 0,\n            step=",
        tests="tests/training/test_sft_trainer.py",
    ),
    Mutant(
        file="pear/training/sft_trainer.py",
        old="return loss.per_token * weights.to(loss.per_token.dtype)",
        new="return loss.per_token",
        tests="tests/training/test_sft_trainer.py",
    ),
    Mutant(
        file="pear/tasks/extraction.py",
        old="if (count := completion.count(tag)) != 1:",
        new="if (count := completion.count(tag)) < 1:",
        tests="tests/tasks/test_contract.py",
    ),
    Mutant(
        file="pear/tasks/tiny/chain.py",
        old='final = str(advance(apply, problem.state["start"], problem.state["operations"]))',
        new='final = str(advance(apply, problem.state["start"], problem.state["operations"][1:]))',
        tests="tests/tasks/test_contract.py",
    ),
    Mutant(
        file="pear/runs.py",
        old="    if found != wanted:",
        new="    if False:",
        tests="tests/test_runs.py",
    ),
    Mutant(
        file="pear/tasks/problems.py",
        old="if digest not in seen and",
        new="if",
        tests="tests/tasks/test_problems.py",
    ),
    Mutant(
        file="pear/ops/geometry.py",
        old=".double().abs() < epsilon",
        new=".double().abs() <= epsilon",
        tests="tests/ops/test_geometry.py",
    ),
    Mutant(
        file="pear/ops/geometry.py",
        old="size = float(sigma_before.double().norm())",
        new="size = float(sigma_after.double().norm())",
        tests="tests/ops/test_geometry.py",
    ),
    Mutant(
        file="pear/ops/geometry.py",
        old="vectors[:, -k:].flip(1)",
        new="vectors[:, :k].flip(1)",
        tests="tests/ops/test_geometry.py",
    ),
    Mutant(
        file="pear/ops/majority.py",
        old="(offset < votes)",
        new="(offset <= votes)",
        tests="tests/ops/test_majority.py",
    ),
    Mutant(
        file="pear/ops/ranks.py",
        old="else -signal",
        new="else signal",
        tests="tests/ops/test_ranks.py",
    ),
    Mutant(
        file="pear/ops/statistics.py",
        old="1.0 - acceleration * shifted",
        new="1.0 + acceleration * shifted",
        tests="tests/ops/test_statistics.py",
    ),
    Mutant(
        file="pear/ops/statistics.py",
        old="np.maximum.accumulate(np.minimum",
        new="np.asarray(np.minimum",
        tests="tests/ops/test_statistics.py",
    ),
    Mutant(
        file="pear/ops/statistics.py",
        old="limit - (spread - now)",
        new="limit - spread",
        tests="tests/ops/test_needed.py",
    ),
    Mutant(
        file="pear/objectives/single_step.py",
        old="log_ratio_clip=self.log_ratio_clip).exp()",
        new="log_ratio_clip=(-9.0, 9.0)).exp()",
        tests="tests/objectives",
    ),
    Mutant(
        file="pear/analysis/weight_drift.py",
        old='if row["kind"] == "linear"]\n    means',
        new='if row["kind"] != "other"]\n    means',
        tests="tests/analysis/test_weight_drift.py",
    ),
    Mutant(
        file="pear/analysis/divergence.py",
        old='direction="before || after"',
        new='direction="after || before"',
        tests="tests/analysis/test_divergence.py",
    ),
    Mutant(
        file="pear/analysis/token_weights.py",
        old='for name in ("before", "behavior")',
        new='for name in ("after", "behavior")',
        tests="tests/analysis/test_token_weights.py",
    ),
    Mutant(
        file="pear/analysis/forward.py",
        old="len(prompt) + start - 1",
        new="len(prompt) + start",
        tests="tests/analysis/test_divergence.py",
    ),
    Mutant(
        file="pear/training/gradients.py",
        old="total / self.steps",
        new="total",
        tests="tests/stages/test_gradients.py",
    ),
    Mutant(
        file="pear/stages/outcomes.py",
        old='"unparsable": (answers < 0)',
        new='"unparsable": (answers <= 0)',
        tests="tests/stages/test_evaluate.py",
    ),
    Mutant(
        file="pear/stages/evaluate.py",
        old="2 * largest > samples",
        new="largest > samples",
        tests="tests/stages/test_evaluate.py",
    ),
    Mutant(
        file="pear/tasks/extraction.py",
        old="_, opened, text = (closed or completion).rpartition",
        new="_, opened, text = (closed or completion).partition",
        tests="tests/tasks/test_contract.py",
    ),
    Mutant(
        file="pear/tasks/synlogic/survo.py",
        old="if sorted(placed) != numbers:",
        new="if False:",
        tests="tests/tasks/test_survo.py",
    ),
    Mutant(
        file="pear/tasks/synlogic/survo.py",
        old="elif given != value:",
        new="elif False:",
        tests="tests/tasks/test_survo.py",
    ),
    Mutant(
        file="pear/training/rewards.py",
        old="float(verdict.by(tags).correct)",
        new="float(verdict.well_formed)",
        tests="tests/training/test_rewards.py",
    ),
    Mutant(
        file="pear/study/probe.py",
        old="mean >= ranked[count - 1]",
        new="mean > ranked[count - 1]",
        tests="tests/study/test_probe.py",
    ),
    Mutant(
        file="pear/study/nodes.py",
        old="_SET_BY_STUDY[stage].intersection(given)",
        new="_SET_BY_STUDY[stage].intersection(())",
        tests="tests/study/test_plan.py",
    ),
    Mutant(
        file="pear/study/nodes.py",
        old="self.ids.keys() & others.ids.keys()",
        new="self.ids.keys() - self.ids.keys()",
        tests="tests/study/test_plan.py",
    ),
    Mutant(
        file="pear/report/results/verdict.py",
        old="holm(list(p_values.values()))",
        new="list(p_values.values())",
        tests="tests/report/test_verdict.py",
    ),
    Mutant(
        file="pear/objectives/composed.py",
        old="return named(self.weighting_of, self.weighting_kwargs).weighting()",
        new="return named(self.base_of, self.base_kwargs).weighting()",
        tests="tests/objectives/test_family.py",
    ),
    Mutant(
        file="pear/objectives/step.py",
        old="    start = sum(sizes[:place])",
        new="    start = 0",
        tests="tests/objectives/test_options.py",
    ),
    Mutant(
        file="pear/objectives/step.py",
        old="segments.append(ids[mask.reshape(-1)].cpu() + number)",
        new="segments.append(ids[mask.reshape(-1)].cpu())",
        tests="tests/objectives/test_controls.py",
    ),
    Mutant(
        file="pear/objectives/step.py",
        old="        own = own[size:]\n",
        new="",
        tests="tests/objectives/test_controls.py",
    ),
    Mutant(
        file="pear/objectives/controls.py",
        old="following[ends - 1] = ends - sizes",
        new="following[ends - 1] = ends - 1",
        tests="tests/objectives/test_controls.py",
    ),
    Mutant(
        file="pear/objectives/controls.py",
        old="weights=weights[mask]) / torch.bincount(distance[mask])",
        new="weights=weights[mask])",
        tests="tests/objectives/test_controls.py",
    ),
    Mutant(
        file="pear/objectives/controls.py",
        old="in_float64(distance < self.tokens)",
        new="in_float64(distance <= self.tokens)",
        tests="tests/objectives/test_controls.py",
    ),
    Mutant(
        file="pear/objectives/negatives.py",
        old="pushed = -self.negative_weight *",
        new="pushed = self.negative_weight *",
        tests="tests/objectives/test_negatives.py",
    ),
    Mutant(
        file="pear/objectives/negatives.py",
        old="pushed * (counts.num_tokens / max(counts.num_negative_tokens, 1))",
        new="pushed",
        tests="tests/objectives/test_negatives.py",
    ),
    Mutant(
        file="pear/objectives/negatives.py",
        old="(-batch.log_probs.detach() > self.release)",
        new="(-batch.log_probs.detach() < self.release)",
        tests="tests/objectives/test_negatives.py",
    ),
    Mutant(
        file="pear/ops/tempering.py",
        old="(total.square() / (counts.sum() * squares))",
        new="(total / (counts.sum() * squares))",
        tests="tests/ops/test_tempering.py",
    ),
    Mutant(
        file="pear/ops/tempering.py",
        old="_share(values, counts, middle) >= wanted",
        new="_share(values, counts, middle) < wanted",
        tests="tests/ops/test_tempering.py",
    ),
    Mutant(
        file="pear/ops/tempering.py",
        old="weights = (values * exponent).exp()",
        new="weights = values.exp()",
        tests="tests/ops/test_tempering.py",
    ),
    Mutant(
        file="pear/stages/rescale.py",
        old="return self.wanted / self.own",
        new="return self.own / self.wanted",
        tests="tests/stages/test_rescale.py",
    ),
    Mutant(
        file="pear/stages/rescale.py",
        old="return (start + prepared.scale *",
        new="return (start - prepared.scale *",
        tests="tests/stages/test_rescale.py",
    ),
    Mutant(
        file="pear/study/plan.py",
        old='"norm_of": self._sft(matched, other, unit, buffer)',
        new='"norm_of": sft',
        tests="tests/study/test_matched_norm.py",
    ),
    Mutant(
        file="pear/report/sources/reading.py",
        old="    if found != wanted:\n",
        new="    if found is None:\n",
        tests="tests/report/test_rows.py",
    ),
    Mutant(
        file="pear/analysis/tables.py",
        old="if not files.has(name):",
        new="if not (parts / name).is_file():",
        tests="tests/analysis/test_weight_drift.py",
    ),
    Mutant(
        file="pear/training/token_fields.py",
        old="step_weights=prepared.step_weights,",
        new="step_weights=None,",
        tests="tests/training/test_every_objective.py",
    ),
    Mutant(
        file="pear/training/token_fields.py",
        old='mask = inputs["labels"][:, 1:] != -100',
        new='mask = inputs["labels"][:, :-1] != -100',
        tests="tests/training/test_every_objective.py",
    ),
    Mutant(
        file="pear/training/token_fields.py",
        old="tokens = hidden[:, :-1][mask]",
        new="tokens = hidden[:, 1:][mask]",
        tests="tests/training/test_every_objective.py",
    ),
    Mutant(
        file="pear/objectives/step.py",
        old="segments.append(ids[mask.reshape(-1)].cpu() + number)",
        new="segments.append(ids[mask.reshape(-1)].cpu())",
        tests="tests/objectives",
    ),
    Mutant(
        file="pear/objectives/step.py",
        old="return weights * (counts.num_tokens / total)",
        new="return weights * (total / counts.num_tokens)",
        tests="tests/training/test_every_objective.py",
    ),
    Mutant(
        file="pear/training/refusals.py",
        old='if normalizer != "tokens" and "is_negative" in objective.requires:',
        new='if normalizer == "weights" and "is_negative" in objective.requires:',
        tests="tests/training/test_sft_errors.py",
    ),
    Mutant(
        file="pear/training/divergence.py",
        old="others.logsumexp(-1) - total",
        new="others.logsumexp(-1)",
        tests="tests/training/test_divergence.py",
    ),
    Mutant(
        file="pear/ops/diagnostics.py",
        old="shared = self.tokens_at_distance > 1",
        new="shared = self.tokens_at_distance > 0",
        tests="tests/ops/test_diagnostics.py",
    ),
    Mutant(
        file="pear/tasks/synlogic/cryptarithm.py",
        old="if len(pairs) != len({digit for _, digit in pairs}):",
        new="if not pairs:",
        tests="tests/tasks/synlogic/test_cryptarithm.py",
    ),
    Mutant(
        file="pear/tasks/synlogic/cryptarithm.py",
        old='return "" if _compute(left, operators) == right else "the equation does not hold"',
        new='return ""',
        tests="tests/tasks/synlogic/test_cryptarithm.py",
    ),
    Mutant(
        file="pear/tasks/synlogic/norinori.py",
        old="if any(count != 2 for count in counts.values()):",
        new="if any(count > 2 for count in counts.values()):",
        tests="tests/tasks/synlogic/test_norinori.py",
    ),
    Mutant(
        file="pear/tasks/synlogic/norinori.py",
        old="if counts.pop(_SHADOW, 0) != shadows:",
        new="if counts.pop(_SHADOW, 0) > shadows:",
        tests="tests/tasks/synlogic/test_norinori.py",
    ),
    Mutant(
        file="pear/tasks/synlogic/boolean_expressions.py",
        old='"" if labels == true else "a true option is missing"',
        new='""',
        tests="tests/tasks/synlogic/test_boolean_expressions.py",
    ),
    Mutant(
        file="pear/tasks/synlogic/numbrix.py",
        old="if sorted(place_of) != list(range(1, rows * columns + 1)):",
        new="if not place_of:",
        tests="tests/tasks/synlogic/test_numbrix.py",
    ),
    Mutant(
        file="pear/tasks/reasoning_gym.py",
        old='"" if score == 1.0 else "the answer is wrong"',
        new='"" if score > 0.5 else "the answer is wrong"',
        tests="tests/tasks/test_reasoning_gym.py",
    ),
    Mutant(
        file="pear/tasks/synlogic/star_placement_puzzle.py",
        old='        return "two stars touch each other"',
        new='        return ""',
        tests="tests/tasks/synlogic/test_star_placement_puzzle.py",
    ),
    Mutant(
        file="pear/tasks/synlogic/wordscapes.py",
        old='                return "letters do not stand where the X are"',
        new='                return ""',
        tests="tests/tasks/synlogic/test_wordscapes.py",
    ),
    Mutant(
        file="pear/ops/spans.py",
        old="means /= torch.bincount(span)",
        new="means /= 1",
        tests="tests/ops/test_spans.py",
    ),
    Mutant(
        file="pear/ops/spans.py",
        old="is_end = (rank[last] + 1) // block_size > rank[first] // block_size",
        new="is_end = (rank[last] + 1) % block_size == 0",
        tests="tests/ops/test_spans.py",
    ),
    Mutant(
        file="pear/ops/spans.py",
        old="is_end |= torch.cat([rank[first[1:]] == 0, is_end.new_ones(1)])",
        new="is_end[-1] = True",
        tests="tests/ops/test_spans.py",
    ),
    Mutant(
        file="pear/data/alignment.py",
        old="values += [math.fsum(log_probs[start : start + own]), *[0.0] * (other - 1)]",
        new="values += [*[0.0] * (other - 1), log_probs[start]]",
        tests="tests/data/test_alignment.py",
    ),
    Mutant(
        file="pear/training/sft_data.py",
        old="if BEHAVIOR in needs.columns and needs.token_ratios and",
        new="if BEHAVIOR in needs.columns and not needs.columns and",
        tests="tests/stages/test_score_align.py",
    ),
    Mutant(
        file="pear/stages/cross_fitting.py",
        old="if own != fold]\n            args",
        new="if own >= 0]\n            args",
        tests="tests/stages/test_score_estimate.py",
    ),
)


def survives(mutant: Mutant) -> bool:
    """Whether the named tests still pass with the break in place. Ends where they could not be run at all."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("pear", "tests", "recipes"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        path = copy / mutant.file
        path.write_text(path.read_text().replace(mutant.old, mutant.new))
        result = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not slow and not gpu", mutant.tests],
            cwd=copy,
            env={**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    if result.returncode not in (0, 1, 2):  # passed, failed, or broken so much that it cannot be imported
        sys.exit(f"{mutant.file}: {mutant.tests} could not be run.\n{result.stdout}{result.stderr}")
    return result.returncode == 0


def occurrences(mutant: Mutant) -> int:
    """How often the text that the mutant replaces is in its file."""
    return (ROOT / mutant.file).read_text().count(mutant.old)


def main() -> None:
    for mutant in MUTANTS:
        if (count := occurrences(mutant)) != 1:
            sys.exit(f"{mutant.file}: the text {mutant.old!r} occurs {count} times, expected once.")
    with concurrent.futures.ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        outcomes = list(pool.map(survives, MUTANTS))
    for mutant, alive in zip(MUTANTS, outcomes, strict=True):
        print(f"{'SURVIVED' if alive else 'killed':9} {mutant.file}: {mutant.old.strip()!r} -> {mutant.new.strip()!r}")
    print(f"{outcomes.count(False)} of {len(MUTANTS)} killed")
    sys.exit(any(outcomes))


if __name__ == "__main__":
    main()
