"""Claims that stop: on a model's own text, its loss is known; and on the embedded model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from penjing.artifact import Artifact
from penjing.engine import Engine
from penjing.errors import EmptyDataError
from penjing.measure.power import plan_claim
from penjing.measure.sequential import looks_of
from penjing.models.embedded import SEEDLING, SEEDLING_TEXT
from penjing.optimize.claim import claim, runs_of, units_of
from penjing.optimize.compare import compare_engines, count_scored
from penjing.optimize.documents import Tokens, read_tokens
from penjing.optimize.evaluate import Settings, open_engine, windows_of
from penjing.optimize.reference import reference_artifact
from penjing.quantize import quantize_checkpoint
from penjing.spec import preset

SETTINGS = Settings(threads=1, speed=False, tier="fast")


@pytest.fixture(scope="module")
def engines(layered: Artifact, reference: Path) -> tuple[Engine, Engine]:
    return open_engine(layered.path, SETTINGS, "fast"), open_engine(reference, SETTINGS, None)


@pytest.fixture(scope="module")
def documents(engines: tuple[Engine, Engine], own_text: Path) -> list[Tokens]:
    return read_tokens(own_text, engines[0].tokenizer, None)


def test_a_generous_margin_is_proved_on_little_text(
    engines: tuple[Engine, Engine], documents: list[Tokens]
) -> None:
    calls = []
    result = claim(
        *engines, documents, 2.0, settings=SETTINGS, units=30, progress=lambda *call: calls.append(call)
    )
    bound = result.record.bound
    assert (bound.verdict, bound.units, bound.of_units, bound.looks) == ("proved", 8, 60, (8, 15, 30, 60))
    assert bound.upper <= 2.0
    assert len(result.quality) == len(result.order) == 8
    assert (calls[0][0], calls[-1][1], calls[-1][2]) == ("claim", bound.tokens, result.record.of_tokens)
    assert result.record.unit == "document"


def test_a_margin_of_nothing_is_refuted(engines: tuple[Engine, Engine], documents: list[Tokens]) -> None:
    """The fast tier of a random model is worse than its original, by far more than nothing."""
    result = claim(*engines, documents, 0.0, settings=SETTINGS, units=30)
    assert result.record.bound.verdict == "refuted"
    assert result.record.bound.lower > 0.0
    assert result.record.bound.units < 60


def test_what_was_scored_is_what_a_comparison_finds(
    engines: tuple[Engine, Engine], documents: list[Tokens]
) -> None:
    candidate, reference = engines
    result = claim(candidate, reference, documents, 1e-9, settings=SETTINGS, units=60)
    windows = windows_of([documents[index] for index in result.order], candidate, SETTINGS)
    expected = compare_engines(reference, candidate, windows, "fast", lambda *_: None)
    for one, other in zip(result.quality, expected, strict=True):
        assert np.array_equal(one.delta_nll, other.delta_nll)
        assert np.array_equal(one.kl, other.kl)
    deltas = np.concatenate([quality.delta_nll for quality in expected])
    assert result.record.bound.mean == pytest.approx(deltas.mean())
    assert result.record.bound.tokens == len(deltas)


def test_the_order_is_the_seeds_whatever_the_texts_order(
    engines: tuple[Engine, Engine], documents: list[Tokens]
) -> None:
    first = claim(*engines, documents, 2.0, settings=SETTINGS, units=30)
    backwards = claim(*engines, documents[::-1], 2.0, settings=SETTINGS, units=30)
    assert first.record == backwards.record
    assert [59 - index for index in backwards.order] == list(first.order)
    other = Settings(threads=1, speed=False, tier="fast", seed=1)
    assert claim(*engines, documents, 2.0, settings=other, units=30).order != first.order


def test_one_long_document_is_claimed_from_in_runs_of_windows(
    engines: tuple[Engine, Engine], documents: list[Tokens]
) -> None:
    whole = [token for document in documents for token in document]
    candidate, _ = engines
    windows = windows_of([whole], candidate, SETTINGS)
    unit, parts = units_of(windows)
    assert unit == "block"
    assert [window for part in parts for window in part] == windows[0]
    assert all(count_scored([part]) >= 256 for part in parts)
    result = claim(*engines, [whole], 2.0, settings=SETTINGS)
    assert result.record.unit == "block"
    assert result.record.bound.looks == looks_of((len(parts) + 1) // 2, len(parts))


def test_runs_keep_every_window() -> None:
    windows = [[0] * 101] * 7  # 100 scored tokens each
    assert [len(run) for run in runs_of(windows, 250)] == [3, 4]
    assert [len(run) for run in runs_of(windows, 1000)] == [7]
    assert [len(run) for run in runs_of(windows, 100)] == [1] * 7


def test_too_little_text_is_refused(engines: tuple[Engine, Engine], documents: list[Tokens]) -> None:
    with pytest.raises(EmptyDataError, match="too few for a claim"):
        claim(*engines, documents[:4], 1.0, settings=SETTINGS)


def test_seedling_in_four_bits(tmp_path: Path) -> None:
    """Beginnings of the held-out documents: 4% more nats than its original, which 10% more proves early."""
    artifact = quantize_checkpoint(SEEDLING, tmp_path / "int4", preset("int4"))
    settings = Settings(threads=1, speed=False)
    reference = reference_artifact(SEEDLING)
    engines = open_engine(artifact.path, settings, None), open_engine(reference, settings, None)
    texts = [json.loads(line)["text"] for line in SEEDLING_TEXT.read_text().splitlines()]
    documents = [engines[0].tokenizer.encode(text[:1200])[:128] for text in texts]
    result = claim(*engines, documents, 0.25, settings=settings, units=9)
    assert result.record.bound.verdict == "proved"
    assert result.record.bound.units < len(documents)
    plan = plan_claim([quality.delta_nll for quality in result.quality], 0.05)
    assert plan.units > result.record.bound.units
