"""Sensitivities are kept as they are found, and the same however often the run was killed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from penjing.errors import DataError
from penjing.models import Checkpoint
from penjing.optimize.choices import groups_of
from penjing.optimize.sensitivity import sensitivity
from penjing.quantize.assignment import KEEP
from penjing.spec import WeightFormat

FORMATS = (WeightFormat(name="int3"), WeightFormat(name="int6", group_size=32), KEEP)
TOKENS = np.random.Generator(np.random.PCG64(1)).integers(3, 20, (4, 16))


class KilledError(Exception):
    """What a test kills a run with."""


def test_a_killed_run_goes_on_and_finds_the_same(checkpoint: Path, tmp_path: Path) -> None:
    opened = Checkpoint.open(checkpoint)
    whole = sensitivity(opened, TOKENS, FORMATS, directory=tmp_path / "whole")
    assert list(whole) == [name for name, _ in groups_of(opened.config)]
    assert all(list(losses) == ["int3/64", "int6/32", "keep"] for losses in whole.values())
    assert all(losses["keep"] == 0 < losses["int6/32"] < losses["int3/64"] for losses in whole.values())

    def killed(stage: str, done: int, total: int) -> None:
        if done == 1:
            raise KilledError(f"{stage} {total}")

    with pytest.raises(KilledError, match="loss by group 2"):
        sensitivity(opened, TOKENS, FORMATS, directory=tmp_path / "killed", progress=killed)
    (left,) = (tmp_path / "killed").iterdir()  # no scratch
    assert "blocks.1.down" in left.read_text()
    assert "blocks.0.down" not in left.read_text()
    assert sensitivity(opened, TOKENS, FORMATS, directory=tmp_path / "killed") == whole

    def never(stage: str, done: int, total: int) -> None:
        raise AssertionError("computed again")

    assert sensitivity(opened, TOKENS, FORMATS, directory=tmp_path / "killed", progress=never) == whole
    other = sensitivity(opened, TOKENS[:2], FORMATS, directory=tmp_path / "killed")
    assert other != whole


def test_tokens_of_another_model_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    opened = Checkpoint.open(checkpoint)
    with pytest.raises(DataError, match="beyond the model's"):
        sensitivity(opened, TOKENS + 1000, FORMATS, directory=tmp_path)
    with pytest.raises(DataError, match="not \\[sequences, length\\]"):
        sensitivity(opened, TOKENS[0], FORMATS, directory=tmp_path)
    assert not list(tmp_path.iterdir())
