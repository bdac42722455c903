from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from artifact_samples import edit_manifest, write_artifact
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penjing.artifact import Artifact, verify_artifact
from penjing.errors import ArtifactError

QUICK = settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.integers(-2, 130),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["", "fp32", "int4", "int8", "layered", "residual.bin", "tensors.bin", "0" * 64, "../x"]),
    st.just([]),
    st.just({}),
)


@pytest.fixture(scope="module")
def tray(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("fuzz")
    (directory / "tokenizer.json").write_text('{"version": "1.0"}')
    return write_artifact(directory / "tray", "layered", files=(directory / "tokenizer.json",))


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [place for key, inner in items for place in places(inner, (*path, key))]


@given(data=st.data())
@QUICK
def test_any_flipped_byte_is_found(tray: Path, tmp_path: Path, data: st.DataObject) -> None:
    file = data.draw(st.sampled_from(sorted(path.name for path in tray.iterdir())))
    content = bytearray((tray / file).read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    damaged = tmp_path / "damaged"
    shutil.rmtree(damaged, ignore_errors=True)
    shutil.copytree(tray, damaged)
    (damaged / file).write_bytes(content)
    with pytest.raises(ArtifactError) as caught:
        verify_artifact(damaged)
    assert "\n" not in str(caught.value)


@given(data=st.data())
@QUICK
def test_a_forged_manifest_is_refused_or_harmless(tray: Path, tmp_path: Path, data: st.DataObject) -> None:
    forged = tmp_path / "forged"
    shutil.rmtree(forged, ignore_errors=True)
    shutil.copytree(tray, forged)
    manifest = json.loads((tray / "manifest.json").read_text())
    changes = [
        (data.draw(st.sampled_from(places(manifest))), data.draw(VALUES))
        for _ in range(data.draw(st.integers(1, 2)))
    ]

    def edit(manifest: dict[str, Any]) -> None:
        for path, value in changes:
            holder: Any = manifest
            for key in path[:-1]:
                if not isinstance(holder, dict | list) or (isinstance(holder, dict) and key not in holder):
                    return
                if isinstance(holder, list) and len(holder) <= key:
                    return
                holder = holder[key]
            if isinstance(holder, dict) or (isinstance(holder, list) and len(holder) > path[-1]):
                holder[path[-1]] = value

    edit_manifest(forged, edit, reseal=True)
    artifact = opened(forged)
    if artifact is None:
        return
    for name, entry in artifact.entries():
        if len(entry.shape) == 2:
            artifact.matrix(name)
        else:
            artifact.vector(name)


def opened(path: Path) -> Artifact | None:
    """The artifact, or None where it is refused."""
    try:
        return Artifact.open(path)
    except ArtifactError:
        return None
