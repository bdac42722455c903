"""Data-free methods that are textbook forms in torch: by percentile, and by least squared error."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from penjing.errors import SpecError
from penjing.formats import Encoded, encode
from penjing.formats.packing import pack
from penjing.models.torch_model import tensor_of
from penjing.quantize.ranges import PercentileConfig, mse, percentile
from penjing.quantize.search import SearchConfig
from penjing.spec import MethodName, WeightFormat


def encode_by(weight: NDArray[Any], format: WeightFormat, method: MethodName, name: str) -> Encoded:
    """A matrix by method `mse` or `percentile`. Raises as `encode` does; name: for its errors."""
    if format.name == "keep":
        return encode(weight, format, "search", name)
    if format.name == "layered":
        raise SpecError(f"the method {method} makes no second plane: use search or a method with data")
    rows = tensor_of(weight).float()
    if method == "mse":
        return pack(mse(rows, None, format, SearchConfig()))
    return pack(percentile(rows, None, format, PercentileConfig()))
