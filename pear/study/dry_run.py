"""`pear study --dry-run`: the stages of a study, the command of each, tokens at most, and memory per device.

Nothing is run, written or downloaded, and no problem is made or read: how many there are is what the recipe says.
"""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pear.configuration import StrictModel
from pear.study.config import StudyConfig
from pear.study.estimates import (
    PROMPT_TOKENS,
    dtype_bytes,
    sampling_memory,
    sharding_of,
    trained_weight_bytes,
    training_memory,
)
from pear.study.graph import Node
from pear.study.plan import make_plan
from pear.study.shapes import Shape, shape_of
from pear.tasks import TASKS, GeneratedTask
from pear.tasks.problems import ProblemSet

# SFTConfig's own, where a recipe says nothing.
_MAX_LENGTH, _BATCH = 1024, 8
_UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class StageEstimate:
    """What a stage will take.

    Args:
        node: the stage.
        tokens: sampled or trained on, at most; None where the recipe does not say how many problems there are.
        memory: per device, or why it is not known.
    """

    node: Node
    tokens: int | None
    memory: str


def dry_run_text(studies: Mapping[str | None, StudyConfig], directory: Path, *, probe: bool = False) -> str:
    """What `pear study --dry-run` prints, for the studies of one file.

    Raises:
        UserError: as `run_studies`, but for what needs the problems or TRL to be known.
    """
    parts = []
    for name, config in studies.items():
        place = directory if name is None else directory / name
        parts.append(_study_text(config.name, estimate_stages(config, place, probe=probe)))
    return "\n\n".join(parts)


def estimate_stages(config: StudyConfig, study_dir: Path, *, probe: bool = False) -> list[StageEstimate]:
    """Every stage of a study in an order in which they can run, with what it will take."""
    nodes = make_plan(config, study_dir, probe=probe, load=False).nodes
    estimator = _Estimator({str(node.directory): node for node in nodes})
    return [
        StageEstimate(node=node, tokens=estimator.tokens(node), memory=estimator.memory(node.config, node.stage))
        for node in nodes
    ]


def command(stage: str, config: StrictModel) -> str:
    """The command that runs a stage alone, with every value that is not the default.

    >>> from pear.stages.rescale import RescaleConfig
    >>> command("rescale", RescaleConfig(base="a", model="b", norm_of="c", output_dir="d"))
    'pear rescale --base a --model b --norm-of c --output-dir d'
    """
    return shlex.join(["pear", stage, *_words(config, "")])


def _words(config: StrictModel, prefix: str) -> list[str]:
    words: list[str] = []
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if value == field.get_default(call_default_factory=True):
            continue
        flag = f"--{prefix}{name.replace('_', '-')}"
        if isinstance(value, StrictModel):
            words += _words(value, f"{prefix}{name.replace('_', '-')}.")
        elif isinstance(value, list | tuple):
            words += [flag, *map(_word, value)]
        else:
            words += [flag, _word(value)]
    return words


def _word(value: Any) -> str:
    if isinstance(value, ProblemSet):
        pairs = value.model_dump(mode="json", exclude_defaults=True)
        return ",".join(f"{key}={item}" for key, item in pairs.items())
    return json.dumps(value) if isinstance(value, dict) else str(value)


class _Estimator:
    """Knows the nodes by the directories that later ones read."""

    def __init__(self, nodes: Mapping[str, Node]) -> None:
        self._nodes = nodes

    def tokens(self, node: Node) -> int | None:
        """Tokens sampled (of completions) or trained on (with prompts), at most; 0 for stages that do neither."""
        config: Any = node.config
        if node.stage == "pretrain":
            rows = config.examples if config.examples is not None else _count(config.problems)
            return self._trained(config, rows)
        if node.stage == "collect":
            return _times(_collected(config), config.sampling.samples * config.sampling.max_tokens)
        if node.stage == "sft":
            return self._trained(config, self._rows(config.buffer))
        if node.stage == "grpo":
            return int(config.steps * config.prompts_per_step * config.group_size * config.max_completion_tokens)
        if node.stage == "evaluate":
            several = len(config.temperature) if isinstance(config.temperature, list) else 1
            return _times(_count(config.problems), config.samples * several * config.max_tokens)
        return 0

    def memory(self, config: Any, stage: str) -> str:
        """The peak per device in words."""
        if stage in ("rescale", "analyze"):
            return "not estimated"
        if stage == "pretrain":
            return _trainer_memory(_pretrained(config), config.trainer, config, references=0)
        shape = self._shape(config.model)
        if shape is None:
            return f"{_UNKNOWN}: nothing is known of the shape of {config.model}"
        if stage == "sft":
            references = sum(path is not None for path in (config.ref_model, config.teacher_model))
            references += config.ref_model is None and _needs_reference(config)
            return _trainer_memory(shape, config.trainer, config, references=references)
        if stage == "grpo":
            return _grpo_memory(shape, config)
        return _engine_memory(shape, config)

    def _trained(self, config: Any, rows: int | None) -> int | None:
        trainer = config.trainer
        length = _number(trainer.get("max_length", _MAX_LENGTH))
        if length is None:
            return None
        steps = _number(trainer.get("max_steps")) or 0
        if steps > 0:
            batch = _number(trainer.get("per_device_train_batch_size", _BATCH)) or _BATCH
            batch *= _number(trainer.get("gradient_accumulation_steps", 1)) or 1
            return int(steps * batch * getattr(config, "processes", 1) * length)
        epochs = float(trainer.get("num_train_epochs", 1))
        return None if rows is None else int(rows * epochs * length)

    def _rows(self, buffer: str) -> int | None:
        node = self._nodes.get(buffer)
        if node is None:
            return None
        config: Any = node.config
        samples = config.sampling.samples
        kept = [
            samples if most is None else most for most in (config.max_correct_per_problem, config.max_wrong_per_problem)
        ]
        return _times(_collected(config), min(samples, sum(kept)))

    def _shape(self, model: str) -> Shape | None:
        """That of a model from elsewhere, or of what the study makes of one."""
        for directory in (model, str(Path(model).parent)):
            node = self._nodes.get(directory)
            if node is not None:
                config: Any = node.config
                return _pretrained(config) if node.stage == "pretrain" else self._shape(config.model)
        return shape_of(model)


def _trainer_memory(shape: Shape, trainer: dict[str, Any], config: Any, *, references: int) -> str:
    length = _number(trainer.get("max_length", _MAX_LENGTH))
    if length is None:
        return f"{_UNKNOWN}: set trainer.max_length"
    batch = _number(trainer.get("per_device_train_batch_size", _BATCH)) or _BATCH
    return _training_sentence(shape, trainer, config, tokens=batch * length, references=references)


def _grpo_memory(shape: Shape, config: Any) -> str:
    completions = config.prompts_per_step * config.group_size // config.processes
    length = config.max_completion_tokens + PROMPT_TOKENS
    by_itself = not config.trainer.get("use_vllm")
    sentence = _training_sentence(
        shape,
        config.trainer,
        config,
        tokens=config.micro_batch * length,
        references=int(config.beta > 0),
        cached_tokens=completions * length if by_itself else 0,
    )
    if by_itself:
        return sentence
    if config.trainer.get("vllm_mode", "colocate") == "server":
        return f"{sentence}; and what the vLLM server takes on its own devices"
    share = config.trainer.get("vllm_gpu_memory_utilization", 0.3)
    return f"{sentence}; and {share} of each device for vLLM"


def _training_sentence(
    shape: Shape, trainer: dict[str, Any], config: Any, *, tokens: int, references: int, cached_tokens: int = 0
) -> str:
    name = getattr(config, "accelerate_config", None)
    sharding = sharding_of(name)
    if sharding is None:
        return f"{_UNKNOWN}: it depends on {name}"
    width = trained_weight_bytes(shape, trainer)
    adapter = getattr(config, "lora", None) is not None
    memory = training_memory(
        shape,
        tokens=tokens,
        checkpointing=bool(trainer.get("gradient_checkpointing", not trainer.get("use_cpu"))),
        weight_bytes=width,
        autocast=bool(trainer.get("bf16", not trainer.get("use_cpu"))),
        references=references,
        processes=getattr(config, "processes", 1),
        sharding=sharding,
        cached_tokens=cached_tokens,
        adapter=adapter,
    )
    return memory.sentence() + (", without the adapter's own" if adapter else "")


def _engine_memory(shape: Shape, config: Any) -> str:
    engine, settings = config.engine, config.engine_kwargs
    if engine == "ray":
        settings = settings.get("engine_kwargs", {})
        engine = config.engine_kwargs.get("engine", "transformers")
    width = dtype_bytes(config.dtype, shape)
    if engine == "server":
        return "on the servers"
    if engine == "vllm":
        share = settings.get("gpu_memory_utilization", 0.9)
        return f"{share} of each device, at least {sampling_memory(shape, tokens=0, weight_bytes=width).sentence()}"
    return sampling_memory(shape, tokens=config.batch_tokens, weight_bytes=width).sentence()


def _needs_reference(config: Any) -> bool:
    from pear.objectives import make_objective

    return "ref_log_probs" in make_objective(config.objective, config.objective_kwargs).requires


def _pretrained(config: Any) -> Shape:
    words: set[str] = set()
    for item in config.problems:
        task = TASKS[item.task]
        words.update(getattr(task, "vocabulary", None) or () if isinstance(task, GeneratedTask) else ())
    return Shape(
        family="qwen3",
        hidden=config.hidden_size,
        feed_forward=4 * config.hidden_size,
        layers=config.num_layers,
        heads=config.num_heads,
        key_value_heads=config.num_heads,
        head_size=config.hidden_size // config.num_heads,
        vocabulary=len(words),
        tied=True,
        weight_bytes=4,
    )


def _count(sets: list[ProblemSet]) -> int | None:
    """How many problems sets have; None where one does not say."""
    sizes = [item.size for item in sets]
    return None if None in sizes else sum(size for size in sizes if size is not None)


def _collected(config: Any) -> int | None:
    return config.size if config.size is not None else _count(config.problems)


def _times(count: int | None, each: int) -> int | None:
    return None if count is None else count * each


def _number(value: Any) -> int | None:
    """A whole number as YAML or the command line gave it."""
    try:
        return int(float(value))
    except (TypeError, ValueError):
        return None


def _tokens_text(tokens: int | None) -> str:
    return f"tokens {_UNKNOWN}: a set of problems has no `size`" if tokens is None else f"at most {tokens:,} tokens"


def _study_text(name: str, stages: list[StageEstimate]) -> str:
    lines = [f"{name}: {len(stages)} stages. Nothing is run. Memory is an estimate for GPUs (docs/many_devices.md)."]
    for stage in stages:
        taken = "" if stage.tokens == 0 else f"{_tokens_text(stage.tokens)}; "
        lines += ["", stage.node.label, f"  {command(stage.node.stage, stage.node.config)}"]
        lines.append(f"  {taken}memory: {stage.memory}")
    lines.append("")
    for kind in dict.fromkeys(stage.node.stage for stage in stages):
        found = [stage.tokens for stage in stages if stage.node.stage == kind]
        known = sum(tokens for tokens in found if tokens is not None)
        more = f", and {found.count(None)} of unknown size" if None in found else ""
        lines.append(f"{kind}: {len(found)} stages, at most {known:,} tokens{more}")
    return "\n".join(lines)
