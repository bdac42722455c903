"""The result of an evaluation: one side, or two sides and how far they lie apart."""

from __future__ import annotations

from penjing.measure.quality import QualitySummary
from penjing.measure.stats import LossBound
from penjing.optimize.documents import TextRecord
from penjing.optimize.serving import ServingSpeed
from penjing.spec import Kv, Spec, Tier

UNFAMILIAR_FACTOR = 5.0
FLOAT_FORMATS = frozenset({"fp32", "fp16", "bf16"})


class Side(Spec):
    """One artifact as it was run, made from the checkpoint `source_hash`.

    formats: of its matrices, sorted. tensor_bytes: those that the tier reads, padding and scales included.
    """

    name: str
    artifact_hash: str
    source_hash: str
    formats: tuple[str, ...]
    tier: Tier
    kv: Kv
    tensor_bytes: int
    perplexity: float
    speed: ServingSpeed | None = None

    @property
    def is_original(self) -> bool:
        """Whether it is its checkpoint unchanged: weights in a float dtype, keys and values as computed."""
        return FLOAT_FORMATS.issuperset(self.formats) and self.kv == "fp32"


class Host(Spec):
    """The machine that the measurement ran on, and how many threads it used."""

    cpu_model: str
    isa: str
    threads: int


class Comparison(Spec):
    """Candidate against reference, token by token: averages, and the upper bound of the mean loss.

    size_ratio: the candidate's tensor bytes over those of the checkpoint it was made from.
    """

    quality: QualitySummary
    bound: LossBound
    size_ratio: float
    checkpoint_bytes: int

    @property
    def artifact_bytes(self) -> int:
        """All tensor bytes of the candidate's artifact, whichever tier was measured."""
        return round(self.size_ratio * self.checkpoint_bytes)

    @property
    def is_unfamiliar_text(self) -> bool:
        """Whether the loss understates the change.

        On text that the reference predicts as well as it believes, the expected loss is the KL divergence.
        Where the KL is several times even the loss's upper bound, the text is unlike what the model knows.
        """
        return self.quality.mean_kl > UNFAMILIAR_FACTOR * max(self.bound.upper, 0.0)


class Evaluation(Spec):
    """What an evaluation found. Without a reference there is a perplexity, compared with nothing.

    tokens counts scored tokens; `text.tokens` counts all.
    """

    candidate: Side
    reference: Side | None
    comparison: Comparison | None
    text: TextRecord
    tokens: int
    window_tokens: int
    seed: int
    host: Host

    @property
    def compared(self) -> Comparison:
        """The comparison of an evaluation that has a reference."""
        assert self.comparison is not None
        return self.comparison
