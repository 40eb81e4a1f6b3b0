"""Order and estimates, on graphs whose answer is plain."""

from collections.abc import Callable

import pytest

from pear.study.graph import Node, in_order, path_lengths, remaining_seconds, start_order, typical_durations

Scripted = Callable[..., Node]


def test_nodes_come_after_what_they_read(scripted: Scripted) -> None:
    first = scripted("first")
    second = scripted("second", after=(first,))
    third = scripted("third", after=(first, second))
    assert in_order([third, second, first]) == [first, second, third]


def test_durations_are_medians() -> None:
    assert typical_durations([("sft", 1.0), ("sft", 9.0), ("sft", 2.0), ("grpo", 5.0)]) == {"sft": 2.0, "grpo": 5.0}


def test_path_lengths_count_the_longest_chain(scripted: Scripted) -> None:
    first = scripted("first")
    second = scripted("second", after=(first,))
    side = scripted("side", after=(first,))
    last = scripted("last", after=(second, side))
    lengths = path_lengths([first, second, side, last], {"scripted": 2.0})
    assert lengths == {first.id: 6.0, second.id: 4.0, side.id: 4.0, last.id: 2.0}


def test_an_unknown_stage_counts_as_the_longest_known(scripted: Scripted) -> None:
    node = scripted("a")
    assert path_lengths([node], {"grpo": 7.0, "sft": 3.0}) == {node.id: 7.0}
    assert path_lengths([node], {}) == {node.id: 1.0}


def test_analyses_start_last_and_bring_nothing_forward(scripted: Scripted) -> None:
    read = scripted("read")
    long = scripted("long")
    analyses = [scripted("analysis_0", after=(read,), role="analysis")]
    for number in range(1, 4):
        analyses.append(scripted(f"analysis_{number}", after=(analyses[-1],), role="analysis"))
    nodes = [*analyses, read, long, scripted("after_long", after=(long,)), scripted("shared", role="rl_signal")]
    order = start_order(nodes, {"scripted": 2.0, "scripted analysis": 5.0})
    names = [node.config.name for node in sorted(nodes, key=lambda node: order[node.id])]
    # Without its analyses `read` is the shorter chain; among what comes last, long chains are first again.
    assert names[:3] == ["long", "read", "after_long"]
    assert names[3:7] == [f"analysis_{number}" for number in range(4)]
    assert names[7:] == ["shared"]


def test_kinds_tell_apart_what_takes_longer(scripted: Scripted) -> None:
    kinds = [scripted("a", role=role).kind for role in ("eval", "grpo", "probe", "calibration", "rl_signal")]
    assert kinds == ["scripted", "scripted", "scripted probe", "scripted calibration", "scripted rl_signal"]


@pytest.mark.parametrize(("slots", "seconds"), [(1, 40.0), (2, 20.0), (3, 20.0), (4, 10.0)])
def test_remaining_time_of_independent_nodes(scripted: Scripted, slots: int, seconds: float) -> None:
    nodes = [scripted(name) for name in "abcd"]
    assert remaining_seconds(nodes, {}, {"scripted": 10.0}, slots) == seconds


def test_remaining_time_follows_chains_and_what_runs(scripted: Scripted) -> None:
    first = scripted("first")
    second = scripted("second", after=(first,))
    third = scripted("third", after=(second,))
    other = scripted("other")
    durations = {"scripted": 10.0}
    assert remaining_seconds([first, second, third, other], {first.id: 3.0}, durations, 2) == 23.0
    assert remaining_seconds([first, second, third, other], {first.id: 3.0}, durations, 1) == 33.0
    assert remaining_seconds([third], {}, durations, 1) == 10.0  # what it reads is finished


def test_remaining_time_is_unknown_before_a_stage_was_seen(scripted: Scripted) -> None:
    first = scripted("first")
    second = scripted("second", after=(first,))
    assert remaining_seconds([first, second], {first.id: 3.0}, {}, 2) is None
    assert remaining_seconds([first], {first.id: 3.0}, {}, 2) == 3.0
