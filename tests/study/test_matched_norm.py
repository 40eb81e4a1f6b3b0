"""An arm at the update norm of another arm: its place in the graph, what is refused, and a run on scripted stages."""

from pathlib import Path
from typing import Any

import pytest

from pear.errors import UserError
from pear.report.sources.rows import read_study
from pear.report.tables.paper_tables import objective_table
from tests.study.test_plan import node_of, plan_of, stages
from tests.study.test_probe import SCORES, Script, ran, run_scripted, script  # noqa: F401, the fixture

MATCHED = {"objective": "nll", "match_update_norm": "pear_token"}


@pytest.fixture
def matched(values: dict[str, Any]) -> dict[str, Any]:
    """The study of the other tests with plain SFT at PEAR's distance from the base, before PEAR in the file."""
    values["arms"] = {"nll": {"objective": "nll"}, "nll_matched": MATCHED, **values["arms"]}
    return values


def test_all_that_comes_after_sft_starts_from_the_scaled_model(matched: dict[str, Any], tmp_path: Path) -> None:
    plan = plan_of(matched, tmp_path)
    # 2 units. Plain SFT is one node for both of its arms.
    assert stages(plan) == {"collect": 1, "sft": 4, "rescale": 2, "grpo": 8, "evaluate": 2 + 6 + 16}
    position = {node.id: index for index, node in enumerate(plan.nodes)}
    assert all(position[needed] < position[node.id] for node in plan.nodes for needed in node.depends)
    for seed in (0, 1):
        unit = {"base": f"{tmp_path}/models/base_{seed}", "seed": seed}
        plain, other = (node_of(plan, role="sft", arm=arm, **unit) for arm in ("nll", "pear_token"))
        assert node_of(plan, role="sft", arm="nll_matched", **unit) == plain
        rescale = node_of(plan, role="rescale", arm="nll_matched", **unit)
        assert rescale.depends == (plain.id, other.id)
        assert rescale.config.base == unit["base"]
        assert rescale.config.model == str(plain.directory)
        assert rescale.config.norm_of == str(other.directory)
        assert rescale.label == f"rescale nll_matched base_{seed} seed {seed} to the norm of pear_token"
        after_sft = node_of(plan, role="eval", arm="nll_matched", rl_step=0, **unit)
        grpo = node_of(plan, role="grpo", arm="nll_matched", **unit)
        assert after_sft.depends == grpo.depends == (rescale.id,)
        assert after_sft.config.model == grpo.config.model == str(rescale.directory)
        assert node_of(plan, role="grpo", arm="nll", **unit).config.model == str(plain.directory)
    # RL is the same for it as for the others.
    del matched["arms"]["nll_matched"]
    assert plan_of(matched, tmp_path).digests == plan.digests


def test_analyses_are_of_the_scaled_model(matched: dict[str, Any], tmp_path: Path) -> None:
    matched["seeds"] = [0]
    matched["analyze"] = {"calibration": {"problems": [{"task": "tiny/affine_chain", "level": "n4", "split": "dev",
                                                        "size": 4}]}}  # fmt: skip
    plan = plan_of(matched, tmp_path)
    scaled = str(node_of(plan, role="rescale", arm="nll_matched").directory)
    of_arm = {"role": "analysis", "arm": "nll_matched"}
    for name in ("weight_drift", "divergence", "token_weights"):
        assert node_of(plan, **of_arm, rl_step=0, analysis=name).config.after == scaled
    assert node_of(plan, **of_arm, rl_step=6, analysis="weight_drift").config.before == scaled
    rotation = node_of(plan, **of_arm, rl_step=0, analysis="gradient_rotation").config
    assert rotation.before == scaled
    assert rotation.settings["objective"] == "nll"
    assert rotation.settings["sft"]["max_steps"] == 4
    assert node_of(plan, role="rl_signal", arm="nll_matched").config.model == scaled


def test_every_arm_of_a_sweep_is_matched(matched: dict[str, Any], tmp_path: Path) -> None:
    matched["arms"]["nll_matched"] = {**MATCHED, "sweep": {"sft.trainer.max_steps": [2, 3]}}
    plan = plan_of(matched, tmp_path)
    assert stages(plan)["rescale"] == 4
    assert len({use.arm for node in plan.nodes for use in node.uses if use.role == "rescale"}) == 2


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("pear_tokne", "Did you mean 'pear_token'?"),
        ("nll_matched", "names the arm itself"),
        ("direct", "direct has no SFT, so no update"),
        ("again", "again is itself matched to pear_token. Name that arm."),
    ],
)
def test_mistakes_are_one_sentence(matched: dict[str, Any], tmp_path: Path, other: str, message: str) -> None:
    matched["arms"]["again"] = MATCHED
    matched["arms"]["nll_matched"] = {**MATCHED, "match_update_norm": other}
    with pytest.raises(UserError, match=r"^arms\.nll_matched\.match_update_norm: ") as caught:
        plan_of(matched, tmp_path)
    assert message in str(caught.value)


def test_an_arm_is_matched_to_one_that_a_probe_dropped(
    matched: dict[str, Any],
    tmp_path: Path,
    script: Script,  # noqa: F811
) -> None:
    """Its SFT is there all the same, and the report names the other arm."""
    matched.update(seeds=[0], probe={"share": 0.5, "keep": 0.3}, reference="nll_matched")
    script(scores={**SCORES, "pear_token/0.9": 0.0})
    assert run_scripted(matched, tmp_path / "study").exit_code == 0
    lines = ran(tmp_path)
    assert "rescale nll base_0" in lines
    assert not any(line.startswith("grpo pear_token/0.9") and line.endswith(" 6") for line in lines)
    study = read_study(tmp_path / "study")
    rescale = study.node("rescale", "nll_matched", study.units[0])
    assert rescale is not None
    assert rescale.status == "complete"
    table = objective_table(study)
    assert table is not None
    losses = {row.heading.text: row.cells[1].text for row in table.grid.rows}
    assert losses["nll_matched"].endswith("; then its update is scaled to the norm of that of pear_token")
    assert "scaled" not in losses["nll"]
