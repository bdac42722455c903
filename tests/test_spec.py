"""Recipes: one spelling for what does the same."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from penjing.spec import Recipe, WeightFormat, preset


def test_a_format_without_groups_has_one_spelling() -> None:
    assert WeightFormat(name="keep", group_size=32) == WeightFormat(name="keep")
    assert preset("keep", 128) == preset("keep")
    written = preset("keep").model_dump(mode="json")
    written["steps"][0]["weights"]["group_size"] = 128
    assert Recipe.model_validate(written) == preset("keep")
    assert WeightFormat(name="int4", group_size=32).group_size == 32
    with pytest.raises(ValidationError, match="group_size"):
        WeightFormat(name="keep", group_size=7)  # type: ignore[arg-type]
