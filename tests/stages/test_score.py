"""`pear score`: log-probs for trajectories from elsewhere, and for a buffer again."""

import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from pear.data.buffer import BUFFER_FILE, BufferWriter, load_buffer, read_manifest
from pear.data.rendering import load_tokenizer
from pear.engines.transformers_engine import load_model
from pear.errors import UserError
from pear.runs import MANIFEST
from pear.stages import collect
from pear.stages.score import ScoreConfig, run
from pear.tasks import Problem
from pear.training.tiny_models import build_model, build_tokenizer
from tests.engines import naive
from tests.training.grpo_fixtures import PROBLEM_SET, PROBLEMS, TASK, save_solver


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_solver(tmp_path_factory.mktemp("models") / "solver", seed=0)


@pytest.fixture(scope="module")
def buffer(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    values = {"samples": 4, "max_tokens": 24, "temperature": 0.9, "top_p": 0.95}
    directory = tmp_path_factory.mktemp("collected") / "buffer"
    return collect.run(
        collect.CollectConfig.parse(
            {"model": model, "problems": [PROBLEM_SET.model_dump()], "sampling": values, "output_dir": directory},
            source="test",
        )
    )


def config(model: str, inputs: list[Path], output_dir: Path, **changes: Any) -> ScoreConfig:
    values = {"model": model, "inputs": [str(path) for path in inputs], "output_dir": output_dir, **changes}
    return ScoreConfig.parse(values, source="test")


def foreign_rows() -> list[dict[str, Any]]:
    return [
        {"messages": [*problem.prompt, {"role": "assistant", "content": solution(problem)}], "id": problem.id}
        for problem in PROBLEMS
    ]


def solution(problem: Problem) -> str:
    text = TASK.solve(problem)
    assert text is not None
    return text


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_collected_and_rescored_log_probs_agree(buffer: Path, model: str, tmp_path: Path) -> None:
    collected = load_buffer(buffer, correct_only=False).to_list()
    # Other batches: 7 rows to a shard, and a budget of a few tokens.
    again = run(config(model, [buffer], tmp_path / "scored", shard_rows=7, memory_gib=1e-4))
    scored = load_buffer(again, correct_only=False).to_list()
    assert len(scored) == len(collected) == 48
    for row, other in zip(scored, collected, strict=True):
        assert row["behavior_log_probs"] == pytest.approx(other["behavior_log_probs"], abs=1e-4)
        assert row["behavior_processed_log_probs"] is None
        kept = set(row) - {"behavior_log_probs", "behavior_processed_log_probs"}
        assert {name: row[name] for name in kept} == {name: other[name] for name in kept}


def test_manifest_of_a_rescored_buffer_says_what_is_still_true(buffer: Path, model: str, tmp_path: Path) -> None:
    before = read_manifest(buffer)
    after = read_manifest(run(config(model, [buffer], tmp_path / "scored")))
    assert after.processed_log_probs is None
    changed = {"processed_log_probs", "shards"}
    assert after.model_dump(exclude=changed) == before.model_dump(exclude=changed)


def test_foreign_text_is_scored_like_the_naive_loop(model: str, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "teacher.jsonl", foreign_rows())
    directory = run(config(model, [path], tmp_path / "scored"))
    tokenizer, loaded = load_tokenizer(model), load_model(model)
    for row, problem in zip(load_buffer(directory), PROBLEMS, strict=True):
        assert row["completion"] == solution(problem)
        assert row["problem_id"] == problem.id
        assert row["completion_ids"] == [*tokenizer(solution(problem))["input_ids"], tokenizer.eos_token_id]
        wanted = naive.score(loaded, row["behavior_prompt_ids"], row["completion_ids"])
        assert row["behavior_log_probs"] == pytest.approx(wanted, abs=1e-4)
    manifest = read_manifest(directory)
    assert (manifest.verified, manifest.sampling, manifest.processed_log_probs) == (False, None, None)


def test_the_teachers_likeliest_tokens_are_written(model: str, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "teacher.jsonl", foreign_rows())
    plain = run(config(model, [path], tmp_path / "plain"))
    # Several shards, and a budget of a few tokens.
    directory = run(config(model, [path], tmp_path / "top", teacher_top_k=3, shard_rows=5, memory_gib=1e-4))
    loaded, without = load_model(model), load_buffer(plain).to_list()
    rows = load_buffer(directory, teacher_top=True).to_list()
    assert len(rows) == len(PROBLEMS) > 10
    for row, other in zip(rows, without, strict=True):
        assert row["behavior_log_probs"] == pytest.approx(other["behavior_log_probs"], abs=1e-4)
        ids = [*row["behavior_prompt_ids"], *row["completion_ids"]]
        for place, log_probs in enumerate(row["teacher_top_log_probs"]):
            wanted = naive.log_softmax(naive.next_logits(loaded, ids[: len(row["behavior_prompt_ids"]) + place]))
            tokens = row["teacher_top_ids"][place]
            assert log_probs == pytest.approx(sorted(wanted, reverse=True)[:3], abs=1e-4)
            assert [wanted[token] for token in tokens] == pytest.approx(log_probs, abs=1e-4)
            # Where the token itself is one of them, both columns hold its log-prob.
            if row["completion_ids"][place] in tokens:
                own = log_probs[tokens.index(row["completion_ids"][place])]
                assert own == pytest.approx(row["behavior_log_probs"][place], abs=1e-5)
    top = read_manifest(directory).teacher_top
    assert top is not None
    assert (top.k, top.temperature, top.model_digest) == (3, 1, read_manifest(plain).behavior_model_digest)
    assert read_manifest(plain).teacher_top is None


def test_scoring_again_forgets_another_teachers_tokens(model: str, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl", foreign_rows()[:3])
    first = run(config(model, [path], tmp_path / "first", teacher_top_k=3))
    assert read_manifest(run(config(model, [first], tmp_path / "none"))).teacher_top is None
    again = run(config(model, [first], tmp_path / "again", teacher_top_k=2))
    assert [len(tokens) for tokens in load_buffer(again, teacher_top=True)["teacher_top_ids"][0]][:2] == [2, 2]


def test_a_killed_run_with_top_tokens_goes_on(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_lines(tmp_path / "rows.jsonl", foreign_rows()[:6])
    settings = {"teacher_top_k": 4, "shard_rows": 2}
    whole = run(config(model, [path], tmp_path / "whole", **settings))
    write = BufferWriter.write_shard

    def killed(self: BufferWriter, index: int, rows: Any) -> None:
        if index == 1:
            raise KeyboardInterrupt
        write(self, index, rows)

    monkeypatch.setattr(BufferWriter, "write_shard", killed)
    with pytest.raises(KeyboardInterrupt):
        run(config(model, [path], tmp_path / "killed", **settings))
    monkeypatch.undo()
    resumed = run(config(model, [path], tmp_path / "killed", **settings))
    for name in (BUFFER_FILE, "shard-00000.parquet", "shard-00001.parquet", "shard-00002.parquet"):
        assert (whole / name).read_bytes() == (resumed / name).read_bytes()


def test_more_top_tokens_than_there_are_is_a_sentence(model: str, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl", foreign_rows()[:1])
    size = load_model(model).config.vocab_size
    with pytest.raises(
        UserError, match=rf"^teacher_top_k: {size + 1}, but the vocabulary of .* has {size} tokens\. Use"
    ):
        run(config(model, [path], tmp_path / "scored", teacher_top_k=size + 1))
    with pytest.raises(UserError, match=r"^test: teacher_top_k: Input should be greater than or equal to 0 \(got -1\)"):
        config(model, [path], tmp_path / "scored", teacher_top_k=-1)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["rows.jsonl"]


def test_every_kind_of_file_gives_the_same_buffer(model: str, tmp_path: Path) -> None:
    rows = foreign_rows()
    write_lines(tmp_path / "rows.jsonl", rows)
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "rows"))
    names = ["rows.jsonl", "rows.json", "rows.parquet", "rows"]
    scored = [load_buffer(run(config(model, [tmp_path / name], tmp_path / f"of {name}"))).to_list() for name in names]
    assert all(found == scored[0] for found in scored)


def test_several_inputs_come_one_after_another(buffer: Path, model: str, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "teacher.jsonl", foreign_rows()[:3])
    directory = run(config(model, [path, buffer], tmp_path / "scored"))
    assert len(load_buffer(directory, correct_only=False)) == 3 + 48
    assert not read_manifest(directory).verified


def test_the_sources_wrong_ones_stay_wrong(model: str, tmp_path: Path) -> None:
    rows = [{**row, "reward": float(number % 2)} for number, row in enumerate(foreign_rows())]
    directory = run(config(model, [write_lines(tmp_path / "rows.jsonl", rows)], tmp_path / "scored"))
    assert len(load_buffer(directory)) == 6


def test_a_killed_run_goes_on_and_two_runs_are_equal(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_lines(tmp_path / "rows.jsonl", foreign_rows())
    whole = run(config(model, [path], tmp_path / "whole", shard_rows=5))
    write = BufferWriter.write_shard

    def killed(self: BufferWriter, index: int, rows: Any) -> None:
        if index == 2:
            raise KeyboardInterrupt
        write(self, index, rows)

    monkeypatch.setattr(BufferWriter, "write_shard", killed)
    with pytest.raises(KeyboardInterrupt):
        run(config(model, [path], tmp_path / "killed", shard_rows=5))
    monkeypatch.undo()
    resumed = run(config(model, [path], tmp_path / "killed", shard_rows=5))
    names = sorted(file.name for file in whole.iterdir() if file.name not in (MANIFEST, ".lock"))
    assert names == [BUFFER_FILE, *(f"shard-0000{index}.parquet" for index in range(3))]
    assert all((whole / name).read_bytes() == (resumed / name).read_bytes() for name in names)


def test_a_complete_run_is_left_alone(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_lines(tmp_path / "rows.jsonl", foreign_rows()[:2])
    run(config(model, [path], tmp_path / "scored"))
    run(config(model, [path], tmp_path / "scored"))
    assert "complete, nothing to do" in capsys.readouterr().err
    with pytest.raises(UserError, match="holds the output of another run"):
        run(config(model, [write_lines(path, foreign_rows()[:3])], tmp_path / "scored"))


def test_buffer_of_another_tokenizer_is_refused(buffer: Path, tmp_path: Path) -> None:
    tokenizer = build_tokenizer(["quite", "other", "words"])
    build_model(tokenizer, hidden_size=16, num_layers=1, num_heads=2).save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match="its vocabulary is not the one of the buffer"):
        run(config(str(tmp_path / "other"), [buffer], tmp_path / "scored"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other"]


FIRST = {"prompt": "start", "completion": "<answer> 1 </answer>"}
FILES: dict[str, tuple[str, str]] = {
    "rows.jsonl": (json.dumps(FIRST) + '\n{"question": "x"}\n', "rows.jsonl, row 2: has the columns question. Known"),
    "broken.jsonl": (json.dumps(FIRST) + "\n{\n", "broken.jsonl, line 2: not valid JSON"),
    "empty.jsonl": ("", "empty.jsonl: no row in it"),
    "long.jsonl": (json.dumps({**FIRST, "completion": "1 " * 600}), "long.jsonl, row 1: 604 tokens, but "),
    "ids.jsonl": (json.dumps({"prompt": "start", "completion_ids": [9999]}), "row 1: the id 9999 is outside"),
    "rows.txt": ("x", "unknown file type '.txt'"),
}


@pytest.mark.parametrize("name", FILES)
def test_mistake_in_a_file_is_a_sentence_and_nothing_is_written(model: str, tmp_path: Path, name: str) -> None:
    text, message = FILES[name]
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as error:
        run(config(model, [tmp_path / name], tmp_path / "scored"))
    assert message in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_directories_that_cannot_be_read_are_refused(model: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: no such file or directory"):
        run(config(model, [tmp_path / "nowhere"], tmp_path / "scored"))
    (tmp_path / "plain").mkdir()
    with pytest.raises(UserError, match="plain: neither a buffer nor written by"):
        run(config(model, [tmp_path / "plain"], tmp_path / "scored"))
    rows = datasets.Dataset.from_list(foreign_rows())
    datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(str(tmp_path / "splits"))
    with pytest.raises(UserError, match=r"several splits \(test, train\). Name one"):
        run(config(model, [tmp_path / "splits"], tmp_path / "scored"))
    assert len(load_buffer(run(config(model, [tmp_path / "splits/train"], tmp_path / "scored")))) == 12
