"""What the table of costs holds: measured seconds, and how they are read between the points measured."""

from __future__ import annotations

import numpy as np

from penjing.measure.sharing import in_chunks
from penjing.spec import Spec


class RowTimes(Spec):
    """Work outside products and attention, one thread. norm, quantize, gate, rotate: seconds a float.

    tile_seconds: of the attention of a token that sees itself alone, over one KV head. loop_seconds: of
    threads that meet for shared work; exchange: of a float that one has written and another reads, by the
    width of the hidden state, and exchange_of_prompt where rows are successive tokens; wake_seconds:
    that a step takes longer when its threads have gone to sleep.
    step_seconds, block_seconds: of a step and a block that no size explains, with one row; step_row_seconds,
    block_row_seconds: for each further row.
    """

    norm: float
    quantize: float
    gate: float
    rotate: float
    step_seconds: float
    block_seconds: float
    step_row_seconds: float
    block_row_seconds: float
    tile_seconds: float
    loop_seconds: float = 0.0
    exchange_widths: tuple[int, ...] = (1,)
    exchange: tuple[float, ...] = (0.0,)
    exchange_of_prompt: tuple[float, ...] = (0.0,)
    wake_seconds: float = 0.0

    def exchange_of(self, hidden: int, is_prompt: bool) -> float:
        """Between the widths measured, over their logarithm; flat beyond the ends."""
        seconds = self.exchange_of_prompt if is_prompt else self.exchange
        return float(np.interp(np.log(hidden), np.log(self.exchange_widths), seconds))


class Memory(Spec):
    """coldness: how far from cached (0) to memory (1) a step's weights are when it reads so many bytes."""

    nbytes: tuple[int, ...]
    coldness: tuple[float, ...]

    def coldness_of(self, nbytes: float) -> float:
        """Interpolated over the logarithm of the bytes; flat beyond the ends."""
        points = np.log(np.array(self.nbytes, float))
        return float(np.interp(np.log(max(nbytes, 1.0)), points, self.coldness))


class ProductTimes(Spec):
    """Products of one format.

    warm, cold: seconds a weight with these few rows, all threads evenly at work. row_seconds: seconds a
    weight and row of one thread, of as many rows as go in chunks. read_bytes_per_second: of memory while it
    was measured.
    """

    rows: tuple[int, ...]
    warm: tuple[float, ...]
    cold: tuple[float, ...]
    row_seconds: float
    bytes_per_weight: float
    read_bytes_per_second: float

    def seconds_per_weight(
        self, rows: int, threads: int, coldness: float = 1.0, read_bytes_per_second: float | None = None
    ) -> float:
        """Linear between measured rows; of rows that go in chunks, a row's. What memory sets is scaled to its
        speed now, if that is given."""
        if in_chunks(rows, threads):
            return self.row_seconds
        warm, cold = (self.at(rows, seconds) for seconds in (self.warm, self.cold))
        if read_bytes_per_second is not None:
            then = max(warm, self.bytes_per_weight / self.read_bytes_per_second)
            now = max(warm, self.bytes_per_weight / read_bytes_per_second)
            cold = max(warm, cold * now / then)
        return warm + coldness * (cold - warm)

    def at(self, rows: int, seconds: tuple[float, ...]) -> float:
        """Between neighbours, and in proportion beyond the last."""
        return float(np.interp(rows, self.rows, seconds)) * max(1.0, rows / self.rows[-1])


class AttentionTimes(Spec):
    """A tile of `rows` tokens over one KV head, one thread, its keys and values cached.

    tile_seconds: of a tile that sees next to nothing; span_seconds: of one that sees 256 positions;
    position_seconds: of each further position. write_seconds: of a token's key and value.
    """

    rows: int
    tile_seconds: float
    span_seconds: float
    position_seconds: float
    write_seconds: float

    def seconds(self, positions: float) -> float:
        """Of a tile whose last token sees so many positions."""
        if positions < 256:
            return self.tile_seconds + (self.span_seconds - self.tile_seconds) * positions / 256
        return self.span_seconds + self.position_seconds * (positions - 256)


class AttentionPair(Spec):
    """Of one token, and of as many tokens of a prompt as are computed together."""

    one: AttentionTimes
    tile: AttentionTimes
