"""A sequence's logits are a bitwise function of its tokens, weights, tier, KV formats and instruction set.

Everything else that a scheduler may decide is varied here, one thing at a time and then all at once, over
contexts that cross two boundaries of the 256-position attention spans.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest
from engine_models import (
    RandomWeights,
    experts_config,
    gemma_config,
    pages_of,
    run_whole,
    small_config,
    small_weights,
    wide_weights,
)
from numpy.typing import NDArray

from penjing.engine.runner import CpuRunner
from penjing.engine.step import StepSequence
from penjing.kernels import available_isas
from penjing.spec import KvFormat, Tier, WeightFormat, WeightFormatName

NUM_TOKENS = 540
KV_FORMATS: list[tuple[KvFormat, KvFormat]] = [
    ("int8", "int8"),
    ("int6", "int4"),
    ("int4", "int5"),
    ("bf16", "bf16"),
    ("fp32", "int8"),
]
WEIGHT_FORMATS: list[WeightFormatName] = ["keep", "int8", "int4", "layered"]
FAST_ISAS = [isa for isa in available_isas() if isa != "scalar"] or ["scalar"]


def random_tokens(seed: int, num_tokens: int = NUM_TOKENS) -> NDArray[np.int32]:
    return np.random.default_rng(seed).integers(0, 101, num_tokens).astype(np.int32)


def shuffled_pages(seed: int, total: int, count: int) -> NDArray[np.int32]:
    return np.random.default_rng(seed).permutation(total)[:count].astype(np.int32)


def runner_of(weights: RandomWeights, num_pages: int, threads: int, isa: str | None = None) -> CpuRunner:
    runner = CpuRunner(weights, threads=threads, isa=isa)
    runner.allocate(num_pages)
    return runner


@functools.cache
def weights_of(
    format: WeightFormatName = "layered",
    kv: tuple[KvFormat, KvFormat] = ("int8", "int8"),
    window: int | None = None,
) -> RandomWeights:
    return small_weights(format, kv, window)


def reference_logits(
    weights: RandomWeights,
    seed: int,
    num_tokens: int = NUM_TOKENS,
    tier: Tier = "best",
    isa: str | None = None,
) -> NDArray[np.float32]:
    """One thread, one step, one sequence, pages in order."""
    count = pages_of(num_tokens)
    runner = runner_of(weights, count, 1, isa)
    logits = run_whole(runner, random_tokens(seed, num_tokens), np.arange(count, dtype=np.int32), None, tier)
    assert np.isfinite(logits).all()
    assert np.ptp(logits, axis=1).min() > 1, "logits that say nothing"
    return logits


@pytest.mark.parametrize("isa", FAST_ISAS)
@pytest.mark.parametrize("format", WEIGHT_FORMATS)
@pytest.mark.parametrize("kv", KV_FORMATS)
def test_chunks_threads_and_pages(isa: str, format: WeightFormatName, kv: tuple[KvFormat, KvFormat]) -> None:
    weights, count = weights_of(format, kv), pages_of(NUM_TOKENS)
    expected = reference_logits(weights, 0, isa=isa)
    for chunk, threads in ((1, 1), (17, 2), (512, 7)):
        runner = runner_of(weights, 2 * count, threads, isa)
        logits = run_whole(runner, random_tokens(0), shuffled_pages(chunk, 2 * count, count), chunk)
        np.testing.assert_array_equal(logits, expected)


def test_scalar_kernels_too() -> None:
    weights = weights_of()
    expected = reference_logits(weights, 0, 300, isa="scalar")
    runner = runner_of(weights, 20, 2, "scalar")
    np.testing.assert_array_equal(
        run_whole(runner, random_tokens(0, 300), shuffled_pages(0, 20, 10), 47), expected
    )


@pytest.mark.parametrize("format", WEIGHT_FORMATS)
def test_matrices_shared_by_threads(format: WeightFormatName) -> None:
    """Few rows through wide matrices, alone and beside a sequence at the other tier."""
    weights, count, tokens = wide_weights(format), pages_of(200), random_tokens(0, 200)
    alone, together = runner_of(weights, count, 1), runner_of(weights, 2 * count, 3)
    expected = run_whole(alone, tokens, np.arange(count, dtype=np.int32), 200)
    expected_fast = run_whole(alone, tokens, np.arange(count, dtype=np.int32), 200, "fast")
    pages = np.split(shuffled_pages(0, 2 * count, 2 * count), 2)
    for first in range(0, 200, 40):
        part, wanted = tokens[first : first + 40], np.arange(40, dtype=np.int32)
        best = StepSequence(part, first, pages[0], wanted, "best")
        fast = StepSequence(part, first, pages[1], wanted, "fast")
        logits = together.step([best, fast])
        np.testing.assert_array_equal(logits[:40], expected[first : first + 40])
        np.testing.assert_array_equal(logits[40:], expected_fast[first : first + 40])


@functools.cache
def long_context() -> tuple[RandomWeights, NDArray[np.int32], NDArray[np.float32]]:
    """A model whose attention is worth sharing, tokens over five spans, and their logits on one thread."""
    small = small_config(max_positions=2048)
    blocks = (small.blocks[0].model_copy(update={"num_heads": 16, "num_kv_heads": 2}),)
    weights = RandomWeights(small.model_copy(update={"head_dim": 64, "blocks": blocks}))
    tokens, count = random_tokens(0, 1300), pages_of(1300)
    runner = runner_of(weights, count, 1)
    return weights, tokens, run_whole(runner, tokens, np.arange(count, dtype=np.int32), 100)


@pytest.mark.parametrize("threads", [2, 3, 7, 64])
def test_threads_share_tiles_and_spans(threads: int) -> None:
    """Chunks of many tiles, of a few rows and of one row, whose spans are shared."""
    weights, tokens, expected = long_context()
    count = pages_of(len(tokens))
    runner = runner_of(weights, count, threads)
    pages, first = shuffled_pages(threads, count, count), 0
    for rows in (1200, 60, 30, 4, 3, 1, 1, 1):
        wanted = np.arange(rows, dtype=np.int32)
        logits = runner.step([StepSequence(tokens[first : first + rows], first, pages, wanted, "best")])
        np.testing.assert_array_equal(logits, expected[first : first + rows])
        first += rows
    assert first == len(tokens)


@pytest.mark.parametrize("window", [1, 31, 32, 100, 256, 300])
def test_sliding_windows(window: int) -> None:
    weights, count = weights_of(window=window), pages_of(NUM_TOKENS)
    expected = reference_logits(weights, 0)
    for chunk in (17, 512):
        runner = runner_of(weights, count, 2)
        logits = run_whole(runner, random_tokens(0), shuffled_pages(chunk, count, count), chunk)
        np.testing.assert_array_equal(logits, expected)


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_batch_of_64_mixed_lengths_and_tiers(threads: int) -> None:
    """Prefills of 1 to 70 tokens in one step, then three steps of decoding together."""
    weights, tiers = weights_of(), ("best", "fast")
    lengths = [1 + (seed * 29) % 70 for seed in range(64)]
    runner = runner_of(weights, 64 * 3, threads)
    pages = np.random.default_rng(0).permutation(64 * 3).astype(np.int32).reshape(64, 3)
    expected = [
        reference_logits(weights, seed, length + 3, tiers[seed % 2]) for seed, length in enumerate(lengths)
    ]
    last = [np.array([length - 1], np.int32) for length in lengths]
    logits = runner.step(
        [
            StepSequence(
                random_tokens(seed, length + 3)[:length], 0, pages[seed], last[seed], tiers[seed % 2]
            )
            for seed, length in enumerate(lengths)
        ]
    )
    for seed, length in enumerate(lengths):
        np.testing.assert_array_equal(logits[seed], expected[seed][length - 1])
    for extra in range(3):
        batch = []
        for seed, length in enumerate(lengths):
            token = random_tokens(seed, length + 3)[length + extra :][:1]
            batch.append(
                StepSequence(token, length + extra, pages[seed], np.zeros(1, np.int32), tiers[seed % 2])
            )
        logits = runner.step(batch)
        for seed, length in enumerate(lengths):
            np.testing.assert_array_equal(logits[seed], expected[seed][length + extra])


@pytest.mark.parametrize("seed", range(6))
def test_random_schedules(seed: int) -> None:
    """Four sequences advance by random amounts in random order, at two tiers, wanting random rows; what was
    cached is now and then computed again."""
    generator, weights, tiers = np.random.default_rng(seed), weights_of(), ("best", "fast")
    lengths = [int(n) for n in generator.integers(250, 420, 4)]
    expected = [reference_logits(weights, 100 + i, n, tiers[i % 2]) for i, n in enumerate(lengths)]
    tokens = [random_tokens(100 + i, n) for i, n in enumerate(lengths)]
    runner = runner_of(weights, 60, int(generator.integers(1, 4)))
    pages = np.split(generator.permutation(60).astype(np.int32)[:56], 4)
    done = [0] * 4
    while any(done[i] < lengths[i] for i in range(4)):
        batch, rows = [], []
        for i in generator.permutation(4):
            if done[i] == lengths[i] or generator.random() < 0.2:
                continue
            first = max(0, done[i] - int(generator.integers(0, 40)))
            last = min(lengths[i], done[i] + int(generator.choice([1, 2, 9, 33, 150])))
            wanted = np.flatnonzero(generator.random(last - first) < 0.5).astype(np.int32)
            batch.append(StepSequence(tokens[i][first:last], first, pages[i], wanted, tiers[i % 2]))
            rows.append(expected[i][first + wanted])
            done[i] = last
        np.testing.assert_array_equal(
            runner.step(batch), np.concatenate([*rows, np.empty((0, 101), np.float32)])
        )


SHAPES = {"gemma": gemma_config, "experts": experts_config}


@functools.cache
def weights_of_family(name: str, format: WeightFormatName = "layered") -> RandomWeights:
    return RandomWeights(SHAPES[name](), WeightFormat(name=format, group_size=32))


@pytest.mark.parametrize("format", WEIGHT_FORMATS)
@pytest.mark.parametrize("name", SHAPES)
def test_chunks_and_threads_of_other_families(name: str, format: WeightFormatName) -> None:
    weights, count = weights_of_family(name, format), pages_of(NUM_TOKENS)
    expected = reference_logits(weights, 0)
    for chunk, threads in ((1, 1), (17, 2), (300, 3), (512, 7)):
        runner = runner_of(weights, 2 * count, threads)
        logits = run_whole(runner, random_tokens(0), shuffled_pages(chunk, 2 * count, count), chunk)
        np.testing.assert_array_equal(logits, expected)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", SHAPES)
def test_batches_and_tiers_of_other_families(name: str, threads: int) -> None:
    """Sequences that share experts, and do not share a tier; alone, together, and in another order."""
    weights, tiers, length = weights_of_family(name), ("best", "fast"), 60
    expected = [reference_logits(weights, seed, length, tiers[seed % 2]) for seed in range(5)]
    wanted = np.arange(length, dtype=np.int32)
    batch = [
        StepSequence(
            random_tokens(seed, length),
            0,
            np.arange(2 * seed, 2 * seed + 2, dtype=np.int32),
            wanted,
            tiers[seed % 2],
        )
        for seed in range(5)
    ]
    for order in ([0, 1, 2, 3, 4], [3, 0, 4], [2, 1]):
        logits = runner_of(weights, 10, threads).step([batch[seed] for seed in order])
        np.testing.assert_array_equal(logits, np.concatenate([expected[seed] for seed in order]))


@pytest.mark.parametrize("name", SHAPES)
def test_same_bits_of_other_families_on_every_instruction_set(name: str) -> None:
    weights = weights_of_family(name)
    expected = reference_logits(weights, 0, 150, isa="scalar")
    for isa in FAST_ISAS:
        np.testing.assert_array_equal(reference_logits(weights, 0, 150, isa=isa), expected)


def test_same_bits_on_every_instruction_set() -> None:
    """More than is promised, and worth knowing if it ever ends."""
    expected = reference_logits(weights_of(), 0, 300, isa="scalar")
    for isa in FAST_ISAS:
        np.testing.assert_array_equal(reference_logits(weights_of(), 0, 300, isa=isa), expected)


def test_fast_tier_is_the_int4_model() -> None:
    layered = reference_logits(weights_of("layered"), 0, 100, "fast")
    np.testing.assert_array_equal(layered, reference_logits(weights_of("int4"), 0, 100))
    assert np.abs(layered - reference_logits(weights_of("layered"), 0, 100)).max() > 1e-3
