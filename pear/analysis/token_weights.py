"""Where PEAR's weight lies against where training moved the model (Figure 5), with position told apart from weight."""

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from pear.analysis.request import Request
from pear.analysis.tables import write_table
from pear.configuration import StrictModel

if TYPE_CHECKING:
    import pyarrow

VERSION = 1
REQUIRES = frozenset({"after", "buffer"})
BINS = "bins.parquet"
_DIGITS = 6


class Settings(StrictModel):
    """Settings of the token weights; those of the weight are the paper's (Section 4.2).

    Args:
        level: what one weight is shared by: a token's suffix ("token"), a block of `block_size` tokens or the sequence.
        block_size: response tokens in a block.
        gamma: discount for each later response token.
        log_ratio_clip: bounds of log Delta_t.
        log_weight_clip: bounds of log G.
        weight_bins: bins with equally many tokens, by log-weight; fewer where many tokens share one weight.
        resamples: of the intervals over trajectories, and `seed`, of their draws.
        chunk_tokens: response tokens whose logits are held at once, for each of the two models.
    """

    level: Literal["token", "block", "sequence"] = "token"
    block_size: Annotated[int, Field(gt=0)] = 8
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.999
    log_ratio_clip: tuple[float, float] = (-0.08, 0.3)
    log_weight_clip: tuple[float, float] = (-10.0, 5.0)
    weight_bins: Annotated[int, Field(ge=2)] = 8
    resamples: Annotated[int, Field(gt=0)] = 1000
    seed: Annotated[int, Field(ge=0)] = 0
    chunk_tokens: Annotated[int, Field(gt=0)] = 256

    @model_validator(mode="after")
    def _ordered_clips(self) -> Self:
        for name in ("log_ratio_clip", "log_weight_clip"):
            low, high = getattr(self, name)
            if not low <= high:
                raise ValueError(f"{name} is (low, high) with low <= high")
        return self


def check(request: Request) -> None:
    """Raises `UserError` for models or a buffer that cannot be compared; loads no weights and writes nothing."""
    from pear.analysis.forward import read_calibration

    read_calibration(request)


def analyze(request: Request) -> dict[str, Any]:
    """PEAR's weight of each response token against KL(after || before) there; writes `bins.parquet`.

    The weights are those at the start of SFT: theta is `before`, and the behavior policy's log-probs are the buffer's.
    KL is that of the two distributions over the full vocabulary. A weight grows with the ratios of the tokens after it,
    so it depends on the distance from the end, T - t, whatever the token is: therefore the bins by distance, those by
    both, and a rank correlation between tokens at equal distances.

    Source: arXiv 2602.01058, Section 4.6 (RQ1) and Figure 5; weights of Section 3.4 and Algorithm 1.

    Raises:
        UserError: as `check`, and where a model cannot be loaded.
        ValueError: a value is not finite (names the trajectory).
    """
    import pyarrow

    from pear.analysis.forward import token_table
    from pear.analysis.token_bins import bin_rows, rank_correlation, resampled_counts
    from pear.ops.diagnostics import effective_sample_size

    tokens, weights = _tokens(token_table(request, direction="after || before"), request.settings)
    trajectories = int(tokens.trajectory[-1]) + 1
    counts = resampled_counts(trajectories, request.settings.resamples, seed=request.settings.seed)
    rows = bin_rows(tokens, counts, weight_bins=request.settings.weight_bins)
    write_table(request.work / BINS, pyarrow.Table.from_pylist(rows))
    return {
        "token_weights/rank_correlation": rank_correlation(tokens, counts, within_distance=True),
        "token_weights/rank_correlation_any_distance": rank_correlation(tokens, counts, within_distance=False),
        "token_weights/tokens": len(tokens.kl),
        "token_weights/trajectories": trajectories,
        "token_weights/effective_sample_size": effective_sample_size(weights, weights > 0).item(),
    }


def _tokens(table: "pyarrow.Table", settings: Settings) -> tuple[Any, Any]:
    """All response tokens end to end, and their weights as one packed row."""
    import numpy
    import torch

    from pear.analysis.token_bins import Tokens
    from pear.ops.masking import distance_from_end
    from pear.ops.ratios import log_ratios, precise_log_weights

    def flat(name: str) -> Any:
        return table[name].combine_chunks().flatten().to_numpy()

    lengths = [len(values) for values in table["divergence"].to_pylist()]
    trajectory = numpy.repeat(numpy.arange(len(lengths)), lengths)
    segments = torch.from_numpy(trajectory)[None]
    mask = torch.ones_like(segments, dtype=torch.bool)
    before, behavior = (torch.from_numpy(flat(f"{name}_log_probs").copy())[None] for name in ("before", "behavior"))
    log_weights = precise_log_weights(
        log_ratios(before, behavior, response_mask=mask),
        mask,
        level=settings.level,
        block_size=settings.block_size,
        gamma=settings.gamma,
        log_ratio_clip=settings.log_ratio_clip,
        log_weight_clip=settings.log_weight_clip,
        segment_ids=segments,
    )
    tokens = Tokens(
        trajectory=trajectory,
        distance=distance_from_end(mask, segment_ids=segments)[0].numpy(),
        # Sums of clipped ratios are often equal; beyond this digit they differ by rounding, which must not break ties.
        log_weight=log_weights[0].numpy().round(_DIGITS),
        kl=flat("divergence"),
        nll=-flat("before_log_probs"),
    )
    return tokens, log_weights.exp()
