"""Learned rounding and end-to-end tuning lower what they are judged by, on a small network, or keep it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from layer_samples import random_inputs, random_weight, same_bytes, statistics_of, values_of
from torch import Tensor

from penjing.errors import DivergedError
from penjing.formats.codes import Codes
from penjing.quantize.gptq import GptqConfig, gptq
from penjing.quantize.latent import LatentMatrix
from penjing.quantize.rounding import RoundingConfig, learn_rounding
from penjing.quantize.search import SearchConfig, search
from penjing.quantize.tune import TuneConfig, against_original, mean_kl, tune
from penjing.spec import WeightFormat

INPUTS = random_inputs()
FIRST, SECOND = random_weight(0, 32, 160), random_weight(1, 48, 32) * 20
WEIGHTS = {"first": FIRST, "second": SECOND}
NORM = torch.ones(32)


def network(tensors: Mapping[str, Tensor], rows: slice) -> Tensor:
    """Two layers and a norm, logits of 48 tokens."""
    hidden = torch.nn.functional.rms_norm(INPUTS[rows] @ tensors["first"].T, (32,), tensors.get("norm", NORM))
    return torch.nn.functional.silu(hidden) @ tensors["second"].T


def loss(tensors: Mapping[str, Tensor], step: int) -> Tensor:
    first = step % 4 * 100
    rows = slice(first, first + 100)
    return mean_kl(network(WEIGHTS, rows), network(tensors, rows))


def judge(tensors: Mapping[str, Tensor]) -> float:
    rows = slice(400, 600)
    return float(mean_kl(network(WEIGHTS, rows), network(tensors, rows)))


def starting_codes(format: WeightFormat) -> dict[str, Codes]:
    return {
        "first": gptq(FIRST, statistics_of(INPUTS[:400]), format, GptqConfig()),
        "second": search(SECOND, None, format, SearchConfig()),
    }


def values_by_name(codes: Mapping[str, Codes]) -> dict[str, Tensor]:
    return {name: values_of(matrix) for name, matrix in codes.items()}


@pytest.mark.parametrize(
    "format",
    [
        WeightFormat(name="int2", group_size=32),
        WeightFormat(name="int3", group_size=32, asymmetric=True),
        WeightFormat(name="table4", group_size=32),
        WeightFormat(name="table2", group_size=32),
    ],
    ids=lambda format: format.name,
)
def test_tuning_lowers_the_divergence_on_text_held_apart(format: WeightFormat) -> None:
    codes, config = (
        starting_codes(format),
        TuneConfig(steps=60, judge_every=10, latent_rate=0.01, scale_rate=5e-3, vector_rate=5e-3),
    )
    found = tune(codes, WEIGHTS, {"norm": NORM}, loss=loss, judge=judge, config=config)
    assert found.before == pytest.approx(judge(values_by_name(codes)), rel=1e-4)
    assert found.after < 0.93 * found.before
    assert found.after == pytest.approx(judge({**values_by_name(found.matrices), **found.vectors}), rel=1e-4)
    again = tune(codes, WEIGHTS, {"norm": NORM}, loss=loss, judge=judge, config=config)
    assert all(same_bytes(found.matrices[name], again.matrices[name]) for name in codes)
    assert torch.equal(found.vectors["norm"], again.vectors["norm"])


def test_tuning_of_scales_and_norms_leaves_codes() -> None:
    codes = starting_codes(WeightFormat(name="int2", group_size=32))
    config = TuneConfig(steps=40, judge_every=10, rounding=False, scale_rate=5e-3, vector_rate=5e-3)
    found = tune(codes, WEIGHTS, {"norm": NORM}, loss=loss, judge=judge, config=config)
    assert found.after < 0.95 * found.before
    for name, matrix in found.matrices.items():
        assert np.array_equal(matrix.codes, codes[name].codes)
        assert not np.array_equal(matrix.scales, codes[name].scales)
    assert not torch.equal(found.vectors["norm"], NORM)


def test_tuning_that_only_harms_gives_back_what_it_was_given() -> None:
    codes = starting_codes(WeightFormat(name="int8", group_size=32))
    config = TuneConfig(steps=4, judge_every=2, latent_rate=50.0, scale_rate=0.5, vector_rate=0.5)
    found = tune(codes, WEIGHTS, {"norm": NORM}, loss=loss, judge=judge, config=config)
    assert found.after == found.before
    assert all(same_bytes(found.matrices[name], codes[name]) for name in codes)
    assert torch.equal(found.vectors["norm"], NORM)


def test_a_loss_that_is_not_finite_stops_tuning() -> None:
    codes = starting_codes(WeightFormat(name="int4", group_size=32))

    def broken(tensors: Mapping[str, Tensor], step: int) -> Tensor:
        return loss(tensors, step) * float("nan")

    with pytest.raises(DivergedError, match="batch 0"):
        tune(codes, WEIGHTS, {}, loss=broken, judge=judge, config=TuneConfig(steps=2))


def test_learned_rounding_beats_gptq_on_the_block() -> None:
    codes = starting_codes(WeightFormat(name="int3", group_size=32))

    def block_loss(tensors: Mapping[str, Tensor], step: int) -> Tensor:
        rows = slice(step % 4 * 100, step % 4 * 100 + 100)
        return torch.nn.functional.mse_loss(network(tensors, rows), network(WEIGHTS, rows))

    def block_judge(tensors: Mapping[str, Tensor]) -> float:
        return float(
            torch.nn.functional.mse_loss(network(tensors, slice(400, 600)), network(WEIGHTS, slice(400, 600)))
        )

    config = RoundingConfig(steps=60)
    found = learn_rounding(codes, WEIGHTS, loss=block_loss, judge=block_judge, config=config)
    assert block_judge(values_by_name(found)) < 0.97 * block_judge(values_by_name(codes))
    kept = learn_rounding(
        codes, WEIGHTS, loss=block_loss, judge=lambda _: 0.0, config=RoundingConfig(steps=3)
    )
    assert all(same_bytes(kept[name], codes[name]) for name in codes)


LATENT_FORMATS = [
    WeightFormat(name="int4"),
    WeightFormat(name="int4", asymmetric=True),
    WeightFormat(name="table3"),
]


@pytest.mark.parametrize("format", LATENT_FORMATS, ids=lambda f: f.name + "+" * f.asymmetric)
def test_a_latent_matrix_begins_as_its_codes(format: WeightFormat) -> None:
    weight = random_weight()
    weight[0] = 0.0
    codes = search(weight, None, format, SearchConfig())
    matrix = LatentMatrix(codes, weight)
    assert torch.equal(matrix(), values_of(codes))
    assert same_bytes(matrix.to_codes(), codes)


def test_levels_of_a_table_are_learned() -> None:
    """A level has the gradient of all weights that have it, and what is stored is what was computed."""
    codes = search(random_weight(), None, WeightFormat(name="table2"), SearchConfig())
    matrix = LatentMatrix(codes, random_weight())
    assert matrix.levels is not None
    matrix().sum().backward()  # type: ignore[no-untyped-call]
    spread_scales = codes.scales.astype(np.float32).repeat(64, 1)[:, :160]
    gap = float(codes.grid.highest - codes.grid.lowest) / 3
    wanted = [spread_scales[codes.codes == code].sum() * gap for code in range(4)]
    np.testing.assert_allclose(matrix.levels.grad, wanted, rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        matrix.levels[1] += 3.2 / gap
    changed = matrix.to_codes()
    assert changed.table is not None
    assert codes.table is not None
    assert changed.table.tolist() == [*codes.table[:1], codes.table[1] + 3, *codes.table[2:]]
    assert torch.equal(matrix().detach(), values_of(changed))


@pytest.mark.parametrize("asymmetric", [False, True])
def test_latents_keep_their_reach(asymmetric: bool) -> None:
    weight = random_weight()
    weight[0] = 0.0
    codes = search(weight, None, WeightFormat(name="int4", asymmetric=asymmetric), SearchConfig())
    free = LatentMatrix(codes, weight)
    bound = LatentMatrix(codes, weight, reach=0.5)
    with torch.no_grad():
        bound.latents.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)) * 9)
    bound.confine()
    inside = (weight - values_of(codes)).abs() < 0.5 * free.forward().abs().amax()  # what is not clipped
    steps = bound.to_codes().scales.astype(np.float32).repeat(64, 1)[:, :160]
    moved = (values_of(bound.to_codes()) - weight).abs() / torch.from_numpy(steps).abs().clamp(min=1e-9)
    assert (moved[1:][inside[1:]] < 1.05).float().mean() > 0.99
    assert (values_of(bound.to_codes())[0] == 0).all()


def test_loss_and_judge_against_the_original_model() -> None:
    table = torch.randn(50, 160, generator=torch.Generator().manual_seed(0))

    def forward(tensors: Mapping[str, Tensor], tokens: Tensor) -> Tensor:
        mixed = (table[tokens] @ tensors["first"].T).float()
        hidden = torch.nn.functional.rms_norm(mixed, (32,), tensors["norm"])
        return hidden @ tensors["second"].T

    originals = {**WEIGHTS, "norm": NORM}
    tokens = torch.randint(0, 50, (12, 20), generator=torch.Generator().manual_seed(1))
    loss_of, judge_of = against_original(forward, originals, tokens[:8], tokens[8:], sequences=3, seed=0)
    codes = starting_codes(WeightFormat(name="int2", group_size=32))
    values = values_by_name(codes)
    expected = mean_kl(forward(originals, tokens[8:]), forward({**originals, **values}, tokens[8:]))
    assert judge_of(values) == pytest.approx(float(expected), rel=1e-4)
    assert judge_of({}) < 1e-6
    assert not torch.equal(loss_of(values, 0), loss_of(values, 1))
    config = TuneConfig(steps=30, judge_every=10, scale_rate=5e-3, vector_rate=5e-3)
    found = tune(codes, WEIGHTS, {"norm": NORM}, loss=loss_of, judge=judge_of, config=config)
    assert found.after < 0.97 * found.before


def test_mean_kl_is_the_definition() -> None:
    original, other = torch.randn(2, 5, 9), torch.randn(2, 5, 9)
    p, q = original.softmax(-1), other.softmax(-1)
    assert float(mean_kl(original, other)) == pytest.approx(
        float((p * (p / q).log()).sum(-1).mean()), rel=1e-5
    )
    assert abs(float(mean_kl(original, original + 3))) < 1e-6
