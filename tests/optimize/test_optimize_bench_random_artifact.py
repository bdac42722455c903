"""Random artifacts: real ones, sane ones, and written once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from penjing.artifact import Artifact, verify_artifact
from penjing.engine import Engine
from penjing.errors import FormatError, OutputExistsError, SpecError
from penjing.formats import decode
from penjing.models import shapes
from penjing.optimize.bench import BENCH_FORMATS, random_artifact
from penjing.optimize.bench import random_artifact as make
from penjing.optimize.bench.random_artifact import BenchFormat


@pytest.mark.parametrize("format", BENCH_FORMATS)
def test_every_byte_is_in_order_and_activations_are_sane(format: BenchFormat, tmp_path: Path) -> None:
    path = random_artifact("tiny", format, 128, directory=tmp_path)
    artifact = verify_artifact(path)
    down = artifact.matrix("blocks.1.down")
    assert down.format == format
    for tier in artifact.tiers:
        deviation = decode(down, tier).std()
        assert deviation == pytest.approx(1 / np.sqrt(512), rel=0.25)
        (logits,) = Engine(artifact, tier=tier, threads=1).logits(list(range(40)))
        assert 0.2 < logits.std() < 5
        assert np.isfinite(logits).all()
    assert artifact.tiers == (("fast", "best") if format == "layered" else ("best",))
    assert artifact.matrix("head").format == ("bf16" if format == "bf16" else "int8")


def test_it_is_written_once_and_anew_for_another_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = random_artifact("tiny", "int4", directory=tmp_path)
    written = (path / "manifest.json").stat().st_mtime_ns, Artifact.open(path).hash
    assert random_artifact("tiny", "int4", directory=tmp_path) == path
    assert ((path / "manifest.json").stat().st_mtime_ns, Artifact.open(path).hash) == written
    other = shapes.SHAPES["tiny"].model_copy(update={"vocab_size": 256})
    monkeypatch.setitem(shapes.SHAPES, "tiny", other)
    assert Artifact.open(random_artifact("tiny", "int4", directory=tmp_path)).config.vocab_size == 256
    assert random_artifact("tiny", "int4", 32, directory=tmp_path) != path
    assert make("tiny", "int4", directory=tmp_path / "other").parent == tmp_path / "other"


def test_the_user_s_own_directory_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "tiny-int4-g64").mkdir()
    (tmp_path / "tiny-int4-g64" / "thesis.txt").write_text("mine")
    with pytest.raises(OutputExistsError, match="not an artifact"):
        random_artifact("tiny", "int4", directory=tmp_path)


def test_what_cannot_be_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SpecError, match="unknown"):
        random_artifact("colossal", directory=tmp_path)
    narrow = shapes.SHAPES["tiny"].model_copy(update={"hidden_size": 96})
    monkeypatch.setitem(shapes.SHAPES, "tiny", narrow)
    with pytest.raises(FormatError, match="96 inputs of embedding are not whole groups of 64"):
        random_artifact("tiny", directory=tmp_path)
    assert list(tmp_path.iterdir()) == []
