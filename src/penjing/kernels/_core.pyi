import numpy as np
from numpy.typing import NDArray

class Matrix:
    """A weight matrix [rows, columns] in tile order; keeps its arrays alive.

    Raises ValueError if a part is missing, unexpected, or of another length than docs/artifact.md says.
    """

    def __init__(
        self,
        format: str,
        rows: int,
        columns: int,
        group_size: int,
        codes: NDArray[np.uint8],
        scales: NDArray[np.uint16] | None = None,
        residual: NDArray[np.uint8] | None = None,
    ) -> None: ...
    @property
    def format(self) -> str: ...
    @property
    def rows(self) -> int: ...
    @property
    def columns(self) -> int: ...
    @property
    def group_size(self) -> int: ...

def available_kernels() -> list[str]: ...
def linear_float(
    matrix: Matrix, x: NDArray[np.float32], isa: str, threads: int, out: NDArray[np.float32]
) -> None: ...
def linear_int(
    matrix: Matrix,
    tier: str,
    codes: NDArray[np.int8],
    scales: NDArray[np.float32],
    sums: NDArray[np.int32],
    isa: str,
    threads: int,
    out: NDArray[np.float32],
) -> None: ...
def quantize_rows(
    x: NDArray[np.float32],
    group_size: int,
    isa: str,
    codes: NDArray[np.int8],
    scales: NDArray[np.float32],
    sums: NDArray[np.int32],
) -> None: ...
def dequantize_row(matrix: Matrix, row: int, tier: str, isa: str, out: NDArray[np.float32]) -> None: ...
def crc32c(bytes: NDArray[np.uint8], threads: int) -> int: ...
def crc32c_portable(bytes: NDArray[np.uint8]) -> int: ...
