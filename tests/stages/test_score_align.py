"""`pear score --align`: trajectories of one tokenizer for a target of another, and SFT on them."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from pear.data.alignment import SPANS
from pear.data.buffer import load_buffer, read_manifest
from pear.data.rendering import load_tokenizer, render_prompt, tokenizer_digest
from pear.engines.transformers_engine import load_model
from pear.errors import UserError
from pear.ops.spans import pooled_log_ratios, span_block_log_weights
from pear.runs import MANIFEST
from pear.stages import collect, inspect, score, sft
from pear.training.tiny_models import build_model
from tests.byte_pairs import byte_pair_tokenizer
from tests.engines import naive

ROWS = [
    {
        "messages": [{"role": "user", "content": f"compute {n} + 3"}, {"role": "assistant", "content": text}],
        "id": f"p{n}",
    }
    for n, text in enumerate(
        [
            "hello there, the answer is 46",
            "größer 🙂, so the answer",
            "a word and the world 12345",
            "answer\n    indented",
        ]
    )
]


def save_model(directory: Path, tokenizer: Any, seed: int) -> str:
    torch.manual_seed(seed)
    build_model(tokenizer, hidden_size=16, num_layers=1, num_heads=2).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)


@pytest.fixture(scope="module")
def behavior(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_model(tmp_path_factory.mktemp("models") / "behavior", byte_pair_tokenizer(400), 0)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_model(tmp_path_factory.mktemp("models") / "target", byte_pair_tokenizer(280, eos="<|end|>"), 1)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return path


def scored(model: str, source: Path, output_dir: Path, **changes: Any) -> Path:
    values = {"model": model, "inputs": [str(source)], "output_dir": output_dir, **changes}
    return score.run(score.ScoreConfig.parse(values, source="test"))


@pytest.fixture(scope="module")
def buffer(behavior: str, target: str, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scored(behavior, rows, tmp_path_factory.mktemp("scored") / "buffer", align=target)


def own_log_probs(model: str, messages: list[dict[str, str]], ids: list[int]) -> list[float]:
    tokenizer = load_tokenizer(model)
    prompt = render_prompt(tokenizer, messages)
    return naive.score(load_model(model, "cpu", "float32"), prompt, ids)


def test_the_log_probs_of_spans_are_the_behavior_policys(buffer: Path, behavior: str, target: str) -> None:
    theirs, ours = load_tokenizer(behavior), load_tokenizer(target)
    found = load_buffer(buffer, correct_only=False).to_list()
    assert len(found) == len(ROWS)
    for source, row in zip(ROWS, found, strict=True):
        text = source["messages"][-1]["content"]
        assert (row["completion"], row["finish"], row["behavior_prompt_ids"]) == (text, "stop", None)
        assert row["completion_ids"] == [*ours(text)["input_ids"], ours.eos_token_id]
        ids = [*theirs(text)["input_ids"], theirs.eos_token_id]
        log_probs = own_log_probs(behavior, source["messages"][:-1], ids)
        assert math.fsum(row["behavior_log_probs"]) == pytest.approx(math.fsum(log_probs), abs=1e-4)
        # Each suffix that begins with a span: what is left to say, in both tokenizations.
        for place in range(len(row["completion_ids"])):
            if place and row[SPANS][place] == row[SPANS][place - 1]:
                continue
            said = ours.decode(row["completion_ids"][:place])
            begin = next(count for count in range(len(ids)) if theirs.decode(ids[:count]) == said)
            assert math.fsum(row["behavior_log_probs"][place:]) == pytest.approx(math.fsum(log_probs[begin:]), abs=1e-4)
    manifest = read_manifest(buffer)
    assert manifest.tokenizer_digest == tokenizer_digest(ours)
    assert manifest.aligned_from == tokenizer_digest(theirs)
    assert manifest.stop_token_ids == (ours.eos_token_id,)


def test_sft_weighs_blocks_by_the_ratios_of_spans(buffer: Path, target: str, tmp_path: Path) -> None:
    settings = {"block_size": 4, "gamma": 0.9}
    trainer = {"max_steps": 1, "per_device_train_batch_size": len(ROWS), "logging_steps": 1}
    values = {"model": target, "buffer": str(buffer), "objective": "pear_block", "objective_kwargs": settings}
    run = sft.run(sft.SftConfig.parse({**values, "trainer": trainer, "output_dir": tmp_path / "run"}, source="test"))
    logged = json.loads((run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[0])
    total, count = 0.0, 0
    for row in load_buffer(buffer).to_list():
        log_probs = torch.tensor([own_log_probs(target, row["prompt"], row["completion_ids"])])
        ratio = log_probs - torch.tensor([row["behavior_log_probs"]])
        spans, mask = torch.tensor([row[SPANS]]), torch.ones_like(ratio, dtype=torch.bool)
        weights = span_block_log_weights(
            pooled_log_ratios(ratio, mask, spans),
            mask,
            spans,
            **settings,
            log_ratio_clip=(-0.08, 0.3),
            log_weight_clip=(-10.0, 5.0),
        ).exp()
        total, count = total + weights.sum().item(), count + weights.numel()
    assert logged["weights/mean"] == pytest.approx(total / count, rel=1e-4)


@pytest.mark.parametrize("packing", [False, True])
def test_packed_and_padding_free_rows_keep_their_spans(
    packing: bool, buffer: Path, target: str, tmp_path: Path
) -> None:
    trainer = {"max_steps": 1, "per_device_train_batch_size": len(ROWS), "logging_steps": 1, "max_length": 256}
    values = {"model": target, "buffer": str(buffer), "objective": "pear_block", "objective_kwargs": {"block_size": 3}}
    logged = []
    for name, more in (
        ("plain", {}),
        ("flat", {"packing": True} if packing else {"padding_free": True, "max_length": None}),
    ):
        given = {**values, "trainer": {**trainer, **more}, "output_dir": tmp_path / name}
        run = sft.run(sft.SftConfig.parse(given, source="test"))
        logged.append(json.loads((run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[0]))
    assert logged[0]["weights/mean"] == pytest.approx(logged[1]["weights/mean"], rel=1e-5)


def test_what_reads_tokens_is_refused(buffer: Path, target: str, tmp_path: Path) -> None:
    values = {"model": target, "buffer": str(buffer), "output_dir": tmp_path / "run"}
    with pytest.raises(UserError, match=r"known for spans of text alone.*Use pear_block or pear_sequence"):
        sft.run(sft.SftConfig.parse({**values, "objective": "pear_token"}, source="test"))
    with pytest.raises(UserError, match="those of spans of text"):
        inspect.run(inspect.InspectConfig.parse({**values, "objective": "pear_block"}, source="test"))
    assert not list(tmp_path.iterdir())
    sft.run(sft.SftConfig.parse({**values, "objective": "nll", "trainer": {"max_steps": 1}}, source="test"))


def test_without_the_flag_it_is_an_error_that_explains_it(
    behavior: str, target: str, rows: Path, tmp_path: Path
) -> None:
    plain = scored(behavior, rows, tmp_path / "plain")
    with pytest.raises(UserError, match=r"the token ids mean other text. Carry it over: pear score --align"):
        scored(target, plain, tmp_path / "again")
    values = {"model": target, "buffer": str(plain), "output_dir": tmp_path / "run"}
    with pytest.raises(UserError, match=r"the token ids mean other text. Carry it over: pear score --align"):
        sft.run(sft.SftConfig.parse(values, source="test"))


def test_a_buffer_is_aligned_from_either_side(behavior: str, target: str, tmp_path: Path) -> None:
    """Sampled by the one: its ids are kept. Of the target: scored by a model of another tokenizer, its ids are kept."""
    problems = [{"task": "tiny/affine_chain", "level": "n2", "split": "sft", "size": 6}]
    sampled = {}
    for name, model in (("behavior", behavior), ("target", target)):
        values = {"model": model, "problems": problems, "sampling": {"max_tokens": 6, "samples": 2}}
        sampled[name] = collect.run(
            collect.CollectConfig.parse({**values, "output_dir": tmp_path / name}, source="test")
        )
    results = {}
    for name, source in sampled.items():
        run = scored(behavior, source, tmp_path / f"{name}_aligned", align=target)
        results[name] = json.loads((run / MANIFEST).read_text(encoding="utf-8"))["results"]
        old = load_buffer(source, correct_only=False).to_list()
        new = load_buffer(run, correct_only=False).to_list()
        # Random models break characters off.
        assert results[name]["unaligned"] == len(old) - len(new) < len(old)
        assert {row["finish"] for row in new} <= {row["finish"] for row in old}
        known = {(row["problem_id"], row["completion"]): row for row in old}
        for row in new:
            before = known[row["problem_id"], row["completion"]]
            assert row["finish"] == before["finish"]
            if name == "target":
                assert row["completion_ids"] == before["completion_ids"]
            else:
                total = math.fsum(before["behavior_log_probs"])
                assert math.fsum(row["behavior_log_probs"]) == pytest.approx(total, abs=1e-4)


def test_a_stop_token_that_the_target_does_not_name_is_kept(behavior: str, target: str, tmp_path: Path) -> None:
    """A buffer of the target's ids, whose completions end in a token beside its EOS."""
    from pear.data.buffer import BufferWriter

    tokenizer = load_tokenizer(target)
    stop = tokenizer("!")["input_ids"][0]
    lines = tmp_path / "rows.jsonl"
    ids = [*tokenizer("the answer")["input_ids"], stop]
    lines.write_text(json.dumps({"prompt": "a", "completion_ids": ids}) + "\n", encoding="utf-8")
    plain = scored(target, lines, tmp_path / "plain")
    (tmp_path / "stopped").mkdir()
    manifest = read_manifest(plain).model_copy(update={"stop_token_ids": (stop,), "shards": (), "counts": None})
    writer = BufferWriter(tmp_path / "stopped", manifest)
    rows = [{**row, "finish": "stop", "completion": "the answer"} for row in load_buffer(plain).to_list()]
    writer.write_shard(0, rows)
    writer.close(1)
    run = scored(behavior, tmp_path / "stopped", tmp_path / "aligned", align=target)
    assert load_buffer(run)[0]["completion_ids"] == ids
    assert stop in read_manifest(run).stop_token_ids
    trained = {"model": target, "buffer": str(run), "objective": "pear_sequence", "trainer": {"max_steps": 1}}
    sft.run(sft.SftConfig.parse({**trained, "output_dir": tmp_path / "run"}, source="test"))


def test_mistakes_are_told_before_anything_is_written(behavior: str, target: str, rows: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    with pytest.raises(UserError, match="have the same ordinary tokens"):
        scored(behavior, rows, output, align=behavior)
    with pytest.raises(UserError, match="teacher_top_k: the likeliest tokens of another tokenizer"):
        scored(behavior, rows, output, align=target, teacher_top_k=3)
    composing = save_model(tmp_path / "composing", byte_pair_tokenizer(300, normalize=True), 2)
    decomposed = tmp_path / "rows.jsonl"
    decomposed.write_text(json.dumps({"prompt": "a", "completion": "cafe\u0301"}) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match="none of the trajectories is one text in both"):
        scored(behavior, decomposed, output, align=composing)
    assert not output.exists()
    assert not output.with_name("out.partial").exists()


def test_a_tokenizer_is_enough_of_the_target(behavior: str, rows: Path, tmp_path: Path) -> None:
    byte_pair_tokenizer(280, eos="<|end|>").save_pretrained(tmp_path / "tokenizer")
    run = scored(behavior, rows, tmp_path / "out", align=str(tmp_path / "tokenizer"))
    assert len(load_buffer(run)) == len(ROWS)


def test_an_empty_completion_of_the_target_is_left_out(behavior: str, target: str, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    ids = [load_tokenizer(target).eos_token_id]
    lines = [{"prompt": "a", "completion_ids": ids}, {"prompt": "a", "completion": "the answer"}]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    plain = scored(target, rows, tmp_path / "plain")
    run = scored(behavior, plain, tmp_path / "aligned", align=target)
    assert json.loads((run / MANIFEST).read_text(encoding="utf-8"))["results"]["unaligned"] == 1
