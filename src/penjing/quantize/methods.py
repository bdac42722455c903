"""The table of methods: what each needs to know of a matrix's inputs, and the function that makes codes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from penjing.formats.codes import Codes
from penjing.models.statistics import InputStatistics
from penjing.quantize.awq import AwqConfig, channel_scales, rescale_statistics
from penjing.quantize.gptq import GptqConfig, gptq
from penjing.quantize.pipeline import AutoConfig, auto
from penjing.quantize.qronos import QronosConfig, qronos
from penjing.quantize.search import SearchConfig, search
from penjing.quantize.smoothquant import SmoothquantConfig, smoothing_scales
from penjing.spec import MethodName, QuantizeStep, WeightFormat


@dataclass(frozen=True, eq=False)
class StageStatistics:
    """What is known of one input. calibration, held: of the text that methods see, and of the text held apart
    for `auto` (None for other methods). largest: max |x| of each input, float32 [K], for `smoothquant`.
    """

    calibration: InputStatistics
    held: InputStatistics | None
    largest: Tensor | None

    def rescaled(self, scales: Tensor) -> StageStatistics:
        """The same after inputs are divided by channel scales."""
        held = None if self.held is None else rescale_statistics(self.held, scales)
        largest = None if self.largest is None else self.largest / scales
        return StageStatistics(rescale_statistics(self.calibration, scales), held, largest)


Round = Callable[[Tensor, StageStatistics, WeightFormat, QuantizeStep], Codes]
Scale = Callable[[Sequence[Tensor], StageStatistics, WeightFormat], Tensor]


@dataclass(frozen=True)
class Method:
    """round: float32 [N, K] to Codes. scale: channel scales of all matrices that read one input of a norm, or
    None. cross, held, largest: which statistics it reads beside the Gram.
    """

    round: Round
    scale: Scale | None = None
    cross: bool = False
    held: bool = False
    largest: bool = False


def by_search(weight: Tensor, statistics: StageStatistics, format: WeightFormat, _: QuantizeStep) -> Codes:
    """Scales searched with each input's importance."""
    return search(weight, statistics.calibration, format, SearchConfig())


def by_gptq(weight: Tensor, statistics: StageStatistics, format: WeightFormat, step: QuantizeStep) -> Codes:
    """GPTQ on searched scales."""
    return gptq(weight, statistics.calibration, format, GptqConfig(damping=step.damping))


def by_qronos(weight: Tensor, statistics: StageStatistics, format: WeightFormat, step: QuantizeStep) -> Codes:
    """GPTQ of the target that makes up for earlier rounding."""
    config = QronosConfig(damping=step.damping, gptq=GptqConfig(damping=step.damping))
    return qronos(weight, statistics.calibration, format, config)


def by_auto(weight: Tensor, statistics: StageStatistics, format: WeightFormat, step: QuantizeStep) -> Codes:
    """Every stage that lowers the error on text held apart."""
    config = AutoConfig(gptq=GptqConfig(damping=step.damping), target_damping=step.damping)
    return auto(weight, statistics.calibration, format, config, statistics.held)[0]


def awq_scales(weights: Sequence[Tensor], statistics: StageStatistics, format: WeightFormat) -> Tensor:
    """Channel scales that lower the error of the outputs."""
    return channel_scales(weights, statistics.calibration, format, AwqConfig())


def smoothquant_scales(weights: Sequence[Tensor], statistics: StageStatistics, _: WeightFormat) -> Tensor:
    """Channel scales that move outliers of activations into the weights."""
    assert statistics.largest is not None
    return smoothing_scales(weights, statistics.largest, SmoothquantConfig())


METHODS: dict[MethodName, Method] = {
    "awq": Method(by_search, scale=awq_scales),
    "smoothquant": Method(by_search, scale=smoothquant_scales, largest=True),
    "gptq": Method(by_gptq),
    "qronos": Method(by_qronos, cross=True),
    "auto": Method(by_auto, cross=True, held=True),
}
