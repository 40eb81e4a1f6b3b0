"""`pear collect`: a half-trained tiny model is sampled, verified, and written down."""

import json
from pathlib import Path
from typing import Any

import pytest

from pear.data.buffer import BufferWriter, load_buffer, read_manifest, read_shards
from pear.data.rendering import decode_completion, load_tokenizer, render_prompt
from pear.engines.transformers_engine import TransformersEngine
from pear.errors import UserError
from pear.runs import MANIFEST, partial_path
from pear.stages.collect import CollectConfig, run
from pear.stages.selection import REMOVED
from pear.tasks import TASKS, Problem
from pear.tasks.problems import ProblemSet, load_problems
from tests.training.grpo_fixtures import PROBLEM_SET, save_solver


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_solver(tmp_path_factory.mktemp("models") / "solver", seed=0)


@pytest.fixture(scope="module")
def buffer(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(config(model, tmp_path_factory.mktemp("collected") / "buffer"))


def config(behavior: str, output_dir: Path, **changes: Any) -> CollectConfig:
    values = {
        "model": behavior,
        "problems": [PROBLEM_SET.model_dump()],
        "sampling": {"samples": 6, "max_tokens": 24, "temperature": 0.8},
        "shard_problems": 5,
        "output_dir": output_dir,
    }
    return CollectConfig.parse({**values, **changes}, source="test")


def rows_of(directory: Path) -> list[dict[str, Any]]:
    return [row for table in read_shards(directory) for row in table.to_pylist()]


def files_of(directory: Path) -> dict[str, bytes]:
    return {
        file.name: file.read_bytes() for file in sorted(directory.iterdir()) if file.name not in (MANIFEST, ".lock")
    }


def test_right_and_wrong_trajectories_are_kept_and_counted(buffer: Path) -> None:
    manifest = read_manifest(buffer)
    assert manifest.counts is not None
    assert manifest.counts.rows == 12 * 6
    assert manifest.counts.correct > 0
    assert manifest.counts.wrong > 0
    assert len(load_buffer(buffer)) == manifest.counts.correct
    assert [shard.rows for shard in manifest.shards] == [30, 30, 12]
    results = json.loads((buffer / MANIFEST).read_text())["results"]
    removed = {f"removed_{reason}": 0 for reason in ("evaluation", "evaluation_words", "duplicate", "near_duplicate")}
    assert results == {"problems": 12, **removed, **manifest.counts.model_dump()}
    assert json.loads((buffer / REMOVED).read_text()) == {"kept": 12, **removed, "removed": []}
    counts = manifest.counts.tasks[PROBLEM_SET.task]
    assert (counts.correct, counts.wrong) == (manifest.counts.correct, manifest.counts.wrong)
    assert manifest.counts.tasks.keys() == {PROBLEM_SET.task}


def test_rows_hold_what_was_given_and_produced(buffer: Path, model: str) -> None:
    tokenizer = load_tokenizer(model)
    task = TASKS[PROBLEM_SET.task]
    stops = read_manifest(buffer).stop_token_ids
    for row in rows_of(buffer):
        problem = Problem.from_json(row["problem"])
        assert row["behavior_prompt_ids"] == render_prompt(tokenizer, row["prompt"]) != []
        assert row["prompt"] == list(problem.prompt)
        assert row["completion"] == decode_completion(tokenizer, row["completion_ids"], stops)
        verdict = task.verify(problem, row["completion"])
        assert (row["correct"], row["reason"]) == (verdict.correct, verdict.reason)
        assert row["reward"] == float(verdict.correct)
        assert (row["task"], row["split"], row["behavior_model"]) == (PROBLEM_SET.task, "rl", "solver")
        assert (row["completion_ids"][-1] in stops) == (row["finish"] == "stop")
        assert json.loads(row["sampling"])["temperature"] == 0.8


def test_log_probs_are_raw_and_processed(buffer: Path, model: str) -> None:
    rows = rows_of(buffer)
    scored = TransformersEngine(model).score(
        [row["behavior_prompt_ids"] for row in rows[:20]], [row["completion_ids"] for row in rows[:20]]
    )
    for row, values in zip(rows, scored, strict=False):
        assert row["behavior_log_probs"] == pytest.approx(values, abs=1e-4)
        assert row["behavior_processed_log_probs"] != pytest.approx(values, abs=1e-3)


def test_two_runs_write_equal_files(buffer: Path, model: str, tmp_path: Path) -> None:
    again = run(config(model, tmp_path / "again"))
    assert files_of(again) == files_of(buffer)


def test_a_killed_run_goes_on_and_the_result_is_the_same(
    buffer: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = BufferWriter.write_shard
    written: list[int] = []

    def killed(self: BufferWriter, index: int, rows: Any) -> None:
        if index == 1 and written == [0]:
            (self.directory / "shard-00001.parquet.tmp").write_bytes(b"half")
            raise KeyboardInterrupt
        written.append(index)
        write(self, index, rows)

    monkeypatch.setattr(BufferWriter, "write_shard", killed)
    with pytest.raises(KeyboardInterrupt):
        run(config(model, tmp_path / "killed"))
    assert not (tmp_path / "killed").exists()
    assert (partial_path(tmp_path / "killed") / "shard-00000.parquet").is_file()
    monkeypatch.setattr(
        BufferWriter, "write_shard", lambda self, index, rows: (written.append(index), write(self, index, rows))
    )
    resumed = run(config(model, tmp_path / "killed"))
    assert written == [0, 1, 2]
    assert files_of(resumed) == files_of(buffer)


def test_a_complete_run_is_left_alone(buffer: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = files_of(buffer)
    assert run(config(model, buffer)) == buffer
    assert "complete, nothing to do" in capsys.readouterr().err
    assert files_of(buffer) == before


def test_output_of_another_run_is_refused(buffer: Path, model: str) -> None:
    with pytest.raises(UserError, match="holds the output of another run"):
        run(config(model, buffer, sampling={"samples": 2, "max_tokens": 24}))


def test_every_shard_has_a_seed_of_its_own(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    generate = TransformersEngine.generate

    def spy(self: TransformersEngine, prompts: Any, sampling: Any, **settings: Any) -> Any:
        seeds.append(sampling.seed)
        return generate(self, prompts, sampling, **settings)

    monkeypatch.setattr(TransformersEngine, "generate", spy)
    run(config(model, tmp_path / "first", sampling={"max_tokens": 2}))
    run(config(model, tmp_path / "second", sampling={"max_tokens": 2, "seed": 1}))
    assert len(set(seeds)) == 6


def test_the_first_of_each_kind_can_be_kept(buffer: Path, model: str, tmp_path: Path) -> None:
    thinned = run(config(model, tmp_path / "b", max_correct_per_problem=1, max_wrong_per_problem=2))
    seen: dict[tuple[str, bool], int] = {}
    wanted = []
    for row in rows_of(buffer):
        key = (row["problem_id"], row["correct"])
        seen[key] = seen.get(key, 0) + 1
        if seen[key] <= (1 if row["correct"] else 2):
            wanted.append(row)
    assert rows_of(thinned) == wanted


def test_no_correct_trajectory_is_a_result_with_a_note(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = run(config(model, tmp_path / "b", sampling={"max_tokens": 2}))
    assert "none of 12 trajectories is correct" in capsys.readouterr().err
    counts = read_manifest(directory).counts
    assert counts is not None
    assert (counts.correct, counts.wrong, counts.truncated) == (0, 12, 12)


def test_several_sets_keep_their_splits(model: str, tmp_path: Path) -> None:
    sets = [
        ProblemSet(task=PROBLEM_SET.task, level="n1", split="sft", size=2),
        ProblemSet(task=PROBLEM_SET.task, level="n2", split="dev", size=3),
    ]
    directory = run(
        config(model, tmp_path / "b", problems=[item.model_dump() for item in sets], sampling={"max_tokens": 4})
    )
    assert [row["split"] for row in rows_of(directory)] == ["sft"] * 2 + ["dev"] * 3


def test_a_mix_without_what_the_evaluation_asks(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mix = [
        {"task": PROBLEM_SET.task, "level": level, "split": "rl", "weight": weight}
        for level, weight in (("n2", 2), ("n4", 1))
    ]
    held_out = PROBLEM_SET.model_copy(update={"size": 3}).model_dump()
    values = {"problems": mix, "size": 9, "evaluation": [held_out], "sampling": {"max_tokens": 4, "samples": 2}}
    directory = run(config(model, tmp_path / "b", **values))
    rows = rows_of(directory)
    levels = [Problem.from_json(row["problem"]).level for row in rows]
    assert levels == ["n2", "n2", "n4", "n4", "n2", "n2"] * 3
    leaked = [problem.id for problem in load_problems([ProblemSet(**held_out)])]
    assert not {row["problem_id"] for row in rows} & set(leaked)
    report = json.loads((directory / REMOVED).read_text())
    assert [item["problem_id"] for item in report["removed"]] == leaked
    assert (report["kept"], report["removed_evaluation"]) == (9, 3)
    results = json.loads((directory / MANIFEST).read_text())["results"]
    assert (results["problems"], results["removed_evaluation"]) == (9, 3)
    assert "3 problems were left out: 3 are in an evaluation set (removed.json names them)." in capsys.readouterr().err
    files = sorted(path.name for path in directory.iterdir() if path.name != ".lock")
    assert files == ["buffer.json", MANIFEST, REMOVED, "shard-00000.parquet", "shard-00001.parquet"]
    assert len(load_buffer(directory, correct_only=False)) == 18


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "no such model": ({"model": "./nowhere"}, "nowhere: no such model directory"),
    "no such shipped model": ({"model": "pear:no/such"}, "Unknown shipped model 'pear:no/such'"),
    "no such task": ({"problems": [{"task": "tiny/afine_chain"}]}, "Did you mean 'tiny/affine_chain'"),
    "no such evaluation": ({"evaluation": [{"task": "tiny/afine_chain"}]}, "Did you mean 'tiny/affine_chain'"),
    "a mix that is too large": (
        {"problems": [{"task": "tiny/affine_chain", "level": "n1", "split": "rl", "weight": 1}], "size": 999},
        "Ask for fewer",
    ),
    "no split": ({"problems": [{"task": "tiny/affine_chain", "size": 1}]}, "set `split` and `size`"),
    "beyond the context": ({"sampling": {"max_tokens": 512}}, "the longest prompt + sampling.max_tokens: "),
    "no such device": ({"device": "cuda:77"}, "device: 'cuda:77' is not here"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_is_a_sentence_and_nothing_is_written(model: str, tmp_path: Path, name: str) -> None:
    changes, message = MISTAKES[name]
    with pytest.raises(UserError) as error:
        run(config(model, tmp_path / "b", **changes))
    assert message in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"problems": []}, "problems"),
        ({"shard_problem": 3}, "Did you mean 'shard_problems'"),
        ({"sampling": {"temperatur": 1}}, "Did you mean 'temperature'"),
        ({"sampling": {"top_p": 0}}, "sampling.top_p"),
    ],
)
def test_configuration_is_checked(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config("model", Path("b"), **changes)


def test_model_without_chat_template_is_refused(model: str, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(model)
    tokenizer.chat_template = None
    TransformersEngine(model).model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match="has no chat template"):
        run(config(str(tmp_path / "model"), tmp_path / "b"))
    assert not (tmp_path / "b.partial").exists()
