"""What a running study shows."""

import dataclasses
import io

from rich.console import Console

from pear.study.progress import RunningNode, Snapshot, amount, duration, render, summary

SNAPSHOT = Snapshot(
    running=(
        RunningNode(label="sft nll base_0 seed 0", seconds=12.3, progress={"done": 40, "total": 140, "unit": "steps"}),
        RunningNode(label="grpo nll base_1 seed 1", seconds=0.4, progress=None),
    ),
    stages={"sft": (1, 9), "grpo": (0, 9)},
    failed=1,
    blocked=3,
    elapsed=75.0,
    remaining=412.0,
)


def test_the_table_names_what_runs_and_what_is_left() -> None:
    output = io.StringIO()
    Console(file=output, width=120).print(render(SNAPSHOT))
    text = output.getvalue()
    assert "sft 1/9" in text
    assert "sft nll base_0 seed 0" in text
    assert "40/140 steps" in text
    assert "starting" in text
    assert "1 of 18 done, 1 failed, 3 cannot run for that, 1 min 15 s elapsed, about 7 min left" in text


def test_time_left_is_not_made_up() -> None:
    unknown = Snapshot(running=SNAPSHOT.running, stages={}, failed=0, blocked=0, elapsed=1.0, remaining=None)
    assert summary(unknown) == "0 of 0 done, 1 s elapsed, time left: not known yet"


def test_the_time_of_analyses_that_nobody_has_seen_is_left_open() -> None:
    partly = dataclasses.replace(SNAPSHOT, then_analyses=True)
    assert summary(partly).endswith("about 7 min left, then analyses")


def test_durations_and_amounts() -> None:
    assert [duration(seconds) for seconds in (0.2, 59.6, 61, 3600)] == ["0 s", "1 min 0 s", "1 min 1 s", "1 h 0 min"]
    assert amount({"done": 0.5, "total": 1, "unit": "epochs"}) == "0.5/1 epochs"
