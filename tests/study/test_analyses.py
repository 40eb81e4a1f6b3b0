"""The `analyze` block: which nodes it adds, what they read, and what is refused."""

import json
import random
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from pear.analysis import ANALYSES, load_analysis
from pear.errors import UserError
from pear.runs import write_json
from pear.study.analyses import apportioned
from pear.study.config import StudyConfig, merged
from pear.study.graph import Node
from pear.study.nodes import derived_seed
from pear.study.plan import Plan, make_plan
from pear.tasks.problems import ProblemSet, load_problems
from tests.study.conftest import make_model

N4 = {"task": "tiny/affine_chain", "level": "n4"}


@pytest.fixture
def analyzed(values: dict[str, Any]) -> dict[str, Any]:
    values["analyze"] = {"calibration": {"problems": [{**N4, "split": "dev", "size": 6}]}, "rl_signal_problems": 4}
    return values


def plan_of(values: dict[str, Any], tmp_path: Path, **options: Any) -> Plan:
    return make_plan(StudyConfig.parse(values, source="test"), tmp_path / "study", **options)


def nodes_of(plan: Plan, role: str, **wanted: Any) -> list[Node]:
    return [
        node
        for node in plan.nodes
        if any(
            use.role == role and all(getattr(use, key) == value for key, value in wanted.items()) for use in node.uses
        )
    ]


def node_of(plan: Plan, role: str, **wanted: Any) -> Node:
    (found,) = nodes_of(plan, role, **wanted)
    return found


def test_the_nodes_of_the_analyses(analyzed: dict[str, Any], tmp_path: Path) -> None:
    plan = plan_of(analyzed, tmp_path)
    without = plan_of({key: value for key, value in analyzed.items() if key != "analyze"}, tmp_path)
    # Nothing that is there without analyses is done again for them.
    added = [node for node in plan.nodes if node.id not in {node.id for node in without.nodes}]
    assert len(added) == len(plan.nodes) - len(without.nodes)
    assert plan.digests == without.digests
    assert all(node.beside for node in added)
    assert not any(node.beside for node in without.nodes)
    # Two units. After SFT there are two arms; after RL, and to sample RL's prompts from, three.
    assert Counter(node.kind for node in added) == {
        "collect calibration": 1,
        "analyze weight_drift": 4 + 6,
        "analyze divergence": 4,
        "analyze token_weights": 4,
        "analyze gradient_rotation": 4,
        "evaluate rl_signal": 6,
    }
    position = {node.id: index for index, node in enumerate(plan.nodes)}
    assert all(position[needed] < position[node.id] for node in plan.nodes for needed in node.depends)


def test_what_each_analysis_compares(analyzed: dict[str, Any], tmp_path: Path) -> None:
    plan = plan_of(analyzed, tmp_path)
    base = f"{tmp_path}/models/base_1"
    where = {"arm": "pear_token", "seed": 1}
    sft, grpo = (str(node_of(plan, role, **where).directory) for role in ("sft", "grpo"))
    buffer = str(node_of(plan, "calibration").directory)

    def compared(name: str, rl_step: int) -> tuple[str, str | None, str | None]:
        config = node_of(plan, "analysis", analysis=name, rl_step=rl_step, **where).config
        assert config.analysis == name
        return config.before, config.after, config.buffer

    assert compared("weight_drift", 0) == (base, sft, None)
    assert compared("weight_drift", 6) == (sft, grpo, None)
    assert compared("divergence", 0) == (base, sft, buffer)
    assert compared("token_weights", 0) == (base, sft, buffer)
    assert compared("gradient_rotation", 0) == (sft, None, buffer)
    for name in ANALYSES:
        node = node_of(plan, "analysis", analysis=name, rl_step=0, **where)
        given = {key for key in ("after", "buffer") if getattr(node.config, key) is not None}
        assert given == load_analysis(name).REQUIRES & {"after", "buffer"}
    assert not nodes_of(plan, "analysis", arm="direct", rl_step=0)
    assert node_of(plan, "analysis", arm="direct", seed=1, rl_step=6).config.before == base


def test_the_gradients_are_those_of_the_arm_and_of_the_studys_rl(analyzed: dict[str, Any], tmp_path: Path) -> None:
    analyzed["arms"]["nll"]["sft"] = {"trainer": {"learning_rate": "1e-3"}, "overflow": "drop"}
    analyzed["analyze"]["settings"] = {"gradient_rotation": {"k": 16}}
    plan = plan_of(analyzed, tmp_path)

    def settings(arm: str, seed: int) -> Any:
        found = node_of(plan, "analysis", analysis="gradient_rotation", arm=arm, seed=seed).config.settings
        return load_analysis("gradient_rotation").Settings.parse(found, source="test")

    ours, nll = settings("pear_token", 1), settings("nll", 1)
    assert (ours.objective, ours.objective_kwargs, ours.overflow) == ("pear_token", {"gamma": 0.9}, "error")
    assert ours.sft == {"max_steps": 4, "learning_rate": "3e-3"}
    assert (nll.objective, nll.sft, nll.overflow) == ("nll", {"max_steps": 4, "learning_rate": "1e-3"}, "drop")
    assert ours.k == nll.k == 16
    assert ours.rl == nll.rl
    assert ours.rl["problems"] == analyzed["tasks"]["rl"]
    assert (ours.rl["group_size"], ours.rl["prompts_per_step"], ours.rl["max_completion_tokens"]) == (4, 4, 32)
    # The draws follow from the unit alone, and the pilot's length is its own.
    assert ours.seed == nll.seed == derived_seed(1, "analyze") != settings("nll", 0).seed
    assert "steps" not in ours.rl


def test_longer_rl_keeps_what_sft_did(analyzed: dict[str, Any], tmp_path: Path) -> None:
    before = {node.id for node in plan_of(analyzed, tmp_path).nodes}
    kept = [node for node in plan_of(merged(analyzed, {"rl": {"steps": 7}}), tmp_path).nodes if node.id in before]
    assert Counter(node.kind for node in kept if node.beside) == {
        "collect calibration": 1,
        "analyze weight_drift": 4,
        "analyze divergence": 4,
        "analyze token_weights": 4,
        "analyze gradient_rotation": 4,
        "evaluate rl_signal": 6,
    }


def test_equal_arms_share_their_analyses(analyzed: dict[str, Any], tmp_path: Path) -> None:
    before = len(plan_of(analyzed, tmp_path).nodes)
    analyzed["arms"]["again"] = {"objective": "nll"}
    plan = plan_of(analyzed, tmp_path)
    assert len(plan.nodes) == before
    node = node_of(plan, "analysis", arm="again", analysis="divergence", seed=0)
    assert {use.arm for use in node.uses} == {"nll", "again"}


def test_rls_prompts_are_sampled_as_rl_samples_them(analyzed: dict[str, Any], tmp_path: Path) -> None:
    analyzed["evaluate"] |= {"temperature": 0.6, "top_p": 0.95, "batch_tokens": 4096}
    analyzed["rl"] |= {"temperature": 1.2, "trainer": {"top_k": 20}}
    plan = plan_of(analyzed, tmp_path)
    config = node_of(plan, "rl_signal", arm="nll", seed=1).config
    assert config.model == str(node_of(plan, "sft", arm="nll", seed=1).directory)
    assert config.samples == analyzed["rl"]["group_size"]
    assert (config.temperature, config.top_p, config.top_k, config.max_tokens) == (1.2, 1.0, 20, 32)
    assert config.batch_tokens == 4096
    asked = [problem.id for problem in load_problems(config.problems)]
    rl = [
        problem.id for problem in load_problems([ProblemSet.model_validate(item) for item in analyzed["tasks"]["rl"]])
    ]
    assert asked == rl[:4]
    base = node_of(plan, "rl_signal", arm="direct", seed=1).config
    assert base.model == f"{tmp_path}/models/base_1"


def test_rls_first_problems_are_of_all_its_sets(analyzed: dict[str, Any], tmp_path: Path) -> None:
    analyzed["tasks"]["rl"] = [{**N4, "split": "rl", "size": 9}, {**N4, "level": "n6", "split": "rl", "size": 3}]
    sets = node_of(plan_of(analyzed, tmp_path), "rl_signal", arm="nll", seed=0).config.problems
    assert [(item.level, item.size) for item in sets] == [("n4", 3), ("n6", 1)]
    analyzed["analyze"]["rl_signal_problems"] = 100
    sets = node_of(plan_of(analyzed, tmp_path), "rl_signal", arm="nll", seed=0).config.problems
    assert [(item.level, item.size) for item in sets] == [("n4", 9), ("n6", 3)]
    analyzed["analyze"]["rl_signal_problems"] = 0
    assert not nodes_of(plan_of(analyzed, tmp_path), "rl_signal")


def test_the_default_calibration_is_the_papers_number_of_held_out_problems(
    values: dict[str, Any], tmp_path: Path
) -> None:
    values["analyze"] = {}
    values["behavior"] |= {"sampling": {"max_tokens": 32, "samples": 4}, "max_wrong_per_problem": 1}
    values["tasks"]["sft"] = [
        {**N4, "split": "sft", "size": 6},
        {**N4, "level": "n6", "split": "sft", "size": 2},
        {**N4, "split": "sft", "size": 4, "offset": 20},
    ]
    config = node_of(plan_of(values, tmp_path), "calibration").config
    assert config.model == f"{tmp_path}/models/behavior"
    assert [(item.task, item.level, item.split, item.size) for item in config.problems] == [
        ("tiny/affine_chain", "n4", "dev", 224),
        ("tiny/affine_chain", "n6", "dev", 45),
    ]
    assert (config.sampling.samples, config.sampling.max_tokens, config.max_wrong_per_problem) == (1, 32, 1)


def test_a_default_that_cannot_be_had_says_that_it_is_one(values: dict[str, Any], tmp_path: Path) -> None:
    values["analyze"] = {}
    values["tasks"]["sft"] = [{**N4, "level": "n1", "split": "sft", "size": 8}]
    with pytest.raises(UserError, match=r"^analyze\.calibration\.problems \(by default\): .*'dev', 269 wanted"):
        plan_of(values, tmp_path)
    values["analyze"] = calibration(problems=[{**N4, "split": "dev", "size": 4}])
    assert nodes_of(plan_of(values, tmp_path), "calibration")


def test_calibration_may_be_sampled_otherwise(analyzed: dict[str, Any], tmp_path: Path) -> None:
    analyzed["analyze"]["calibration"] |= {"samples": 3, "sampling": {"temperature": 0.5}, "shard_problems": 2}
    config = node_of(plan_of(analyzed, tmp_path), "calibration").config
    assert (config.sampling.samples, config.sampling.temperature, config.sampling.max_tokens) == (3, 0.5, 32)
    assert config.shard_problems == 2
    assert [item.size for item in config.problems] == [6]


def test_drift_alone_needs_no_calibration(values: dict[str, Any], tmp_path: Path) -> None:
    values["analyze"] = {"analyses": ["weight_drift"], "rl_signal_problems": 0}
    plan = plan_of(values, tmp_path)
    assert {node.kind for node in plan.nodes if node.beside} == {"analyze weight_drift"}
    values["arms"] = {"nll": None}
    values["analyze"]["analyses"] = ["divergence"]
    assert not [node for node in plan_of(values, tmp_path).nodes if node.beside]


def test_arms_that_a_probe_dropped_are_not_analyzed(analyzed: dict[str, Any], tmp_path: Path) -> None:
    plan = plan_of(analyzed, tmp_path, probe=True, dropped=["pear_token"])
    for role in ("analysis", "rl_signal"):
        assert not nodes_of(plan, role, arm="pear_token")
        assert nodes_of(plan, role, arm="nll")


def test_the_record_is_what_readers_expect(analyzed: dict[str, Any], tmp_path: Path) -> None:
    record = json.loads(json.dumps(plan_of(analyzed, tmp_path).record(tmp_path / "study")))
    uses = [use for node in record["nodes"] for use in node["uses"]]
    common = {"arm", "base", "seed", "role", "rl_step"}
    assert all(set(use) == common | ({"analysis"} if use["role"] == "analysis" else set()) for use in uses)
    base = f"{tmp_path}/models/base_0"
    wanted = {"arm": "nll", "base": base, "seed": 0, "role": "analysis", "rl_step": 0, "analysis": "divergence"}
    (node,) = [node for node in record["nodes"] if wanted in node["uses"]]
    assert node["label"] == "analyze divergence of nll base_0 seed 0"
    assert record["config"]["analyze"]["rl_signal_problems"] == 4


def write_buffer(directory: Path, problems: list[Mapping[str, Any]], *, correct: bool = True) -> str:
    """As much of a buffer as a plan reads."""
    loaded = load_problems([ProblemSet.model_validate(item) for item in problems])
    rows = [
        {"problem_id": problem.id, "prompt": [dict(message) for message in problem.prompt], "correct": correct}
        for problem in loaded
    ]
    directory.mkdir()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), directory / "shard-00000.parquet")
    shard = {"name": "shard-00000.parquet", "sha256": "", "rows": len(rows), "correct": len(rows), "tokens": 0}
    manifest = {
        "format_version": 1, "tokenizer_digest": "", "vocabulary_digest": "", "added_tokens": {}, "stop_token_ids": [1],
        "behavior_model": "elsewhere", "behavior_model_digest": "", "processed_log_probs": None, "sampling": None,
        "engine": "", "verified": True, "shards": [shard],
    }  # fmt: skip
    write_json(directory / "buffer.json", manifest)
    write_json(directory / "manifest.json", {"fingerprint": directory.name})
    return str(directory)


def test_a_buffer_may_be_the_calibration(analyzed: dict[str, Any], tmp_path: Path) -> None:
    held_out = write_buffer(tmp_path / "held_out", [{**N4, "split": "dev", "size": 3}])
    analyzed["analyze"]["calibration"] = {"buffer": held_out}
    plan = plan_of(analyzed, tmp_path)
    assert not nodes_of(plan, "calibration")
    assert node_of(plan, "analysis", analysis="divergence", arm="nll", seed=0).config.buffer == held_out
    for split in ("sft", "rl"):
        trained = write_buffer(tmp_path / split, [{**N4, "split": split, "size": 3}])
        analyzed["analyze"]["calibration"] = {"buffer": trained}
        with pytest.raises(UserError, match=rf"analyze\.calibration: 3 of its problems are in tasks\.{split} too"):
            plan_of(analyzed, tmp_path)


def test_a_study_on_a_buffer_says_what_calibration_is(analyzed: dict[str, Any], tmp_path: Path) -> None:
    trained = [{**N4, "split": "sft", "size": 3}]
    analyzed["behavior"] = {"buffer": write_buffer(tmp_path / "trained", trained)}
    del analyzed["tasks"]["sft"]
    analyzed["analyze"]["calibration"] = {}
    with pytest.raises(UserError, match=r"analyze\.calibration: the study knows the buffer alone"):
        plan_of(analyzed, tmp_path)
    analyzed["analyze"]["calibration"] = {"buffer": analyzed["behavior"]["buffer"]}
    with pytest.raises(UserError, match=r"analyze\.calibration: 3 of its problems are in behavior\.buffer too"):
        plan_of(analyzed, tmp_path)
    model = str(make_model(tmp_path / "elsewhere"))
    analyzed["analyze"]["calibration"] = {"model": model, "problems": trained}
    with pytest.raises(UserError, match=r"analyze\.calibration: 3 of its problems are in behavior\.buffer too"):
        plan_of(analyzed, tmp_path)
    analyzed["analyze"]["calibration"]["problems"] = [{**N4, "split": "dev", "size": 3}]
    assert node_of(plan_of(analyzed, tmp_path), "calibration").config.model == model
    # A problem of which the buffer holds wrong trajectories alone is not trained on.
    analyzed["behavior"] = {"buffer": write_buffer(tmp_path / "wrong", trained, correct=False)}
    analyzed["analyze"]["calibration"]["problems"] = trained
    assert nodes_of(plan_of(analyzed, tmp_path), "calibration")


def calibration(**values: Any) -> dict[str, Any]:
    return {"calibration": values}


SFT = {**N4, "split": "sft", "size": 2}


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"calibratoin": {}}, "analyze.calibratoin: Unknown key 'calibratoin'. Did you mean 'calibration'?"),
        ({"analyses": ["divergance"]}, "analyze.analyses: Unknown analysis 'divergance'. Did you mean 'divergence'?"),
        ({"settings": {"weight_drfit": {}}}, "analyze.settings: Unknown analysis 'weight_drfit'. Did you mean"),
        (
            {"analyses": ["weight_drift"], "settings": {"divergence": {}}, **calibration()},
            "analyze.settings.divergence: nothing reads this, since divergence is not in analyze.analyses.",
        ),
        ({"settings": {"weight_drift": {"epsilom": 1}}}, "analyze.settings.weight_drift: epsilom: Unknown key"),
        (
            {"settings": {"gradient_rotation": {"objective": "nll"}}},
            "analyze.settings.gradient_rotation.objective: is set by the study; leave it out.",
        ),
        ({"rl_signal_problems": -1}, "analyze.rl_signal_problems"),
        (
            calibration(problems=[SFT]),
            "analyze.calibration: 2 of its problems are in tasks.sft too, 'tiny/affine_chain",
        ),
        (calibration(problems=[{**SFT, "split": "rl"}]), "analyze.calibration: 2 of its problems are in tasks.rl too"),
        (calibration(problems=[{**SFT, "task": "tiny/affine"}]), "analyze.calibration: Unknown task 'tiny/affine'."),
        (calibration(sampels=2), "analyze.calibration: sampels: Unknown key 'sampels'."),
        (calibration(samples=0), "analyze.calibration: sampling.samples"),
        (calibration(sampling={"samples": 2}), "analyze.calibration.sampling.samples: set analyze.calibration.samples"),
        (calibration(sampling=3), "analyze.calibration.sampling: expected a mapping of keys to values, got 3."),
        (calibration(model="x"), "analyze.calibration.model: it is the behavior model. Leave it out."),
        (calibration(output_dir="x"), "analyze.calibration.output_dir: is set by the study; leave it out."),
        (calibration(buffer="x", samples=1), "analyze.calibration.samples: nothing reads this beside `buffer`."),
        (calibration(buffer="/no/such/buffer"), "/no/such/buffer: not a finished run"),
        (
            {"analyses": ["weight_drift"], **calibration(samples=2)},
            "analyze.calibration: none of the analyses reads it.",
        ),
    ],
)
def test_mistakes_are_named_and_nothing_is_written(
    values: dict[str, Any], tmp_path: Path, block: dict[str, Any], message: str
) -> None:
    default = calibration(problems=[{**N4, "split": "dev", "size": 4}])
    values["analyze"] = block if "calibration" in block else {**default, **block}
    with pytest.raises(UserError) as caught:
        plan_of(values, tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "study").exists()


def test_a_study_without_arms_has_nothing_to_analyze(values: dict[str, Any], tmp_path: Path) -> None:
    bare = {key: values[key] for key in ("name", "base")} | {"tasks": {"eval": values["tasks"]["eval"]}}
    with pytest.raises(UserError, match=r"^analyze: nothing reads this in a study without arms"):
        plan_of({**bare, "analyze": {}}, tmp_path)


def test_problems_of_the_evaluation_are_not_in_the_behavior_models_own(values: dict[str, Any], tmp_path: Path) -> None:
    values["behavior"]["problems"] = values["tasks"]["eval"]
    with pytest.raises(UserError, match=r"tasks\.eval: 8 of its problems are in behavior\.problems too"):
        plan_of(values, tmp_path)


def test_whole_parts_are_as_near_as_they_can_be() -> None:
    draw = random.Random(0)
    for _ in range(300):
        sizes, total = [draw.randint(1, 1000) for _ in range(draw.randint(1, 8))], draw.randint(0, 500)
        parts = apportioned(sizes, total)
        assert sum(parts) == total
        assert all(abs(part - total * size / sum(sizes)) < 1 for part, size in zip(parts, sizes, strict=True))
        if total <= sum(sizes):
            assert all(part <= size for part, size in zip(parts, sizes, strict=True))
