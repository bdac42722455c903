"""An evaluation in words, from numbers made up."""

from __future__ import annotations

from penjing.cli.tables import before_after_rows, context_line, loss_lines
from penjing.measure.quality import QualitySummary
from penjing.measure.stats import LossBound
from penjing.optimize.documents import TextRecord
from penjing.optimize.evaluation import Comparison, Evaluation, Host, Side
from penjing.optimize.serving import ServingSpeed


def speed(rate: float) -> ServingSpeed:
    return ServingSpeed(
        prompt_tokens=256,
        decoded_tokens=32,
        ttft_seconds=256 / rate,
        prefill_tokens_per_second=rate,
        decode_tokens_per_second=rate / 10,
        peak_rss_bytes=64_000_000,
    )


def side(name: str, perplexity: float, rate: float | None) -> Side:
    return Side(
        name=name,
        artifact_hash="a" * 64,
        source_hash="c" * 64,
        formats=("int8",),
        tier="best",
        kv="int8",
        tensor_bytes=300_000,
        perplexity=perplexity,
        speed=None if rate is None else speed(rate),
    )


def evaluation(rate: float | None = None, kl: float = 0.01) -> Evaluation:
    quality = QualitySummary(
        tokens=10_000,
        reference_perplexity=8.0,
        candidate_perplexity=8.08,
        mean_delta_nll=0.01,
        mean_kl=kl,
        p99_kl=0.1,
        max_kl=1.0,
        top1_agreement=0.975,
    )
    bound = LossBound(
        mean=0.01,
        upper=0.015,
        confidence=0.95,
        standard_error=0.003,
        unit="document",
        units=40,
        tokens=10_000,
        resamples=4000,
        seed=0,
    )
    return Evaluation(
        candidate=side("small", 8.08, None if rate is None else 2 * rate),
        reference=side("large", 8.0, rate),
        comparison=Comparison(quality=quality, bound=bound, size_ratio=0.3, checkpoint_bytes=1_000_000),
        text=TextRecord(name="held-out.txt", sha256="b" * 64, documents=40, tokens=10_000),
        tokens=10_000,
        window_tokens=512,
        seed=0,
        host=Host(cpu_model="some CPU", isa="avx2", threads=4),
    )


def test_numbers_stand_where_they_should() -> None:
    measured = evaluation(rate=1000.0)
    rows = {name: (before, after) for name, before, after in before_after_rows(measured)}
    assert rows["Tensor bytes"] == ("1.00 MB", "0.30 MB")
    assert rows["Perplexity"] == ("8.0000", "8.0800")
    assert rows["Decode, tokens/s"] == ("100.0", "200.0")
    assert rows["Time to first token"] == ("256.0 ms", "128.0 ms")
    text = " ".join(loss_lines(measured.compared))
    assert "at most +0.01500, perplexity +1.51% (over 40 documents)" in text
    assert "97.50% of tokens" in text
    assert "Caution" not in text
    assert "10,000 tokens of held-out.txt" in context_line(measured)


def test_without_speeds_there_are_no_rows_for_them() -> None:
    assert not [name for name, *_ in before_after_rows(evaluation()) if "tokens/s" in name]


def test_unfamiliar_text_is_said_aloud() -> None:
    assert "Caution" in loss_lines(evaluation(kl=0.5).compared)[-1]
