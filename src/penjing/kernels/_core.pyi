from array import array

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
        high: NDArray[np.uint8] | None = None,
        zeros: NDArray[np.uint8] | None = None,
        table: NDArray[np.int8] | None = None,
    ) -> None: ...
    @property
    def format(self) -> str: ...
    @property
    def rows(self) -> int: ...
    @property
    def columns(self) -> int: ...
    @property
    def group_size(self) -> int: ...
    @property
    def is_integer(self) -> bool:
        """Whether it multiplies quantized rows; any other takes rows of floats."""

def available_kernels() -> list[str]: ...
def linear_float(
    matrix: Matrix, x: NDArray[np.float32], isa: str, threads: int, out: NDArray[np.float32]
) -> None: ...
def linear_int(
    matrix: Matrix,
    tier: str,
    tokens: int,
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
def crc32c(buffers: list[NDArray[np.uint8]], threads: int) -> list[int]: ...
def crc32c_portable(bytes: NDArray[np.uint8]) -> int: ...

class Projection:
    """A matrix and its bias, float32 [2, rows] (fast, best), or None. ValueError for other lengths."""

    def __init__(self, matrix: Matrix, bias: NDArray[np.float32] | None) -> None: ...

class Block:
    """One decoder layer. projections: query, key, value, output.

    feed_forwards: gate, up and down; of each expert, where there is a router. rotation: index among the
    model's. Norms are float32 [2, length] (fast, best); query_norm and key_norm come together. Raises
    ValueError for unknown KV formats.
    """

    def __init__(
        self,
        num_heads: int,
        num_kv_heads: int,
        intermediate_size: int,
        sliding_window: int | None,
        rotation: int,
        attention_scale: float,
        attention_softcap: float | None,
        key_format: str,
        value_format: str,
        attention_norm: NDArray[np.float32],
        feed_forward_norm: NDArray[np.float32],
        post_attention_norm: NDArray[np.float32] | None,
        post_feed_forward_norm: NDArray[np.float32] | None,
        query_norm: NDArray[np.float32] | None,
        key_norm: NDArray[np.float32] | None,
        projections: list[Projection],
        feed_forwards: list[list[Projection]],
        router: Projection | None,
        experts_per_token: int,
        normalize_experts: bool,
    ) -> None: ...

class Sequence:
    """One sequence's share of a step, its integers copied. See penjing.engine.step.StepSequence."""

    def __init__(
        self,
        tokens: NDArray[np.int32],
        first_position: int,
        pages: NDArray[np.int32],
        wanted: NDArray[np.int32],
        tier: str,
        allowed: NDArray[np.bool_] | None,
    ) -> None: ...

class Model:
    """A decoder, its threads and its KV memory. Raises ValueError for shapes that do not fit together.

    rotations: inverse frequencies, and the factor of cosine and sine.
    """

    def __init__(
        self,
        isa: str,
        threads: int,
        vocab_size: int,
        hidden_size: int,
        head_dim: int,
        max_positions: int,
        norm_eps: float,
        embedding_scale: float,
        logit_softcap: float | None,
        activation: str,
        rotations: list[tuple[list[float], float]],
        embedding: Matrix,
        head: Matrix,
        final_norm: NDArray[np.float32],
        blocks: list[Block],
    ) -> None: ...
    @property
    def num_pages(self) -> int: ...
    @property
    def bytes_per_page(self) -> int: ...
    def allocate(self, num_pages: int) -> None: ...
    def copy_page(self, source: int, target: int) -> None: ...
    def step(self, sequences: list[Sequence], logits: NDArray[np.float32]) -> None: ...

class SamplingOptions:
    """What penjing.engine.sampling.Sampling says of a choice.

    num_alternatives: None for no log-probability.
    """

    def __init__(
        self,
        logit_bias: list[tuple[int, float]],
        repetition_penalty: float,
        temperature: float,
        top_k: int,
        top_p: float,
        min_p: float,
        seed: int,
        num_alternatives: int | None,
    ) -> None: ...

class Choice:
    """A chosen token, or None if the logits cannot be chosen from."""

    @property
    def token(self) -> int | None: ...
    @property
    def log_probability(self) -> float: ...
    @property
    def alternatives(self) -> list[tuple[int, float]]: ...

class Sampler:
    """See penjing.engine.sampling.Sampler. Raises ValueError for rows and tokens out of range."""

    def __init__(self, isa: str, threads: int) -> None: ...
    def choose(
        self,
        logits: NDArray[np.float32],
        rows: list[int],
        options: list[SamplingOptions],
        tokens: list[array[int]],
    ) -> list[Choice]: ...
    def log_normalizers(self, logits: NDArray[np.float32], out: NDArray[np.float64]) -> None: ...

def rms_norm(
    x: NDArray[np.float32], weight: NDArray[np.float32], eps: float, isa: str, out: NDArray[np.float32]
) -> None: ...
def rotate(
    head: NDArray[np.float32], cosine: NDArray[np.float32], sine: NDArray[np.float32], isa: str
) -> None: ...
def gate_multiply(
    gate: NDArray[np.float32], up: NDArray[np.float32], activation: str, isa: str, out: NDArray[np.float32]
) -> None: ...
def softcap(values: NDArray[np.float32], cap: float, isa: str) -> None: ...
def softmax(values: NDArray[np.float32], isa: str) -> None: ...
def written_page(vectors: NDArray[np.float32], format: str, keys: bool, isa: str) -> bytes: ...

class Attention:
    """Keys and values of one block in pages, float32 [tokens, kv_heads, head_dim]; for tests and timings.

    Raises ValueError for pages out of range or too few.
    """

    def __init__(
        self,
        keys: NDArray[np.float32],
        values: NDArray[np.float32],
        key_format: str,
        value_format: str,
        pages: NDArray[np.int32],
        isa: str,
    ) -> None: ...
    def attend(
        self,
        query: NDArray[np.float32],
        position: int,
        window: int,
        scale: float,
        softcap: float,
        tile_rows: int,
        parts: bool,
        out: NDArray[np.float32],
    ) -> None:
        """query, out: float32 [rows, kv_heads, queries, head_dim]; row r is at position + r.

        window: positions a row sees, 0 for all; softcap: 0 for none; tile_rows: rows computed together;
        parts: spans one by one, merged after. Raises ValueError for shapes and positions that do not fit.
        """

def run_tasks(threads: int, tasks: int, loops: int, failing: int) -> list[int]: ...
