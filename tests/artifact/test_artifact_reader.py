from __future__ import annotations

import hashlib
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from artifact_samples import CONFIG, edit_manifest, patch_bytes, random_tensor, write_artifact

from penjing.artifact import Artifact, expected_tensors, reader, verify_artifact
from penjing.artifact.checksum import sha256_of_file
from penjing.errors import (
    ArtifactError,
    ArtifactNotFoundError,
    CapacityError,
    ChecksumError,
    ManifestError,
    MissingTensorError,
    NonFiniteScaleError,
    TensorShapeError,
)
from penjing.formats import decode, encode
from penjing.kernels import crc32c
from penjing.spec import WeightFormat, WeightFormatName

FORMATS: tuple[WeightFormatName, ...] = ("keep", "int8", "int4", "layered")


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sidecar = tmp_path_factory.mktemp("sidecar") / "tokenizer.json"
    sidecar.write_text("{}")
    return write_artifact(tmp_path_factory.mktemp("pristine") / "tray", "layered", files=(sidecar,))


@pytest.fixture
def tray(pristine: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(pristine, tmp_path / "tray"))


def part_of(tray: Path, tensor: str, part: str) -> Any:
    return Artifact.open(tray, verify="none").manifest.tensors[tensor].parts[part]  # type: ignore[index]


@pytest.mark.parametrize("format", FORMATS)
def test_what_was_written_is_read(tmp_path: Path, format: WeightFormatName) -> None:
    path = write_artifact(tmp_path / "tray", format)
    artifact = verify_artifact(path)
    assert artifact.config == CONFIG
    generator = np.random.default_rng(0)
    for name, role in expected_tensors(CONFIG).items():
        tensor = random_tensor(role.shape, generator)
        if role.is_matrix:
            expected = encode(tensor, WeightFormat(name=format, group_size=32), "range", name)
            stored = artifact.matrix(name)
            assert np.array_equal(decode(stored), decode(expected))
            assert stored.codes.ctypes.data % 64 == 0
        else:
            assert np.array_equal(artifact.vector(name), tensor)
    files = ["tensors.bin", "residual.bin"] if format == "layered" else ["tensors.bin"]
    sizes = [(path / file).stat().st_size for file in files]
    assert artifact.tensor_bytes == artifact.tier_bytes("best") == sum(sizes)
    assert artifact.tier_bytes("fast") == sizes[0]
    assert artifact.tiers == (("fast", "best") if format == "layered" else ("best",))


def test_views_are_not_copies_and_read_only(pristine: Path) -> None:
    artifact = Artifact.open(pristine)
    matrix = artifact.matrix("blocks.0.gate")
    assert matrix.residual is not None
    assert np.shares_memory(matrix.codes, artifact.files["tensors.bin"])
    assert np.shares_memory(matrix.residual, artifact.files["residual.bin"])
    with pytest.raises(ValueError, match="read-only"):
        matrix.codes[0] = 1


@pytest.mark.parametrize("in_memory", [False, True])
def test_memory_holds_what_the_files_do(pristine: Path, in_memory: bool, monkeypatch: Any) -> None:
    monkeypatch.setattr(reader, "PIECE_BYTES", 1000)
    artifact = Artifact.open(pristine, in_memory=in_memory)
    for file, held in artifact.files.items():
        assert held.tobytes() == (pristine / file).read_bytes()
        assert not held.flags.writeable
    assert artifact.matrix("blocks.0.gate").codes.ctypes.data % 64 == 0


def test_damage_is_found_in_memory(tray: Path) -> None:
    patch_bytes(tray / "tensors.bin", 4096, b"\x5a\xa5")
    with pytest.raises(ChecksumError, match=r"do not match their checksum"):
        Artifact.open(tray, in_memory=True)


def test_more_than_memory_holds(pristine: Path, monkeypatch: Any) -> None:
    def refuse(nbytes: int) -> None:
        raise MemoryError(nbytes)

    monkeypatch.setattr(reader, "huge_memory", refuse)
    with pytest.raises(CapacityError, match=r"tensors\.bin: its \d+ bytes do not fit"):
        Artifact.open(pristine, in_memory=True)


def test_a_file_that_shrinks_while_it_is_read(tray: Path) -> None:
    with pytest.raises(OSError, match="ends early"):
        reader.read_whole(tray / "tensors.bin", (tray / "tensors.bin").stat().st_size + 1)


def test_views_outlive_the_artifact(tray: Path) -> None:
    vector = Artifact.open(tray).vector("final_norm")
    before = vector.copy()
    shutil.rmtree(tray)
    assert np.array_equal(vector, before)


def test_unknown_name(pristine: Path) -> None:
    with pytest.raises(MissingTensorError, match=r"blocks\.7"):
        Artifact.open(pristine).matrix("blocks.7.gate")


def test_not_an_artifact(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere", Path(__file__)):
        with pytest.raises(ArtifactNotFoundError, match="not an artifact"):
            Artifact.open(path)


EDITS = [
    lambda text: text.replace('"norm_eps":1e-05', '"norm_eps":1e-06'),
    lambda text: text.replace('"seed":0', '"seed":1'),
    lambda text: text.replace(",", ", ", 1),
    lambda text: text + " ",
    lambda text: text.rstrip("\n"),
    lambda text: text.replace('{"config"', '{"config":{},"config"'),
    lambda text: text[: len(text) // 2],
    lambda _: "",
    lambda _: "[]\n",
    lambda _: "[" * 100_000,
    lambda _: "\udcff",
    lambda text: text.replace('"hidden_size":36', '"hidden_size":NaN'),
    lambda text: text[:-2] + ',"zzz":1}\n',
]


@pytest.mark.parametrize("edit", EDITS)
def test_any_edit_of_the_manifest(tray: Path, edit: Any) -> None:
    file = tray / "manifest.json"
    file.write_bytes(edit(file.read_text()).encode("utf-8", "surrogateescape"))
    with pytest.raises(ManifestError, match=r"manifest\.json") as caught:
        Artifact.open(tray, verify="none")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_unknown_version(tray: Path, version: object) -> None:
    edit_manifest(tray, lambda data: data.update(format_version=version), reseal=True)
    with pytest.raises(ManifestError, match="format version"):
        Artifact.open(tray)


def test_unknown_kind_and_keys(tray: Path) -> None:
    edit_manifest(tray, lambda data: data.update(kind="encoder", more=1), reseal=True)
    with pytest.raises(ManifestError, match="kind"):
        Artifact.open(tray)


def test_header_of_another_version(tray: Path) -> None:
    patch_bytes(tray / "tensors.bin", 8, struct.pack("<I", 2))
    with pytest.raises(ChecksumError, match=r"tensors\.bin: its header"):
        Artifact.open(tray, verify="none")


def test_files_exchanged(tray: Path) -> None:
    patch_bytes(tray / "residual.bin", 12, struct.pack("<I", 0))
    with pytest.raises(ChecksumError, match=r"residual\.bin: its header"):
        Artifact.open(tray, verify="none")


@pytest.mark.parametrize("file", ["tensors.bin", "residual.bin"])
@pytest.mark.parametrize("size", [0, 63, 64, 1000, -1])
def test_truncated(tray: Path, file: str, size: int) -> None:
    with (tray / file).open("r+b") as stream:
        stream.truncate(size % (tray / file).stat().st_size)
    with pytest.raises(ChecksumError, match=file):
        Artifact.open(tray, verify="none")


@pytest.mark.parametrize("file", ["tensors.bin", "residual.bin"])
def test_missing_file(tray: Path, file: str) -> None:
    (tray / file).unlink()
    with pytest.raises(MissingTensorError, match=file):
        Artifact.open(tray)


@pytest.mark.parametrize(
    ("tensor", "part"),
    [
        ("embedding", "codes"),
        ("blocks.1.down", "residual"),
        ("blocks.0.key", "scales"),
        ("final_norm", "data"),
    ],
)
@pytest.mark.parametrize("verify", ["crc", "sha256"])
def test_flipped_bit_names_the_tensor(tray: Path, tensor: str, part: str, verify: Any) -> None:
    record = part_of(tray, tensor, part)
    offset = record.offset + record.nbytes - 1
    original = (tray / record.file).read_bytes()[offset]
    patch_bytes(tray / record.file, offset, bytes([original ^ 0x10]))
    with pytest.raises(ChecksumError, match=tensor):
        Artifact.open(tray, verify=verify)


def forge(tray: Path, tensor: str, part: str, offset: int, data: bytes) -> None:
    """Write bad numbers with checksums that fit them."""
    record = part_of(tray, tensor, part)
    file = tray / record.file
    patch_bytes(file, record.offset + offset, data)
    part_bytes = file.read_bytes()[record.offset : record.offset + record.nbytes]

    def edit(manifest: dict[str, Any]) -> None:
        entry = manifest["tensors"][tensor]["parts"][part]
        entry["crc32c"] = crc32c(part_bytes)
        entry["sha256"] = hashlib.sha256(part_bytes).hexdigest()
        manifest["files"][record.file]["sha256"] = sha256_of_file(file)

    edit_manifest(tray, edit, reseal=True)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scale_that_is_no_number(tray: Path, value: float) -> None:
    forge(tray, "blocks.0.up", "scales", 6, np.float16(value).tobytes())
    for verify in ("none", "crc", "sha256"):
        with pytest.raises(NonFiniteScaleError, match=r"blocks\.0\.up"):
            Artifact.open(tray, verify=verify)


def test_vector_that_is_no_number(tray: Path) -> None:
    forge(tray, "final_norm", "data", 4, np.float32(np.nan).tobytes())
    with pytest.raises(NonFiniteScaleError, match="final_norm"):
        Artifact.open(tray)


@pytest.mark.parametrize("format", FORMATS)
def test_padding_that_is_not_neutral(tmp_path: Path, format: WeightFormatName) -> None:
    tray = write_artifact(tmp_path / "tray", format)
    part = "data" if format == "keep" else "codes"
    # blocks.0.gate is [50, 36]: rows 50-63 of the last tile are padding, and columns 36-63 of its groups.
    last = part_of(tray, "blocks.0.gate", part).nbytes - 1
    forge(tray, "blocks.0.gate", part, last, b"\x17")
    Artifact.open(tray)
    with pytest.raises(ChecksumError, match=r"padding of blocks\.0\.gate"):
        verify_artifact(tray)


def test_padded_columns_scales_and_residual(tray: Path, pristine: Path) -> None:
    # Tile 0 of blocks.0.gate has 64 padded columns: byte 64 * 5 holds row 0, columns 40 (low) and 44 (high).
    forge(tray, "blocks.0.gate", "codes", 64 * 5, b"\x98")
    with pytest.raises(ChecksumError, match="padding"):
        verify_artifact(tray)
    for part, offset in (("residual", 64 * 5), ("scales", -2)):
        shutil.rmtree(tray)
        shutil.copytree(pristine, tray)
        nbytes = part_of(tray, "blocks.0.gate", part).nbytes
        forge(tray, "blocks.0.gate", part, offset % nbytes, b"\x01")
        Artifact.open(tray)
        with pytest.raises(ChecksumError, match="padding"):
            verify_artifact(tray)


def test_bytes_between_tensors(tray: Path) -> None:
    record = part_of(tray, "final_norm", "data")
    patch_bytes(tray / "tensors.bin", record.offset + record.nbytes, b"\x01")
    Artifact.open(tray)
    with pytest.raises(ChecksumError, match="between"):
        verify_artifact(tray)


def test_changed_or_missing_sidecar(tray: Path) -> None:
    (tray / "tokenizer.json").write_text("{ }")
    with pytest.raises(ChecksumError, match=r"tokenizer\.json"):
        Artifact.open(tray)
    (tray / "tokenizer.json").unlink()
    with pytest.raises(ChecksumError, match=r"tokenizer\.json"):
        Artifact.open(tray)


def in_entry(tensor: str, **changes: object) -> Any:
    return lambda data: data["tensors"][tensor].update(changes)


def in_part(tensor: str, part: str, **changes: object) -> Any:
    return lambda data: data["tensors"][tensor]["parts"][part].update(changes)


FORGERIES = [
    (lambda data: data["tensors"].pop("final_norm"), MissingTensorError),
    (lambda data: data["tensors"].update(extra=data["tensors"]["final_norm"]), MissingTensorError),
    (lambda data: data["config"].update(tied_head=True), MissingTensorError),
    (lambda data: data["config"].update(vocab_size=41), TensorShapeError),
    (in_entry("head", shape=[36, 40]), TensorShapeError),
    (in_entry("head", shape=[1 << 70, 36]), TensorShapeError),
    (in_entry("head", format="int8"), TensorShapeError),
    (in_entry("head", group_size=0), ManifestError),
    (in_entry("head", group_size=48), ManifestError),
    (in_entry("head", format="fp32"), ManifestError),
    (in_entry("final_norm", format="fp16"), ManifestError),
    (in_part("head", "codes", nbytes=64), TensorShapeError),
    (in_part("head", "codes", nbytes=-1), ManifestError),
    (in_part("head", "codes", offset=0), ManifestError),
    (in_part("head", "codes", offset=65), ManifestError),
    (in_part("head", "codes", offset=128), ManifestError),
    (in_part("head", "codes", offset=1 << 62), ManifestError),
    (in_part("head", "codes", file="residual.bin"), ManifestError),
    (in_part("head", "codes", file="../../etc/passwd"), ManifestError),
    (lambda data: data["tensors"]["head"]["parts"].pop("scales"), TensorShapeError),
    (lambda data: data["files"].pop("tensors.bin"), ManifestError),
    (lambda data: data["files"].update({"../x": data["files"]["tokenizer.json"]}), ManifestError),
    (lambda data: data["files"]["tensors.bin"].update(nbytes=10**6), ChecksumError),
]


@pytest.mark.parametrize(("edit", "error"), FORGERIES)
def test_forged_tables(tray: Path, edit: Any, error: type[ArtifactError]) -> None:
    edit_manifest(tray, edit, reseal=True)
    with pytest.raises(error) as caught:
        Artifact.open(tray, verify="none")
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)
