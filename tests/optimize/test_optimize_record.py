"""What a search records: that it reads back, belongs to its artifact, and is filled by what was measured."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from checkpoints import QWEN3_MOE, write_checkpoint

from penjing.artifact import Artifact, read_certificate, verify_artifact
from penjing.engine import Engine, Sampling
from penjing.errors import OutputExistsError, RecordError
from penjing.measure.quality import TokenQuality
from penjing.optimize.evaluation import Evaluation
from penjing.optimize.profile import measure_profile
from penjing.optimize.record import SearchRecord, read_record, write_record
from penjing.optimize.record_parts import Figures, Histogram, Limit, ModelRecord
from penjing.optimize.recording import (
    certified_record,
    errors_of,
    figures_of,
    histogram_of,
    layers_of,
    limits_of,
    recorded,
    roofline_of,
    samples_of,
    time_of,
)
from penjing.optimize.verify import verify
from penjing.quantize import quantize_checkpoint
from penjing.spec import Budget, Override, Recipe, WeightFormat, preset


def infeasible() -> SearchRecord:
    return SearchRecord(
        model=ModelRecord(name="small", family="llama", parameters=1000, source_hash="c" * 64),
        budget=Budget(max_size=0.01),
        limits=(Limit(what="size", asked=0.01, nearest=0.2),),
        outcome="infeasible",
        binding="size",
        before=Figures(tensor_bytes=1000),
    )


def test_a_record_reads_back(certified: Path) -> None:
    record = certified_record(certified)
    assert write_record(certified, record) == certified / "report.json"
    assert read_record(certified) == read_record(certified / "report.json") == recorded(certified) == record
    text = (certified / "report.json").read_text()
    assert (
        text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n"
    )


def test_an_infeasible_one_lies_anywhere(tmp_path: Path) -> None:
    assert write_record(tmp_path / "search.json", infeasible()) == tmp_path / "search.json"
    assert read_record(tmp_path / "search.json") == infeasible()


def test_reports_are_no_part_of_the_artifact(certified: Path, checkpoint: Path) -> None:
    """Its hash, its check, and its replacement by --force take no notice of them."""
    before = Artifact.open(certified).hash
    write_record(certified, certified_record(certified))
    (certified / "report.html").write_text("<p>")
    assert verify_artifact(certified).hash == before
    assert verify(certified).hash == before
    quantize_checkpoint(checkpoint, certified, preset("int4"), force=True)
    assert not (certified / "report.json").exists()
    (certified / "notes.txt").write_text("mine")
    with pytest.raises(OutputExistsError, match=r"notes\.txt"):
        quantize_checkpoint(checkpoint, certified, preset("int4"), force=True)


def test_another_artifacts_record_is_refused(certified: Path, layered: Artifact, tmp_path: Path) -> None:
    record = certified_record(certified)
    other = tmp_path / "other"
    shutil.copytree(layered.path, other)
    with pytest.raises(RecordError, match="another artifact"):
        write_record(other, record)
    write_record(certified, record)
    shutil.copy(certified / "report.json", other)
    with pytest.raises(RecordError, match="another artifact"):
        verify(other)


def test_a_record_cannot_claim_more_than_its_certificate(certified: Path) -> None:
    data = certified_record(certified).model_dump(mode="json")
    data["claim"]["upper_nats"] /= 2
    (certified / "report.json").write_text(json.dumps(data))
    with pytest.raises(RecordError, match="not those of its certificate"):
        verify(certified)
    data["certificate"]["measured"]["upper_delta_nll"] /= 2
    (certified / "report.json").write_text(json.dumps(data))
    with pytest.raises(RecordError, match="contradicts the certificate beside it"):
        verify(certified)


@pytest.mark.parametrize("content", ["", "[]", "{}", "\x00", '{"record_version": 2}', "[" * 100_000])
def test_malformed_records_are_refused_by_name(content: str, certified: Path) -> None:
    (certified / "report.json").write_text(content)
    with pytest.raises(RecordError, match=r"report\.json"):
        read_record(certified)


def test_no_record(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="penjing optimize"):
        recorded(tmp_path)


@pytest.mark.parametrize("missing", ["after", "claim", "certificate"])
def test_what_was_kept_is_proved(certified: Path, missing: str) -> None:
    data = certified_record(certified).model_dump(mode="json") | {missing: None}
    with pytest.raises(ValueError, match="figures, a claim and a certificate"):
        SearchRecord.model_validate(data)
    with pytest.raises(ValueError, match="infeasible"):
        SearchRecord.model_validate(infeasible().model_dump() | {"binding": None})


def test_limits_are_kept_or_not() -> None:
    assert Limit(what="size", asked=0.3, found=0.3).is_kept
    assert not Limit(what="loss", asked=0.02, found=0.021).is_kept
    assert Limit(what="throughput", asked=60, found=61).is_kept
    assert not Limit(what="throughput", asked=60, found=59).is_kept
    assert Limit(what="size", asked=0.3).is_kept is None
    size, latency = limits_of(Budget(max_size=0.5, max_latency=0.1), None, {"size": 0.6})
    assert (size.what, size.asked, size.found, size.nearest) == ("size", 0.5, None, 0.6)
    assert (latency.what, latency.asked, latency.nearest) == ("latency", 0.1, None)


def test_the_figures_are_those_of_the_evaluation(evaluation: Evaluation) -> None:
    before, after = figures_of(evaluation)
    assert before.tensor_bytes == evaluation.compared.checkpoint_bytes
    assert after.tensor_bytes == evaluation.compared.artifact_bytes
    assert (before.perplexity, after.perplexity) == (
        evaluation.compared.quality.reference_perplexity,
        evaluation.compared.quality.candidate_perplexity,
    )
    assert after.decode_tokens_per_second is None


def test_layers_are_the_groups_that_share_a_format(checkpoint: Path, tmp_path: Path) -> None:
    step = (
        preset("int4")
        .steps[0]
        .model_copy(
            update={"overrides": (Override(match="blocks.1.down", weights=WeightFormat(name="keep")),)}
        )
    )
    artifact = quantize_checkpoint(checkpoint, tmp_path / "mixed", Recipe(steps=(step,)))
    scores = {"blocks.0.output": {"int4/64": 0.01}}
    found = {layer.group: layer for layer in layers_of(artifact, scores)}
    first = [name for name in found if name.startswith("blocks.0.")]
    assert first == [f"blocks.0.{kind}" for kind in ("query+key+value", "output", "gate+up", "down")]
    assert found["blocks.0.output"].scores == scores["blocks.0.output"]
    assert found["blocks.0.down"].format == "int4/64"
    assert found["blocks.1.down"].format == "keep"
    assert found["blocks.1.down"].bits_per_weight > 15
    assert found["embedding"].block is None
    matrices = sum(layer.nbytes for layer in found.values())
    assert 0.8 * artifact.tensor_bytes < matrices < artifact.tensor_bytes


def test_experts_share_a_format_and_a_token_reads_its_own(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "experts", QWEN3_MOE)
    artifact = quantize_checkpoint(tmp_path / "experts", tmp_path / "tray", preset("int8"))
    kinds = {layer.kind for layer in layers_of(artifact)}
    assert {"experts.gate+up", "experts.down"} <= kinds
    assert not any("router" in kind for kind in kinds)
    profile = measure_profile(artifact.path, 16)
    roofline = roofline_of(profile)
    parts = {part.name: part.seconds for part in time_of(artifact, profile, roofline)}
    block = artifact.config.blocks[0]
    share = block.experts_per_token / block.num_experts
    held = sum(layer.nbytes for layer in layers_of(artifact) if layer.kind == "experts.down")
    assert share < 1
    assert parts["experts.down"] == pytest.approx(share * held / roofline.read_bytes_per_second)


def test_the_time_of_a_token_adds_up(int8: Artifact) -> None:
    profile = measure_profile(int8.path, 64)
    bound = profile.roofline.decode_tokens_per_second
    roofline = roofline_of(profile, decode_tokens_per_second=bound / 4)
    parts = time_of(int8, profile, roofline)
    assert sum(part.seconds for part in parts) == pytest.approx(4 / bound)
    assert parts[-1].name == "rest"
    assert roofline.decode.read_bytes == profile.cost.decode_read_bytes


def test_every_token_is_counted() -> None:
    random = np.random.default_rng(0)
    differences = random.standard_t(2, 5000)
    held = histogram_of(differences)
    assert held.total == 5000
    assert held.edges[0] == -held.edges[-1]
    assert 0.97 < sum(held.counts) / 5000 < 0.99
    zeros = np.zeros(100)
    quality = TokenQuality(zeros, zeros, zeros, zeros == 0)
    assert errors_of(quality).loss.total == errors_of(quality).kl.total == 100
    with pytest.raises(ValueError, match="ascending"):
        Histogram(edges=(0, 0), counts=(1,))


def test_samples_are_greedy_and_side_by_side(reference: Path, int8: Artifact) -> None:
    engines = Engine(reference, threads=1), Engine(int8, threads=1)
    (sample,) = samples_of(*engines, ["abc"], max_tokens=5)
    greedy = Sampling(max_tokens=5)
    expected = [engine.generate("abc", greedy).text for engine in engines]
    assert [sample.prompt, sample.before, sample.after] == ["abc", *expected]


def test_a_certificate_alone_is_worth_a_record(certified: Path) -> None:
    record, certificate = certified_record(certified), read_certificate(certified)
    assert record.claim is not None
    assert record.claim.upper_nats == certificate.measured.upper_delta_nll
    assert all(limit.is_kept for limit in record.limits)
    assert record.layers
