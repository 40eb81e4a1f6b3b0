"""Checks of `trainer:` blocks before anything is written. They need TRL, so they run where TRL is loaded already."""

import os
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from pear.errors import UserError
from pear.runs import canonical_json
from pear.study.graph import Node
from pear.study.machine import Machine
from pear.study.processes import PRELOAD, start_forkserver, start_process
from pear.study.worker import one_line

if TYPE_CHECKING:
    from pear.stages.grpo import GrpoConfig
    from pear.stages.pretrain import PretrainConfig
    from pear.stages.sft import SftConfig

# How the study file calls the block of a stage.
_BLOCKS = {"sft": "sft", "grpo": "rl", "pretrain": "pretrain"}


def check_trainers(nodes: Sequence[Node], machine: Machine) -> None:
    """Checks the `trainer:` block of every node against TRL's own fields, in a process where TRL is loaded.

    Raises:
        UserError: an unknown key, a value of the wrong type, or a combination that cannot be used.
    """
    distinct = {}
    for node in nodes:
        if node.stage in _BLOCKS:
            distinct[node.stage + canonical_json({**node.config.hashed(), "seed": None})] = node
    if not distinct:
        return
    context = start_forkserver(machine, PRELOAD)
    reader, writer = context.Pipe(duplex=False)
    process = start_process(context, _check, (list(distinct.values()), writer))
    writer.close()
    try:
        error: str | None = reader.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"the check of the trainer blocks ended with status {process.exitcode}") from None
    process.join()
    if error is not None:
        raise UserError(error)


def _check(nodes: Sequence[Node], outcome: Connection) -> None:
    # What libraries print when a configuration is made would be repeated by every stage in its log.
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    for node in nodes:
        try:
            _check_node(node)
        except Exception as error:
            outcome.send(f"{_BLOCKS[node.stage]}: {one_line(error)}")
            return
    outcome.send(None)


def _check_node(node: Node) -> None:
    directory = Path(node.directory)
    if node.stage == "grpo":
        _check_grpo(node.config, directory)  # type: ignore[arg-type]
    else:
        _check_sft(node.config, directory)  # type: ignore[arg-type]


def _check_sft(config: "SftConfig | PretrainConfig", directory: Path) -> None:
    from pear.training.sft_run import sft_arguments

    sft_arguments(
        directory,
        objective=getattr(config, "objective", "nll"),
        objective_kwargs=getattr(config, "objective_kwargs", {}),
        seed=config.seed,
        trainer=config.trainer,
    )
    lora = getattr(config, "lora", None)
    if lora is not None:
        from pear.training.lora import lora_config

        lora_config(lora)


def _check_grpo(config: "GrpoConfig", directory: Path) -> None:
    from pear.stages.grpo import training_arguments

    training_arguments(config, directory)
