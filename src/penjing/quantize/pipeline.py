"""`auto`: the stages that lose least, in order, each kept only where it lowers the measured error.

For every matrix of the block walk:

1. search    weighted scales (and zeros), nearest codes
2. qronos    the target that makes up for earlier rounding, and GPTQ of it
3. refit     all scales of a row in closed form, codes frozen
4. descent   codes by coordinate descent, scales frozen
5. refit     again

The error is that of the outputs against the original's, on text that no stage has seen (`held`). After the
walk comes `tune`, over the whole model and under the same rule. docs/quality.md has what each stage gives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from penjing.formats.codes import Codes
from penjing.models.statistics import InputStatistics, excess_error
from penjing.quantize.descent import DescentConfig, descend
from penjing.quantize.gptq import GptqConfig, feed_back
from penjing.quantize.matrix import Placement
from penjing.quantize.qronos import corrected_target
from penjing.quantize.refit import RefitConfig, refit
from penjing.quantize.search import SearchConfig, search_placement
from penjing.spec import WeightFormat


@dataclass(frozen=True)
class AutoConfig:
    """The settings of each stage. target_damping: of the corrected target, in parts of the Gram's mean
    diagonal.
    """

    search: SearchConfig = field(default_factory=SearchConfig)
    gptq: GptqConfig = field(default_factory=GptqConfig)
    refit: RefitConfig = field(default_factory=RefitConfig)
    descent: DescentConfig = field(default_factory=DescentConfig)
    target_damping: float = 0.01


@dataclass(frozen=True, eq=False)
class Attempt:
    """A matrix between two stages: the original, what it should be, and codes on a placed grid, whose levels
    are the `table` of formats that have one.
    """

    weight: Tensor
    target: Tensor
    placement: Placement
    codes: Tensor
    table: NDArray[np.int8] | None


@dataclass(frozen=True)
class StageResult:
    """What a stage made of the held-apart error, and whether it stayed."""

    name: str
    error: float
    kept: bool


Stage = Callable[[Attempt, InputStatistics, WeightFormat, AutoConfig], Attempt]


def auto(
    weight: Tensor,
    statistics: InputStatistics,
    format: WeightFormat,
    config: AutoConfig,
    held: InputStatistics | None = None,
) -> tuple[Codes, tuple[StageResult, ...]]:
    """Codes of a float32 matrix [N, K], and what each stage gave.

    statistics: of the calibration text. held: of text held apart, by which stages are judged (None: by
    `statistics`). A `layered` format gets its base plane alone: `add_residual` makes the second one, of the
    inputs on the path of tier `best`. Raises as `search` and `gptq` do.
    """
    judged = held or statistics
    placement, table = search_placement(weight, statistics, format, config.search)
    best = Attempt(weight, weight, placement, placement.nearest(weight), table)
    least = error_of(best, weight, judged)
    results = [StageResult("search", least, kept=True)]
    for name, stage in STAGES:
        attempt = stage(best, statistics, format, config)
        error = error_of(attempt, weight, judged)
        results.append(StageResult(name, error, kept=error < least))
        if error < least:
            best, least = attempt, error
    return best.placement.to_codes(best.codes, format, table), tuple(results)


def error_of(attempt: Attempt, weight: Tensor, judged: InputStatistics) -> float:
    """Squared error of the outputs on the judged text, beyond that of the unrounded weight."""
    return excess_error(attempt.placement.values(attempt.codes), weight, judged)


def with_feedback(
    attempt: Attempt, statistics: InputStatistics, format: WeightFormat, config: AutoConfig
) -> Attempt:
    """GPTQ of the corrected target, on scales searched for it."""
    target = corrected_target(attempt.target, statistics, config.target_damping)
    placement, _ = search_placement(target, statistics, format, config.search, attempt.table)
    codes = feed_back(target, statistics, placement, config.gptq, attempt.weight)
    return replace(attempt, target=target, placement=placement, codes=codes)


def with_refit(
    attempt: Attempt, statistics: InputStatistics, format: WeightFormat, config: AutoConfig
) -> Attempt:
    """Refitted scales; those of `mxfp4` are powers of two and stay."""
    if format.name == "mxfp4":
        return attempt
    placement = refit(attempt.target, statistics, attempt.placement, attempt.codes, config.refit)
    return replace(attempt, placement=placement)


def with_descent(
    attempt: Attempt,
    statistics: InputStatistics,
    format: WeightFormat,  # noqa: ARG001 (every stage is called alike)
    config: AutoConfig,
) -> Attempt:
    """Codes after coordinate descent."""
    codes = descend(
        attempt.target,
        statistics,
        attempt.placement,
        attempt.codes,
        config.descent,
        weight=attempt.weight,
    )
    return replace(attempt, codes=codes)


STAGES: tuple[tuple[str, Stage], ...] = (
    ("qronos", with_feedback),
    ("refit", with_refit),
    ("descent", with_descent),
    ("refit", with_refit),
)
