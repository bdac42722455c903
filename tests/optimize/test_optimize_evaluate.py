"""Evaluation as served, on a model whose own text says what to expect."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from penjing.artifact import Artifact
from penjing.engine import Engine
from penjing.errors import DataError, EmptyDataError, SpecError, TokenizerError
from penjing.optimize.evaluate import evaluate
from penjing.spec import canonical_json


def test_the_reference_against_itself_loses_nothing(
    reference: Path, checkpoint: Path, own_text: Path
) -> None:
    result = evaluate(reference, checkpoint, own_text, threads=1, speed=False)
    quality, bound = result.compared.quality, result.compared.bound
    assert (quality.mean_delta_nll, quality.max_kl, quality.top1_agreement) == (0.0, 0.0, 1.0)
    assert (bound.mean, bound.upper, bound.unit) == (0.0, 0.0, "document")
    assert result.candidate.perplexity == quality.reference_perplexity


def test_perplexity_is_that_of_the_engines_scores(reference: Path, own_text: Path) -> None:
    """Against `Engine.score`, document by document: with <s> before it every token is scored once."""
    engine = Engine(reference, threads=1)
    texts = [json.loads(line)["text"] for line in own_text.read_text().splitlines()]
    scores = np.concatenate(engine.score([[1, *engine.tokenizer.encode(text)] for text in texts]))
    result = evaluate(reference, None, own_text, tokens=None, threads=1, speed=False)
    assert result.comparison is None
    assert result.reference is None
    assert result.tokens == len(scores) == sum(map(len, texts))
    assert result.candidate.perplexity == pytest.approx(math.exp(-scores.astype(np.float64).mean()), rel=1e-6)


def test_on_its_own_text_the_loss_is_the_divergence(
    layered: Artifact, checkpoint: Path, own_text: Path
) -> None:
    fast = evaluate(layered.path, checkpoint, own_text, tier="fast", threads=1, speed=False).compared
    best = evaluate(layered.path, checkpoint, own_text, threads=1, speed=False).compared
    assert fast.bound.mean == pytest.approx(fast.quality.mean_kl, abs=4 * fast.bound.standard_error)
    assert best.quality.mean_kl < fast.quality.mean_kl / 5
    assert not fast.is_unfamiliar_text
    assert fast.size_ratio == best.size_ratio == layered.tensor_bytes / fast.checkpoint_bytes
    assert fast.artifact_bytes == layered.tensor_bytes


def test_unfamiliar_text_is_called_so(layered: Artifact, checkpoint: Path, tmp_path: Path) -> None:
    """On letters drawn blindly, a damaged model is no worse than a sound one: the loss proves nothing."""
    letters = np.random.default_rng(0).choice(list("abcdefghijklm"), 6000)
    path = tmp_path / "noise.txt"
    path.write_text("".join(letters))
    result = evaluate(layered.path, checkpoint, path, tier="fast", threads=1, speed=False)
    assert result.compared.is_unfamiliar_text


def test_speed_and_memory_of_both_sides(int8: Artifact, checkpoint: Path, own_text: Path) -> None:
    stages = []
    result = evaluate(
        int8.path, checkpoint, own_text, tokens=2500, threads=1, progress=lambda *step: stages.append(step)
    )
    assert result.reference is not None
    for side in (result.candidate, result.reference):
        assert side.speed is not None
        assert side.speed.prefill_tokens_per_second == pytest.approx(
            side.speed.prompt_tokens / side.speed.ttft_seconds
        )
        assert side.speed.decode_tokens_per_second > 0
        assert 20e6 < side.speed.peak_rss_bytes < 2e9
    assert (result.candidate.kv, result.reference.kv) == ("int8", "fp32")
    assert ("evaluate", 2500, 2500) in stages
    assert ("speed", 6, 6) in stages
    assert json.loads(canonical_json(result)) == result.model_dump(mode="json")


def test_the_same_twice(int8: Artifact, checkpoint: Path, own_text: Path) -> None:
    first = evaluate(int8.path, checkpoint, own_text, threads=1, speed=False)
    second = evaluate(int8.path, checkpoint, own_text, threads=2, speed=False)
    assert first.comparison == second.comparison
    assert first.text == second.text


def test_windows_shorten_the_context(reference: Path, own_text: Path) -> None:
    whole = evaluate(reference, None, own_text, threads=1, speed=False)
    short = evaluate(reference, None, own_text, window=8, threads=1, speed=False)
    assert whole.tokens == short.tokens
    assert short.window_tokens == 8
    assert short.candidate.perplexity != whole.candidate.perplexity


def test_different_tokenizers_are_refused(
    int8: Artifact, checkpoint: Path, own_text: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(checkpoint, other)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(TokenizerError, match="different tokenizers"):
        evaluate(int8.path, other, own_text, threads=1, speed=False)


def test_what_cannot_be_measured_is_refused(int8: Artifact, checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no data at"):
        evaluate(int8.path, checkpoint, tmp_path / "absent.txt")
    little = tmp_path / "little.txt"
    little.write_text("abc")
    with pytest.raises(EmptyDataError, match="too few for a bound"):
        evaluate(int8.path, checkpoint, little, speed=False)
    with pytest.raises(SpecError, match="window is 1"):
        evaluate(int8.path, checkpoint, little, window=1)
    with pytest.raises(SpecError, match="confidence"):
        evaluate(int8.path, checkpoint, little, confidence=1.5)
    with pytest.raises(SpecError, match="tokens is 0"):
        evaluate(int8.path, checkpoint, little, tokens=0)
