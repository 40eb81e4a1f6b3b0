"""From a study file to its nodes: what is shared, what is refused, what changes a key."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pear.errors import UserError
from pear.study.config import StudyConfig, merged
from pear.study.graph import Node
from pear.study.nodes import derived_seed
from pear.study.plan import Plan, make_plan
from tests.study.conftest import make_model


def plan_of(values: dict[str, Any], tmp_path: Path) -> Plan:
    return make_plan(StudyConfig.parse(values, source="test"), tmp_path / "study")


def stages(plan: Plan) -> Counter[str]:
    return Counter(node.stage for node in plan.nodes)


def node_of(plan: Plan, **wanted: Any) -> Node:
    found = [
        node
        for node in plan.nodes
        if any(all(getattr(use, key) == value for key, value in wanted.items()) for use in node.uses)
    ]
    assert len(found) == 1
    return found[0]


def test_the_nodes_of_a_study(values: dict[str, Any], tmp_path: Path) -> None:
    plan = plan_of(values, tmp_path)
    # 2 units. SFT: 2 arms. RL: 3 arms. Evaluated: 2 bases, 2 x 2 after SFT, 3 x 2 after RL at 2 steps each.
    assert stages(plan) == {"collect": 1, "sft": 4, "grpo": 6, "evaluate": 2 + 4 + 12}
    position = {node.id: index for index, node in enumerate(plan.nodes)}
    assert all(position[needed] < position[node.id] for node in plan.nodes for needed in node.depends)
    assert not (tmp_path / "study").exists()


def test_inputs_go_from_stage_to_stage(values: dict[str, Any], tmp_path: Path) -> None:
    plan = plan_of(values, tmp_path)
    unit = {"base": f"{tmp_path}/models/base_1", "seed": 1}
    sft = node_of(plan, role="sft", arm="pear_token", **unit)
    grpo = node_of(plan, role="grpo", arm="pear_token", **unit)
    after_sft, early, final = (node_of(plan, role="eval", arm="pear_token", rl_step=step, **unit) for step in (0, 2, 6))
    collect = node_of(plan, role="collect")
    assert sft.depends == (collect.id,)
    assert sft.config.model == unit["base"]
    assert sft.config.buffer == str(collect.directory)
    assert sft.config.objective == "pear_token"
    assert sft.config.objective_kwargs == {"gamma": 0.9}
    assert grpo.config.model == after_sft.config.model == str(sft.directory)
    assert grpo.config.checkpoint_steps == [2]
    assert early.config.model == f"{grpo.directory}/checkpoint-2"
    assert final.config.model == str(grpo.directory)
    assert early.depends == final.depends == (grpo.id,)
    assert final.config.k == [1, 4]
    assert final.config.output_dir == final.directory == tmp_path / "study" / "runs" / final.id


def test_without_sft_rl_starts_from_the_base(values: dict[str, Any], tmp_path: Path) -> None:
    plan = plan_of(values, tmp_path)
    base = node_of(plan, role="eval", arm=None, seed=0)
    assert base == node_of(plan, role="eval", arm="direct", rl_step=0, seed=0)
    assert node_of(plan, role="grpo", arm="direct", seed=0).config.model == f"{tmp_path}/models/base_0"


def test_seeds_follow_from_the_unit_and_the_stage_alone(values: dict[str, Any], tmp_path: Path) -> None:
    plan = plan_of(values, tmp_path)
    for role in ("sft", "grpo"):
        for seed in (0, 1):
            found = {
                node.config.seed
                for node in plan.nodes
                if node.stage == role and any(use.seed == seed for use in node.uses)
            }
            assert found == {derived_seed(seed, role)}
    assert len({derived_seed(seed, stage) for seed in range(50) for stage in ("sft", "grpo")}) == 100


def test_a_list_of_bases_is_multiplied_with_the_seeds(values: dict[str, Any], tmp_path: Path, models: Path) -> None:
    values["base"] = [f"{models}/base_0", f"{models}/base_1"]
    plan = plan_of(values, tmp_path)
    assert stages(plan) == {"collect": 1, "sft": 8, "grpo": 12, "evaluate": 2 + 8 + 24}
    base = node_of(plan, role="eval", arm=None, base=f"{models}/base_0", seed=0)
    assert {use.seed for use in base.uses} == {0, 1}


def test_equal_arms_are_one_node(values: dict[str, Any], tmp_path: Path) -> None:
    values["arms"]["again"] = {"objective": "nll"}
    plan = plan_of(values, tmp_path)
    assert stages(plan)["sft"] == 4
    assert node_of(plan, role="sft", arm="again", seed=0) == node_of(plan, role="sft", arm="nll", seed=0)


def test_models_can_be_made_by_the_study(values: dict[str, Any], tmp_path: Path) -> None:
    problems = [{"task": "tiny/affine_chain", "level": "n2", "split": "sft", "size": 4}]
    values["base"] = {"pretrain": {"problems": problems}}
    values["behavior"]["model"] = {"pretrain": {"problems": problems, "hidden_size": 96}}
    plan = plan_of(values, tmp_path)
    assert stages(plan)["pretrain"] == 3
    pretrain = node_of(plan, role="pretrain", base="base_1")
    assert node_of(plan, role="sft", arm="nll", seed=1).depends[0] == pretrain.id
    assert node_of(plan, role="collect").depends == (node_of(plan, role="pretrain", base="behavior").id,)


def test_without_arms_models_are_made_and_evaluated(values: dict[str, Any], tmp_path: Path) -> None:
    problems = [{"task": "tiny/affine_chain", "level": "n2", "split": "sft", "size": 4}]
    values = {
        "name": "bases",
        "base": {"pretrain": {"problems": problems}},
        "behavior": {"model": {"pretrain": {"problems": problems, "hidden_size": 96}}},
        "tasks": {"eval": values["tasks"]["eval"]},
        "seeds": [0, 1],
        "evaluate": {"samples": 4, "k": [1]},
    }
    plan = plan_of(values, tmp_path)
    assert stages(plan) == {"pretrain": 3, "evaluate": 3}
    assert set(plan.digests) == {"evaluation"}


def test_what_changes_a_key_and_what_does_not(values: dict[str, Any], tmp_path: Path, models: Path) -> None:
    before = {node.id for node in plan_of(values, tmp_path).nodes}

    def kept(**changes: Any) -> Counter[str]:
        changed = merged(values, changes)
        return Counter(node.stage for node in plan_of(changed, tmp_path).nodes if node.id in before)

    everything = Counter({"collect": 1, "sft": 4, "grpo": 6, "evaluate": 18})
    assert kept(machine={"slots": 5, "threads": 2}, name="other") == everything
    assert kept(sft={"trainer": {"logging_steps": 1}}, rl={"save_every": 3}) == everything
    # The buffer, the bases' evaluations, and the arm without SFT do not depend on SFT.
    assert kept(sft={"trainer": {"learning_rate": 1e-3}}) == {"collect": 1, "grpo": 2, "evaluate": 6}
    assert kept(rl={"steps": 7}) == {"collect": 1, "sft": 4, "evaluate": 6}
    assert kept(evaluate={"samples": 9}) == {"collect": 1, "sft": 4, "grpo": 6}
    assert kept(behavior={"sampling": {"seed": 1}}) == {"grpo": 2, "evaluate": 6}
    (models / "base_0" / "model.safetensors").write_text("other weights")
    assert kept() == {"collect": 1, "sft": 2, "grpo": 3, "evaluate": 9}


def test_more_seeds_and_arms_keep_what_is_there(values: dict[str, Any], tmp_path: Path, models: Path) -> None:
    before = {node.id for node in plan_of(values, tmp_path).nodes}
    make_model(models / "base_2")
    values["seeds"] = [0, 1, 2]
    values["arms"]["pear_sequence"] = {"objective": "pear_sequence"}
    assert before < {node.id for node in plan_of(values, tmp_path).nodes}


def test_moving_a_study_keeps_its_nodes(values: dict[str, Any], tmp_path: Path) -> None:
    config = StudyConfig.parse(values, source="test")
    here, there = (make_plan(config, tmp_path / name) for name in ("here", "there"))
    assert [node.key for node in here.nodes] == [node.key for node in there.nodes]


def test_digests(values: dict[str, Any], tmp_path: Path) -> None:
    digests = plan_of(values, tmp_path).digests
    assert set(digests) == {"rl", "evaluation", "buffer"}
    rl = merged(values, {"rl": {"learning_rate": 1e-3}})
    assert [plan_of(rl, tmp_path).digests[name] == digests[name] for name in ("rl", "evaluation", "buffer")] == [
        False,
        True,
        True,
    ]
    problems = merged(values, {"tasks": {"rl": [{**values["tasks"]["rl"][0], "offset": 8}]}})
    assert plan_of(problems, tmp_path).digests["rl"] != digests["rl"]
    arms = merged(values, {"arms": {"nll": {"sft": {"trainer": {"learning_rate": 1e-4}}}}})
    assert plan_of(arms, tmp_path).digests == digests


def test_sweeps_multiply_an_arm(values: dict[str, Any], tmp_path: Path) -> None:
    values["arms"]["pear_token"]["sweep"] = {"gamma": [0.9, 0.99], "sft.trainer.learning_rate": [1e-3, 1e-4]}
    plan = plan_of(values, tmp_path)
    assert list(plan.arms) == [
        "nll",
        "pear_token[gamma=0.9,learning_rate=0.001]",
        "pear_token[gamma=0.9,learning_rate=0.0001]",
        "pear_token[gamma=0.99,learning_rate=0.001]",
        "pear_token[gamma=0.99,learning_rate=0.0001]",
        "direct",
    ]
    config = node_of(plan, role="sft", arm="pear_token[gamma=0.99,learning_rate=0.0001]", seed=0).config
    assert config.objective_kwargs == {"gamma": 0.99}
    assert config.trainer == {"max_steps": 4, "learning_rate": 1e-4}


def test_the_record_is_what_readers_expect(values: dict[str, Any], tmp_path: Path) -> None:
    plan = plan_of(values, tmp_path)
    record = json.loads(json.dumps(plan.record(tmp_path / "study")))
    assert set(record) == {"name", "config", "digests", "nodes"}
    assert record["config"]["reference"] == "nll"
    assert list(record["config"]["arms"]) == ["nll", "pear_token", "direct"]
    node = next(node for node in record["nodes"] if node["stage"] == "sft")
    assert set(node) == {"id", "stage", "dir", "depends", "label", "uses"}
    assert node["dir"] == f"runs/{node['id']}"
    assert node["label"] == "sft nll base_0 seed 0"
    base = f"{tmp_path}/models/base_0"
    assert node["uses"] == [{"arm": "nll", "base": base, "seed": 0, "role": "sft", "rl_step": None}]


def with_sweep(**sweep: Any) -> dict[str, Any]:
    return {"arms": {"nll": {"objective": "nll"}, "pear_token": {"objective": "pear_token", "sweep": sweep}}}


EVAL = {"task": "tiny/affine_chain", "level": "n4", "split": "eval", "size": 8}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sead": [1]}, "sead: Unknown key 'sead'. Did you mean 'seeds'?"),
        ({"base": 3}, "expected a model, a list of models, or {pretrain: {...}}"),
        ({"base": {"pretrian": {}}}, "Did you mean 'pretrain'?"),
        ({"base": "pear:affine_chain/none_{seed}"}, "Unknown shipped model 'pear:affine_chain/none_0'"),
        ({"base": "/no/such/model"}, "/no/such/model: no such model directory."),
        ({"seeds": []}, "seeds"),
        ({"seeds": [1, 1]}, "a seed is named twice"),
        ({"behavior": {"buffer": "/no/such/buffer"}}, "behavior.model: nothing reads this beside `buffer`."),
        ({"tasks": {"eval": [{**EVAL, "task": "tiny/affine_chian"}]}}, "Did you mean 'tiny/affine_chain'?"),
        ({"tasks": {"eval": [{**EVAL, "split": "rl"}]}}, "tasks.eval: 8 of its problems are in tasks.rl too"),
        ({"tasks": {"rl": []}}, "tasks.rl: name the problems of RL."),
        ({"arms": {"nll": {"objective": "nlll"}}}, "arms.nll: Unknown objective 'nlll'. Did you mean 'nll'?"),
        ({"arms": {"nll": {"objective": "nll", "rl": {}}}}, "arms.nll.rl: Unknown key 'rl'."),
        ({"arms": {"pear_token": {"objective_kwargs": {"gama": 0.5}}}}, "arms.pear_token: "),
        (with_sweep(gamma=0.1), "Sweep axis 'gamma' must be a list of values, got float. Did you mean gamma=[0.1]?"),
        (with_sweep(gamma=[]), "Sweep axis 'gamma' has no values."),
        ({"arms": {"nll": {"sweep": {"rl.steps": [1]}}}}, "unknown axis 'rl.steps'"),
        (with_sweep(gamma=[0.5, 0.5]), "arms: 'pear_token[gamma=0.5]' is there twice."),
        ({"reference": "pear_tokn"}, "reference: Unknown arm 'pear_tokn'. Did you mean 'pear_token'?"),
        ({"sft": {"trianer": {}}}, "sft: trianer: Unknown key 'trianer'. Did you mean 'trainer'?"),
        ({"sft": {"seed": 1}}, "sft.seed: is set by the study; leave it out."),
        ({"arms": {"nll": {"sft": {"model": "x"}}}}, "arms.nll.sft.model: is set by the study; leave it out."),
        ({"rl": {"group_sise": 4}}, "rl: group_sise: Unknown key 'group_sise'. Did you mean 'group_size'?"),
        ({"rl": {"steps": None}}, "rl.steps: expected a number of steps, got None."),
        ({"evaluate": {"at_rl_steps": [2, 7]}}, "evaluate.at_rl_steps: 7 is not in 1..6 (rl.steps)."),
        ({"evaluate": {"at_rl_steps": 2}}, "evaluate.at_rl_steps: expected a list of steps, such as [20, 60], got 2."),
        ({"evaluate": {"k": [8]}}, "evaluate: k: pass@8 needs at least 16 samples"),
        ({"machine": {"slots": 0}}, "machine.slots"),
    ],
)
def test_mistakes_are_named_and_nothing_is_written(
    values: dict[str, Any], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        plan_of(merged(values, changes), tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "study").exists()


def test_a_buffer_takes_the_place_of_a_behavior_model(values: dict[str, Any], tmp_path: Path) -> None:
    values["behavior"] = {"buffer": str(tmp_path / "buffer")}
    with pytest.raises(UserError, match=r"tasks\.sft: nothing reads this, since behavior\.buffer holds the data"):
        plan_of(values, tmp_path)
    del values["tasks"]["sft"]
    with pytest.raises(UserError, match="not a finished run"):
        plan_of(values, tmp_path)
    (tmp_path / "buffer").mkdir()
    (tmp_path / "buffer" / "manifest.json").write_text(json.dumps({"fingerprint": "abc"}))
    plan = plan_of(values, tmp_path)
    assert "collect" not in stages(plan)
    assert node_of(plan, role="sft", arm="nll", seed=0).depends == ()
    assert node_of(plan, role="sft", arm="nll", seed=0).config.buffer == str(tmp_path / "buffer")


@pytest.mark.parametrize("block", ["sft", "rl"])
def test_a_study_without_arms_reads_no_training_block(values: dict[str, Any], tmp_path: Path, block: str) -> None:
    kept = {key: values[key] for key in ("name", "base", "seeds", block)}
    with pytest.raises(UserError, match=f"^{block}: nothing reads this in a study without arms"):
        plan_of({**kept, "tasks": {"eval": values["tasks"]["eval"]}}, tmp_path)
