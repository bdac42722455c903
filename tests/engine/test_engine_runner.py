"""The CPU runner: what it refuses, what it isolates, what it owns."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_models import (
    RandomWeights,
    experts_config,
    pages_of,
    run_whole,
    small_config,
    small_weights,
)
from numpy.typing import NDArray

from penjing.artifact.config import ModelConfig
from penjing.engine import Engine, Sampling
from penjing.engine.runner import CpuRunner
from penjing.engine.step import PAGE_TOKENS, Runner, StepSequence
from penjing.errors import CapacityError, EngineError, NonFiniteLogitsError
from penjing.formats import Encoded, encode
from penjing.formats.tiles import TILE_ROWS
from penjing.measure.cost import kv_bytes_per_token
from penjing.measure.machine import usable_cores
from penjing.spec import KvFormat, WeightFormat

NUM_PAGES = 6


def ints(*values: int) -> NDArray[np.int32]:
    return np.array(values, np.int32)


def loaded_runner(**options: Any) -> CpuRunner:
    runner: Runner = CpuRunner(small_weights(), **options)
    assert isinstance(runner, CpuRunner)
    runner.allocate(NUM_PAGES)
    return runner


PLAIN = StepSequence(tokens=ints(5, 6, 7), first_position=0, pages=ints(2), wanted=ints(2))


def test_defaults() -> None:
    runner = CpuRunner(small_weights())
    assert runner.threads == usable_cores()
    assert runner.num_pages == 0
    with pytest.raises(ValueError, match="page 2 is not one of the 0 allocated"):
        runner.step([PLAIN])


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"tokens": ints()}, "no tokens"),
        ({"tokens": ints(5, -1, 7)}, "token -1 is outside the vocabulary of 101"),
        ({"tokens": ints(5, 6, 101)}, "token 101 is outside"),
        ({"tokens": np.array([5, 6, 7])}, "tokens of a step must be a one-dimensional int32 array"),
        ({"tokens": [5, 6, 7]}, "tokens of a step"),
        ({"tokens": ints(5, 6, 7)[None]}, "tokens of a step"),
        ({"first_position": -1}, "do not fit a context of 1024"),
        ({"first_position": 1022}, "do not fit a context of 1024"),
        ({"first_position": 2**62}, "do not fit a context of 1024"),
        ({"first_position": 30}, "1 pages of 32 tokens do not cover 33 positions"),
        ({"pages": ints()}, "0 pages of 32 tokens do not cover 3 positions"),
        ({"pages": ints(-1)}, "page -1 is not one of the 6 allocated"),
        ({"pages": ints(6)}, "page 6 is not"),
        ({"pages": ints(2, 9)}, "page 9 is not"),
        ({"pages": ints(4, 4)}, "page 4 holds two stretches"),
        ({"wanted": ints(3)}, "wanted rows must ascend within the 3 tokens, got 3 after -1"),
        ({"wanted": ints(-1)}, "wanted rows must ascend"),
        ({"wanted": ints(1, 1)}, "got 1 after 1"),
        ({"wanted": ints(2, 0)}, "got 0 after 2"),
        ({"wanted": np.array([2.0])}, "wanted of a step"),
        ({"tier": "worst"}, "unknown tier 'worst'"),
        ({"allowed": np.ones(100, bool)}, "allowed has 100 elements, and 101 are expected"),
        ({"allowed": np.ones(101, np.int8)}, "one-dimensional bool array"),
    ],
)
def test_refuses_what_is_out_of_range(change: dict[str, Any], complaint: str) -> None:
    runner = loaded_runner()
    expected = runner.step([PLAIN])
    with pytest.raises(ValueError, match=complaint):
        runner.step([PLAIN, dataclasses.replace(PLAIN, pages=ints(3)), dataclasses.replace(PLAIN, **change)])
    np.testing.assert_array_equal(runner.step([PLAIN]), expected)


def test_refuses_adapters() -> None:
    with pytest.raises(EngineError, match="adapter 3"):
        loaded_runner().step([dataclasses.replace(PLAIN, adapter=3)])


def test_refuses_pages_that_change_while_they_are_read() -> None:
    runner = loaded_runner()
    shared = StepSequence(ints(1), 32, ints(2, 4), ints(0))
    with pytest.raises(ValueError, match="page 2 is written by sequence 0 in the same step"):
        runner.step([PLAIN, shared])
    with pytest.raises(ValueError, match="page 2 is written by sequence 1"):
        runner.step([PLAIN, PLAIN])
    runner.step([PLAIN])
    runner.step([shared, StepSequence(ints(1), 32, ints(2, 5), ints(0))])


@pytest.mark.parametrize(
    "options",
    [{"threads": 0}, {"threads": -2}, {"isa": "mmx"}, {"isa": ""}],
    ids=str,
)
def test_refuses_threads_and_instruction_sets(options: dict[str, Any]) -> None:
    with pytest.raises(EngineError):
        CpuRunner(small_weights(), **options)


def test_nothing_to_do() -> None:
    assert loaded_runner().step([]).shape == (0, 101)
    assert loaded_runner().step([dataclasses.replace(PLAIN, wanted=ints())]).shape == (0, 101)


def test_allowed_tokens() -> None:
    runner = loaded_runner()
    plain = runner.step([dataclasses.replace(PLAIN, wanted=ints(0, 2))])
    allowed = np.random.default_rng(0).random(101) < 0.3
    other = dataclasses.replace(PLAIN, pages=ints(1))
    masked = runner.step([dataclasses.replace(PLAIN, wanted=ints(0, 2), allowed=allowed), other])
    np.testing.assert_array_equal(masked[:2], np.where(allowed, plain, -np.inf))
    np.testing.assert_array_equal(masked[2], plain[1])


@pytest.mark.parametrize(
    ("kv", "head_bytes"),
    [
        (("int8", "bf16"), 20 + 4 + 2 * 20),
        (("int6", "int4"), 32 * 6 // 8 + 2 + 24 // 2 + 2),
        (("int4", "int5"), 24 // 2 + 2 + 32 * 5 // 8 + 2),
    ],
)
def test_pages_cost_what_is_said(kv: tuple[KvFormat, KvFormat], head_bytes: int) -> None:
    """Heads of 20 dimensions: int4 makes them 24, int5 and int6 32."""
    config = small_config(kv=kv)
    exact = PAGE_TOKENS * head_bytes * sum(block.num_kv_heads for block in config.blocks)
    said = PAGE_TOKENS * sum(kv_bytes_per_token(config, block) for block in config.blocks)
    assert said == exact
    assert 0 <= CpuRunner(RandomWeights(config)).kv_bytes_per_page - exact < 64 * 2 * len(config.blocks)


def test_copied_pages_are_the_same() -> None:
    runner, tokens = loaded_runner(), np.arange(70, dtype=np.int32)
    expected = run_whole(runner, tokens, ints(0, 1, 2))[69]
    runner.copy_pages([(0, 3), (3, 5), (2, 0)])
    last = StepSequence(tokens[69:], 69, ints(5, 1, 0), ints(0))
    np.testing.assert_array_equal(runner.step([last])[0], expected)
    for pair in ((0, 6), (-1, 0)):
        with pytest.raises(ValueError, match="is not one of the 6 allocated"):
            runner.copy_pages([pair])


def test_allocation_that_cannot_be() -> None:
    """2^31 pages of 320 KiB: more than an address space, so that no system lends them."""
    config = small_config(kv=("fp32", "fp32"))
    block = config.blocks[0].model_copy(update={"num_heads": 64, "num_kv_heads": 64})
    runner = CpuRunner(RandomWeights(config.model_copy(update={"blocks": (block,)})))
    runner.allocate(NUM_PAGES)
    with pytest.raises(ValueError, match="got -1"):
        runner.allocate(-1)
    assert runner.num_pages == NUM_PAGES
    with pytest.raises(CapacityError, match="ask for fewer"):
        runner.allocate(2**31 - 1)
    assert runner.num_pages == 0
    with pytest.raises(ValueError, match="0 allocated"):
        runner.step([PLAIN])
    runner.allocate(NUM_PAGES)
    assert np.isfinite(runner.step([PLAIN])).all()


def break_token(weights: RandomWeights, token: int) -> RandomWeights:
    """The embedding of one token has an infinite element, as if a sum had overflowed."""
    codes = weights.matrices["embedding"].codes.copy()
    tile = codes.view(np.float32).reshape(-1, 72, TILE_ROWS)[token // TILE_ROWS]
    tile[5, token % TILE_ROWS] = np.inf
    weights.matrices["embedding"] = dataclasses.replace(weights.matrices["embedding"], codes=codes)
    return weights


@pytest.mark.parametrize("config", [small_config(), experts_config()], ids=["dense", "experts"])
def test_sequence_with_broken_numbers_is_alone(config: ModelConfig) -> None:
    runner = CpuRunner(break_token(RandomWeights(config), 42))
    runner.allocate(NUM_PAGES)
    good = runner.step([PLAIN])
    assert np.isfinite(good).all()
    bad = StepSequence(ints(1, 42, 3), 0, ints(0), ints(0, 2))
    unwanted = StepSequence(ints(42, 3), 0, ints(1), ints())
    logits = runner.step([bad, PLAIN, unwanted])
    assert np.isnan(logits[:2]).all()
    np.testing.assert_array_equal(logits[2:], good)
    later = runner.step([PLAIN, StepSequence(ints(5), 2, ints(1), ints(0))])
    np.testing.assert_array_equal(later[:1], good)
    assert np.isnan(later[1]).all(), "what was cached is broken, and shows"


def test_overflow_in_the_head_shows() -> None:
    weights = small_weights("keep")
    head = np.random.default_rng(1).standard_normal((101, 72), np.float32)
    head[7] *= np.float32(1e38)
    weights.matrices["head"] = encode(head, WeightFormat(name="keep"), "range", "head")
    runner = CpuRunner(weights)
    runner.allocate(NUM_PAGES)
    assert np.isnan(runner.step([PLAIN])).all()
    assert np.isnan(runner.step([dataclasses.replace(PLAIN, allowed=np.arange(101) != 7)])).all()


@dataclasses.dataclass
class Source:
    """Weights in the shape of an artifact without a tokenizer."""

    weights: RandomWeights
    path: Path
    tiers: tuple[str, ...] = ("best",)
    hash: str = "0" * 64

    def __getattr__(self, name: str) -> Any:
        return getattr(self.weights, name)


def test_engine_raises_for_broken_numbers(tmp_path: Path) -> None:
    engine = Engine(Source(break_token(small_weights("keep"), 42), tmp_path), num_pages=40)
    with pytest.raises(NonFiniteLogitsError):
        engine.generate([1, 42, 3], Sampling(max_tokens=2))
    with pytest.raises(NonFiniteLogitsError):
        engine.score([[1, 42, 3]])
    assert len(engine.generate([1, 2, 3], Sampling(max_tokens=2)).tokens) == 2


@pytest.mark.parametrize("name", ["blocks.0.query", "blocks.1.down", "head"])
def test_refuses_weights_of_another_shape(name: str) -> None:
    weights = small_weights("keep")
    old = weights.matrices[name]
    values = np.ones((old.rows + 1, old.columns), np.float32)
    weights.matrices[name] = encode(values, WeightFormat(name="keep"), "range", name)
    with pytest.raises(ValueError, match=r"elements|needs"):
        CpuRunner(weights)
    weights.matrices[name] = old
    CpuRunner(weights)


@pytest.mark.parametrize(
    "name", ["blocks.0.query_bias", "blocks.1.key_norm", "blocks.0.attention_norm", "final_norm"]
)
def test_refuses_vectors_of_another_length(name: str) -> None:
    weights = small_weights("keep")
    weights.vectors[name] = weights.vectors[name][:-1]
    with pytest.raises(ValueError, match="elements"):
        CpuRunner(weights)


def test_arrays_outlive_their_source() -> None:
    weights = small_weights()
    expected = loaded_runner().step([PLAIN])
    runner = CpuRunner(weights)
    del weights
    runner.allocate(NUM_PAGES)
    junk = [np.full(10_000, 255, np.uint8) for _ in range(50)]
    np.testing.assert_array_equal(runner.step([PLAIN]), expected)
    assert len(junk) == 50


def test_two_runners_and_two_callers() -> None:
    """Runners are independent; one runner's callers take turns."""
    tokens = np.arange(90, dtype=np.int32)
    first, second = loaded_runner(threads=2), loaded_runner(threads=3)
    expected = run_whole(loaded_runner(threads=1), tokens, ints(0, 1, 2))
    failures: list[str] = []

    def call(runner: CpuRunner, pages: NDArray[np.int32]) -> None:
        for _ in range(5):
            if not np.array_equal(run_whole(runner, tokens, pages, 11), expected):
                failures.append("other bits")

    jobs = [(first, ints(0, 1, 2)), (first, ints(5, 4, 3)), (second, ints(2, 1, 0))]
    callers = [threading.Thread(target=call, args=job) for job in jobs]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not failures


def test_formats_may_differ_within_a_block() -> None:
    """Groups of 32 and 64 and float matrices beside each other take the same activations in three forms."""
    weights = small_weights("keep")
    generator = np.random.default_rng(0)

    def requantize(name: str, format: WeightFormat) -> Encoded:
        old = weights.matrices[name]
        return encode(
            generator.standard_normal((old.rows, old.columns), np.float32) / 8, format, "range", name
        )

    weights.matrices["blocks.0.query"] = requantize(
        "blocks.0.query", WeightFormat(name="int8", group_size=32)
    )
    weights.matrices["blocks.0.key"] = requantize("blocks.0.key", WeightFormat(name="int4", group_size=64))
    weights.matrices["blocks.1.up"] = requantize("blocks.1.up", WeightFormat(name="layered", group_size=128))
    tokens, count = np.arange(100, dtype=np.int32), pages_of(100)
    results = []
    for threads, chunk in ((1, 100), (3, 7)):
        runner = CpuRunner(weights, threads=threads)
        runner.allocate(count)
        results.append(run_whole(runner, tokens, np.arange(count, dtype=np.int32), chunk))
    assert np.isfinite(results[0]).all()
    np.testing.assert_array_equal(results[0], results[1])


def logits_of(weights: RandomWeights) -> NDArray[np.float32]:
    runner = CpuRunner(weights)
    runner.allocate(1)
    return run_whole(runner, np.arange(9, dtype=np.int32), ints(0))


def spoil(weights: RandomWeights, name: str) -> None:
    """Another matrix of the same shape."""
    old = weights.matrices[name]
    values = np.random.default_rng(5).standard_normal((old.rows, old.columns), np.float32)
    weights.matrices[name] = encode(values, WeightFormat(name="keep"), "range", name)


def test_of_equally_likely_experts_the_first_are_chosen() -> None:
    """A router of zeros sends every token to the first three of seven experts."""
    weights = RandomWeights(experts_config())
    values = np.zeros((7, 72), np.float32)
    weights.matrices["blocks.0.router"] = encode(values, WeightFormat(name="keep"), "range", "router")
    expected = logits_of(weights)
    for expert in range(3, 7):
        for name in ("gate", "up", "down"):
            spoil(weights, f"blocks.0.experts.{expert}.{name}")
    np.testing.assert_array_equal(logits_of(weights), expected)
    spoil(weights, "blocks.0.experts.2.down")
    assert np.abs(logits_of(weights) - expected).max() > 0.1


def test_a_soft_cap_hides_no_overflow() -> None:
    config = small_config().model_copy(update={"logit_softcap": 10.0})
    weights = RandomWeights(config)
    assert np.abs(logits_of(weights)).max() < 10
    head = np.random.default_rng(1).standard_normal((101, 72), np.float32)
    head[7] *= np.float32(1e38)
    weights.matrices["head"] = encode(head, WeightFormat(name="keep"), "range", "head")
    assert np.isnan(logits_of(weights)).all()


def test_experts_may_differ_in_format() -> None:
    """Rows of different experts enter matrices of different groups, in the same step."""
    weights = RandomWeights(experts_config(), WeightFormat(name="int8", group_size=32))
    for expert, format in ((1, WeightFormat(name="int4", group_size=64)), (3, WeightFormat(name="keep"))):
        for name in ("gate", "down"):
            place = f"blocks.2.experts.{expert}.{name}"
            old = weights.matrices[place]
            values = np.random.default_rng(expert).standard_normal((old.rows, old.columns), np.float32) / 8
            weights.matrices[place] = encode(values, format, "range", place)
    tokens, results = np.arange(60, dtype=np.int32), []
    for threads, chunk in ((1, 60), (3, 7)):
        runner = CpuRunner(weights, threads=threads)
        runner.allocate(2)
        results.append(run_whole(runner, tokens, ints(0, 1), chunk))
    assert np.isfinite(results[0]).all()
    np.testing.assert_array_equal(results[0], results[1])
