"""The table of methods: what each needs to know of a matrix's inputs, and the function that makes codes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from penjing.spec import MethodName, QuantizeStep, WeightFormat

if TYPE_CHECKING:  # methods need torch, which data-free rounding does without
    from torch import Tensor

    from penjing.formats.codes import Codes
    from penjing.quantize.statistics import InputStatistics


@dataclass(frozen=True)
class Method:
    """One row of the table.

    home: module, function and configuration. The function takes (weight float32 [N, K], statistics, format,
    configuration) and returns Codes. cross: whether it uses the original's inputs beside the quantized path's.
    """

    home: tuple[str, str, str]
    cross: bool = False

    def load(self) -> tuple[Callable[..., Codes], Any]:
        """The function and its configuration's class."""
        module = import_module(f"penjing.quantize.{self.home[0]}")
        return getattr(module, self.home[1]), getattr(module, self.home[2])


METHODS: dict[MethodName, Method] = {
    "gptq": Method(("gptq", "gptq", "GptqConfig")),
    "qronos": Method(("qronos", "qronos", "QronosConfig"), cross=True),
}


def run_method(
    step: QuantizeStep, weight: Tensor, statistics: InputStatistics, format: WeightFormat
) -> Codes:
    """Codes of one matrix by the step's method, at its default settings."""
    function, config = METHODS[step.method].load()
    return function(weight, statistics, format, config())
