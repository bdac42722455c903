"""What a search's record is made of: small frozen values, each number with its unit."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from penjing.artifact.certificate import Finite, Sha256
from penjing.spec import Spec

LimitName = Literal["size", "loss", "throughput", "latency", "memory", "cost"]
Objective = Literal["size", "loss", "latency", "throughput", "cost"]
Bound = Literal["memory", "arithmetic"]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
AT_LEAST = ("throughput",)  # the limits that are kept from above


class ModelRecord(Spec):
    """The checkpoint. parameters: elements of all its tensors. source_hash: as in a manifest's provenance."""

    name: str
    family: str
    parameters: int = Field(gt=0)
    source_hash: Sha256


class Limit(Spec):
    """One limit of the budget: what was asked, what the chosen one has, and what could be asked instead.

    Units: size is a fraction of the checkpoint's tensor bytes, loss the rise of perplexity as a fraction (its
    upper bound), throughput tokens a second, latency seconds a decoded token, memory bytes at the peak of
    serving, cost the price of a million tokens. nearest: the least that can be kept (of throughput, the most)
    with every other limit as it is; None where nothing can, or where it was not needed.
    """

    what: LimitName
    asked: Positive
    found: Finite | None = None
    nearest: Finite | None = None

    @property
    def is_kept(self) -> bool | None:
        """Whether what was found is within what was asked; None if nothing was found."""
        if self.found is None:
            return None
        return self.found >= self.asked if self.what in AT_LEAST else self.found <= self.asked


class Figures(Spec):
    """One side of the comparison; None where it was not measured.

    tensor_bytes: of all tensors, padding and scales included. Rates and times are of one request alone, and
    peak_memory_bytes of a process that serves nothing else.
    """

    tensor_bytes: int = Field(gt=0)
    perplexity: Positive | None = None
    prefill_tokens_per_second: Positive | None = None
    decode_tokens_per_second: Positive | None = None
    ttft_seconds: Positive | None = None
    peak_memory_bytes: int | None = Field(default=None, gt=0)


class Claim(Spec):
    """The loss that is claimed, in nats per token: its mean, and its upper bound at `confidence`.

    It rests on `units` documents or blocks, `tokens` tokens in all.
    """

    mean_nats: Finite
    upper_nats: Finite
    confidence: Annotated[float, Field(gt=0.5, lt=1)]
    unit: Literal["document", "block"]
    units: int = Field(gt=0)
    tokens: int = Field(gt=0)


class Point(Spec):
    """One candidate on the frontier; losses and KL in nats per token, on the text to choose by.

    size_ratio: tensor bytes over the checkpoint's. upper_loss: None for what was only predicted.
    """

    name: str
    tensor_bytes: int = Field(gt=0)
    size_ratio: Positive
    mean_loss: Finite
    upper_loss: Finite | None = None
    mean_kl: Finite | None = None
    decode_tokens_per_second: Positive | None = None
    status: Literal["predicted", "measured", "chosen"]


class Layer(Spec):
    """What must share one format: `blocks.3.query+key+value`, of block 3 and kind `query+key+value`.

    format: as `int4/64`. bits_per_weight: stored bits over elements, scales and padding included. scores: by
    format label, the predicted KL (nats per token) of giving that format to this group alone.
    """

    group: str
    block: int | None
    kind: str
    format: str
    bits_per_weight: Positive
    nbytes: int = Field(gt=0)
    scores: dict[str, Finite] = Field(default_factory=dict)


class Regime(Spec):
    """Reading a prompt, or writing an answer: the work of one pass, its bound, and what was measured.

    tokens: of one pass. operations and read_bytes: of one pass. Rates are tokens a second.
    """

    tokens: int = Field(gt=0)
    operations: int = Field(gt=0)
    read_bytes: int = Field(gt=0)
    bound_tokens_per_second: Positive
    bound_by: Bound
    tokens_per_second: Positive | None = None


class RooflineRecord(Spec):
    """The machine's two measured rates, and where decoding and prefilling lie under them."""

    read_bytes_per_second: Positive
    int8_operations_per_second: Positive
    decode: Regime
    prefill: Regime


class Span(Spec):
    """A named stretch of time: a part of a decoded token, or a stage of the search."""

    name: str
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Histogram(Spec):
    """Counts between successive edges (nats); `below` and `above` count what lies outside of them."""

    edges: tuple[Finite, ...] = Field(min_length=2)
    counts: tuple[int, ...]
    below: int = Field(default=0, ge=0)
    above: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def check_shape(self) -> Self:
        """One count for each pair of edges, which ascend."""
        pairs = list(zip(self.edges, self.edges[1:], strict=False))
        if len(self.counts) != len(pairs) or any(one >= other for one, other in pairs):
            raise ValueError("needs ascending edges, and one count between each two")
        return self

    @property
    def total(self) -> int:
        """Everything that was counted."""
        return sum(self.counts) + self.below + self.above


class Errors(Spec):
    """Token by token, on the claim's text: candidate minus reference NLL, and KL(reference || candidate)."""

    loss: Histogram
    kl: Histogram


class Sample(Spec):
    """A prompt, and how the checkpoint and the artifact continue it, greedily."""

    prompt: str
    before: str
    after: str


class Commands(Spec):
    """What to type to serve the artifact, and to verify it."""

    serve: str
    verify: str
