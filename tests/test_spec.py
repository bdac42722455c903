"""Recipes: one spelling for what does the same."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from penjing.spec import Budget, KvFormats, QuantizeStep, Recipe, WeightFormat, preset


def test_a_format_without_groups_has_one_spelling() -> None:
    assert WeightFormat(name="keep", group_size=32) == WeightFormat(name="keep")
    assert preset("keep", 128) == preset("keep")
    written = preset("keep").model_dump(mode="json")
    written["steps"][0]["weights"]["group_size"] = 128
    assert Recipe.model_validate(written) == preset("keep")
    assert WeightFormat(name="int4", group_size=32).group_size == 32
    with pytest.raises(ValidationError, match="group_size"):
        WeightFormat(name="keep", group_size=7)  # type: ignore[arg-type]


def test_keys_and_values_alike_have_one_spelling() -> None:
    step = QuantizeStep.model_validate({"kv": {"key": "int6", "value": "int4"}})
    assert step.kv_formats == KvFormats(key="int6", value="int4")
    assert QuantizeStep.model_validate(step.model_dump(mode="json")) == step
    alike = QuantizeStep.model_validate({"kv": {"key": "int4", "value": "int4"}})
    assert alike.kv == "int4"
    assert alike == QuantizeStep(kv="int4")
    assert alike.kv_formats == KvFormats(key="int4", value="int4")
    assert preset("int4", kv=KvFormats(key="int8", value="int8")) == preset("int4")
    for wrong in ("int7", {"key": "int4"}, {"key": "int4", "value": "int4", "query": "int4"}):
        with pytest.raises(ValidationError, match="kv"):
            QuantizeStep.model_validate({"kv": wrong})


def test_sizes_have_units() -> None:
    for text, meant in {"512M": 2**29, "512MiB": 2**29, "1.5G": 3 * 2**29, "2GB": 2 * 10**9, "7": 7}.items():
        assert Budget.model_validate({"max_ram": text}).max_ram == meant
