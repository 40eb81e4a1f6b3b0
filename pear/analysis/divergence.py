"""How far training moved a model's distribution from its start, and how well both predict held-out trajectories."""

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from pear.analysis.request import Request
from pear.analysis.tables import write_table
from pear.configuration import StrictModel

if TYPE_CHECKING:
    import pyarrow

VERSION = 1
REQUIRES = frozenset({"after", "buffer"})
TRAJECTORIES = "trajectories.parquet"


class Settings(StrictModel):
    """Settings of the divergence.

    Args:
        chunk_tokens: response tokens whose logits are held at once, for each of the two models.
    """

    chunk_tokens: Annotated[int, Field(gt=0)] = 256


def check(request: Request) -> None:
    """Raises `UserError` for models or a buffer that cannot be compared; loads no weights and writes nothing."""
    from pear.analysis.forward import read_calibration

    read_calibration(request)


def analyze(request: Request) -> dict[str, Any]:
    """KL(before || after) and the NLL of both on the buffer's correct trajectories; writes `trajectories.parquet`.

        KL = mean_i mean_t sum_v pi_before(v | s_it) log (pi_before(v | s_it) / pi_after(v | s_it))

    Source: arXiv 2602.01058, Appendix A.1: response tokens only, mean within a sequence, then across sequences; full
    vocabulary, temperature 1. The intervals resample sequences, within their tasks.

    Raises:
        UserError: as `check`, and where a model cannot be loaded.
        ValueError: a value is not finite (names the trajectory).
    """
    from pear.analysis.forward import token_table

    tokens = token_table(request, direction="before || after")
    trajectories = sequence_means(tokens)
    write_table(request.work / TRAJECTORIES, trajectories)
    return {
        **{f"divergence/{name}": _interval(trajectories, name) for name in ("forward_kl", "nll", "nll_before")},
        **{f"divergence/{name}_per_token": _token_mean(trajectories, name) for name in ("nll", "nll_before")},
        "divergence/trajectories": trajectories.num_rows,
        "divergence/tokens": sum(trajectories["num_tokens"].to_pylist()),
    }


def sequence_means(tokens: "pyarrow.Table") -> "pyarrow.Table":
    """Means over each trajectory's response tokens: problem_id, task, num_tokens, forward_kl, nll, nll_before."""
    import numpy
    import pyarrow

    def means(column: str, sign: int = 1) -> list[float]:
        # + 0.0 turns the -0.0 of a token that is certain into 0.0.
        return [sign * float(numpy.mean(values, dtype=numpy.float64)) + 0.0 for values in tokens[column].to_pylist()]

    return pyarrow.table(
        {
            "problem_id": tokens["problem_id"],
            "task": tokens["task"],
            "num_tokens": [len(values) for values in tokens["divergence"].to_pylist()],
            "forward_kl": means("divergence"),
            "nll": means("after_log_probs", -1),
            "nll_before": means("before_log_probs", -1),
        }
    )


def _interval(trajectories: "pyarrow.Table", name: str) -> dict[str, Any]:
    from pear.ops.statistics import bootstrap_interval

    interval = bootstrap_interval(trajectories[name].to_pylist(), strata=trajectories["task"].to_pylist())
    return {"value": interval.value, "low": interval.low, "high": interval.high, "n": interval.n}


def _token_mean(trajectories: "pyarrow.Table", name: str) -> float:
    import numpy

    return float(numpy.average(trajectories[name].to_numpy(), weights=trajectories["num_tokens"].to_numpy()))
