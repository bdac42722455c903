"""Predictions from a made-up table: what follows from shapes and formats alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_up_costs import RATE, READ, MadeUpTable

from penjing.artifact import Artifact
from penjing.measure.cost import artifact_bytes
from penjing.measure.step_time import Load, StepTimer, experts_in_use, stored_formats
from penjing.models.shapes import SHAPES, find_shape
from penjing.optimize.bench import random_artifact
from penjing.optimize.predict import Predicted, formats_of, predict, predict_artifact, seconds_of
from penjing.quantize.assignment import assign_formats
from penjing.spec import KvFormats, WeightFormat, WeightFormatName, preset

LARGE = SHAPES["tinyllama-1.1b"]
INT8_KV = KvFormats(key="int8", value="int8")


def predicted(name: WeightFormatName = "int4", **load: Any) -> Predicted:
    formats = assign_formats(LARGE, preset(name).quantizing)
    return predict(LARGE, formats, load.pop("kv", INT8_KV), MadeUpTable(), **load)


def test_one_stream_reads_the_weights_once() -> None:
    """At 1.1 billion parameters, memory is what a token waits for."""
    found = predicted(context=32)
    read = found.tensor_bytes - 32000 * 2048 * 1.03  # the embedding, of which one row is read
    assert found.decode_seconds_per_token == pytest.approx(read / READ, rel=0.1)
    assert sum(found.decode_parts.values()) == pytest.approx(found.decode_seconds_per_token)
    assert found.tokens_per_second == pytest.approx(1 / found.decode_seconds_per_token)


def test_a_prompt_computes() -> None:
    found = predicted(prompt=512)
    weights = 22 * (2 * 2048 * (2048 + 256) + 3 * 2048 * 5632)
    assert found.prefill_seconds == pytest.approx(512 * weights / RATE, rel=0.15)


def test_more_of_anything_takes_longer() -> None:
    one = predicted(context=64, prompt=64)
    assert predicted(context=2000).decode_seconds_per_token > one.decode_seconds_per_token
    by_prompt = [predicted(prompt=n).prefill_seconds for n in (64, 128, 512, 700, 1024, 2000)]
    assert by_prompt == sorted(by_prompt)
    streams = [predicted(streams=n, context=64) for n in (1, 2, 4, 8, 16, 32)]
    assert [found.decode_seconds_per_token for found in streams] == sorted(
        found.decode_seconds_per_token for found in streams
    )
    assert [found.tokens_per_second for found in streams] == sorted(
        found.tokens_per_second for found in streams
    )
    memory = [found.peak_memory_bytes for found in streams]
    assert memory == sorted(memory)
    assert memory[0] > streams[0].tensor_bytes


def test_smaller_formats_decode_faster_where_memory_binds() -> None:
    names: tuple[WeightFormatName, ...] = ("keep", "int8", "int5", "int4", "table3", "table2")
    seconds = [predicted(name).decode_seconds_per_token for name in names]
    assert seconds == sorted(seconds, reverse=True)


def test_the_fast_tier_is_the_int4_plane() -> None:
    formats = assign_formats(LARGE, preset("layered").quantizing)
    fast = predict(LARGE, formats, INT8_KV, MadeUpTable(), tier="fast")
    assert fast == predicted("int4")
    assert predicted("layered").decode_seconds_per_token > fast.decode_seconds_per_token


def test_slow_memory_now() -> None:
    usual, slow = predicted(context=32), predicted(context=32, read_bytes_per_second=READ / 2)
    assert slow.decode_seconds_per_token == pytest.approx(2 * usual.decode_seconds_per_token, rel=0.1)
    assert slow.prefill_seconds == pytest.approx(usual.prefill_seconds, rel=0.05)


def test_wide_caches_cost_memory_and_time() -> None:
    wide = predicted(kv=KvFormats(key="fp32", value="fp32"), context=2000, streams=16)
    narrow = predicted(kv=KvFormats(key="int4", value="int4"), context=2000, streams=16)
    assert wide.peak_memory_bytes > narrow.peak_memory_bytes
    assert wide.decode_seconds_per_token > narrow.decode_seconds_per_token


def test_mixed_formats_lie_between() -> None:
    formats = assign_formats(LARGE, preset("int8").quantizing)
    narrow = WeightFormat(name="int4")
    mixed = {name: narrow if name.startswith("blocks.1") else format for name, format in formats.items()}
    seconds = predict(LARGE, mixed, INT8_KV, MadeUpTable()).decode_seconds_per_token
    assert predicted("int4").decode_seconds_per_token < seconds < predicted("int8").decode_seconds_per_token


def test_seconds_of_a_choice_are_those_of_its_step() -> None:
    shapes = ((5632, 2048), (5632, 2048))
    int8, int4 = (seconds_of(shapes, WeightFormat(name=name), MadeUpTable()) for name in ("int8", "int4"))
    assert int8 == pytest.approx(2 * 5632 * 2048 * (1 + 2 / 64) / READ, rel=0.1)
    assert int4 < int8
    cached = seconds_of(shapes, WeightFormat(name="int8"), MadeUpTable(), step_bytes=1 << 20)
    assert cached < int8 / 5, "a model that fits the caches does not wait for memory"
    timer = StepTimer(
        LARGE,
        stored_formats(LARGE, assign_formats(LARGE, preset("int4").quantizing)),
        INT8_KV,
        MadeUpTable(),
    )
    assert timer.parts(Load(1, 1, 32))["gate+up"] == pytest.approx(22 * int4)


def test_experts_that_nobody_asks_are_not_read() -> None:
    block = LARGE.blocks[0].model_copy(
        update={"feed_forward": "experts", "num_experts": 8, "experts_per_token": 2, "intermediate_size": 512}
    )
    assert experts_in_use(block, 1) == (pytest.approx(2.0), 1)
    assert experts_in_use(block, 400)[0] == pytest.approx(8.0)
    config = LARGE.model_copy(update={"blocks": (block,) * 4})
    formats = assign_formats(config, preset("int4").quantizing)
    one, many = (
        predict(config, formats, INT8_KV, MadeUpTable(), context=32, streams=streams) for streams in (1, 16)
    )
    parts = one.decode_parts
    assert 0 < parts["gate+up"] < many.decode_parts["gate+up"]
    assert many.decode_seconds_per_token < 16 * one.decode_seconds_per_token


def test_an_artifact_is_predicted_as_it_stands(tmp_path: Path) -> None:
    path = random_artifact("tiny", "layered", 32, directory=tmp_path)
    artifact, config = Artifact.open(path), find_shape("tiny", "int8")
    formats, own = formats_of(artifact)
    step = preset("layered", 32).quantizing
    assert formats == assign_formats(config, step)
    assert not own
    found = predict_artifact(path, MadeUpTable())
    assert found == predict(config, assign_formats(config, step), None, MadeUpTable())
    assert found.tensor_bytes == pytest.approx(artifact_bytes(config, step.weights, step.embedding), abs=200)
    assert predict_artifact(artifact, MadeUpTable(), tier="fast").tensor_bytes < found.tensor_bytes


def test_floats_keep_their_own_dtype(tmp_path: Path) -> None:
    artifact = Artifact.open(random_artifact("tiny", "bf16", directory=tmp_path))
    formats, own = formats_of(artifact)
    assert set(own.values()) == {"bf16"}
    assert {format.name for format in formats.values()} == {"keep"}
    found = predict_artifact(artifact, MadeUpTable())
    assert found.tensor_bytes == pytest.approx(artifact.tensor_bytes, abs=200)
