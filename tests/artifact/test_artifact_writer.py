from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from artifact_samples import CONFIG, provenance, write_artifact

from penjing.artifact import Artifact, ArtifactWriter, expected_tensors, verify_artifact
from penjing.artifact.layout import header
from penjing.errors import (
    FormatError,
    MissingTensorError,
    NonFiniteWeightError,
    OutputExistsError,
    OutputNotWritableError,
    TensorShapeError,
    TokenizerError,
)
from penjing.formats import encode
from penjing.spec import WeightFormat

KEEP = WeightFormat(name="keep")


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def embedding() -> np.ndarray:
    return np.ones((40, 36), np.float32)


def test_same_input_same_bytes(tmp_path: Path) -> None:
    one, two = (contents(write_artifact(tmp_path / name, "layered")) for name in ("one", "two"))
    assert one == two
    other = contents(write_artifact(tmp_path / "other", "layered", seed=1))
    assert other["manifest.json"] != one["manifest.json"]


def test_fast_tier_is_the_4_bit_artifact(tmp_path: Path) -> None:
    layered = contents(write_artifact(tmp_path / "layered", "layered"))
    assert layered["tensors.bin"] == contents(write_artifact(tmp_path / "int4", "int4"))["tensors.bin"]


def test_layout_on_disk(tmp_path: Path) -> None:
    path = write_artifact(tmp_path / "tray", "layered")
    artifact = Artifact.open(path)
    for file in ("tensors.bin", "residual.bin"):
        data = (path / file).read_bytes()
        assert data[:64] == header(file)  # type: ignore[arg-type]
        assert data[:8] == b"PENJING\0"
        assert len(data) % 64 == 0
        covered = bytearray(data[64:])
        previous = 0
        for name in expected_tensors(CONFIG):
            for part in artifact.entry(name).parts.values():
                if part.file == file:
                    assert part.offset % 64 == 0
                    assert part.offset > previous
                    previous = part.offset
                    covered[part.offset - 64 : part.offset - 64 + part.nbytes] = bytes(part.nbytes)
        assert not any(covered)
    assert names(path) == ["manifest.json", "residual.bin", "tensors.bin"]
    assert str(tmp_path) not in (path / "manifest.json").read_text()


def test_existing_target_is_kept(tmp_path: Path) -> None:
    path = write_artifact(tmp_path / "tray")
    before = contents(path)
    with pytest.raises(OutputExistsError, match="--force"):
        write_artifact(path, seed=1)
    assert contents(path) == before
    assert names(tmp_path) == ["tray"]


def test_force_replaces_an_artifact_only_when_the_new_one_is_complete(tmp_path: Path) -> None:
    path = write_artifact(tmp_path / "tray")
    before = contents(path)

    def stop(name: str) -> None:
        assert contents(path) == before
        if name == "final_norm":
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_artifact(path, seed=1, force=True, after=stop)
    assert contents(path) == before
    write_artifact(path, seed=1, force=True)
    assert contents(path) == contents(write_artifact(tmp_path / "fresh", seed=1))
    assert names(tmp_path) == ["fresh", "tray"]


def test_force_never_replaces_what_is_no_artifact(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    (tmp_path / "file").write_text("x")
    for target in ("thesis", "file"):
        with pytest.raises(OutputExistsError, match="not an artifact"):
            write_artifact(tmp_path / target, force=True)
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years of work"
    assert names(tmp_path) == ["file", "thesis"]


def test_force_never_replaces_an_artifact_with_something_else_in_it(tmp_path: Path) -> None:
    path = write_artifact(tmp_path / "tray")
    for name in ("notes.txt", "tokenizer.json"):
        (path / name).write_text("not from here")
        with pytest.raises(OutputExistsError, match=f"holds '{name}'"):
            write_artifact(path, force=True)
        (path / name).unlink()
    (path / "certificate.json").write_text("{}")
    write_artifact(path, force=True)
    assert names(path) == ["manifest.json", "tensors.bin"]
    (path / "manifest.json").write_text('{"version": 1}')
    with pytest.raises(OutputExistsError, match="is not an artifact"):
        write_artifact(path, force=True)


def test_empty_directory_needs_force_too(tmp_path: Path) -> None:
    (tmp_path / "tray").mkdir()
    with pytest.raises(OutputExistsError):
        write_artifact(tmp_path / "tray")
    verify_artifact(write_artifact(tmp_path / "tray", force=True))


def test_target_that_appears_while_writing(tmp_path: Path) -> None:
    def appear(name: str) -> None:
        (tmp_path / "tray").mkdir(exist_ok=True)
        (tmp_path / "tray" / "note").touch()

    with pytest.raises(OutputExistsError):
        write_artifact(tmp_path / "tray", after=appear)
    assert names(tmp_path) == ["tray"]


def test_link_to_an_artifact_is_followed(tmp_path: Path) -> None:
    real = write_artifact(tmp_path / "real")
    (tmp_path / "link").symlink_to(real)
    write_artifact(tmp_path / "link", seed=1, force=True)
    assert (tmp_path / "link").is_symlink()
    assert contents(real) == contents(write_artifact(tmp_path / "fresh", seed=1))


def test_missing_or_unwritable_parent(tmp_path: Path) -> None:
    with pytest.raises(OutputNotWritableError, match="No such file"):
        write_artifact(tmp_path / "nowhere" / "tray")
    (tmp_path / "file").touch()
    with pytest.raises(OutputNotWritableError):
        write_artifact(tmp_path / "file" / "tray")
    with pytest.raises(OutputNotWritableError):
        write_artifact(Path("/proc/tray"))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_interruption_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def stop(name: str) -> None:
        if name == "blocks.1.key":
            raise error

    with pytest.raises(error):
        write_artifact(tmp_path / "tray", after=stop)
    assert names(tmp_path) == []


def test_leaving_without_finish_leaves_nothing(tmp_path: Path) -> None:
    with ArtifactWriter(tmp_path / "tray", CONFIG) as writer:
        writer.add_matrix("embedding", encode(embedding(), KEEP, "range", "embedding"))
    assert names(tmp_path) == []


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputNotWritableError, match="No space left"):
        write_artifact(tmp_path / "tray")
    monkeypatch.undo()
    assert names(tmp_path) == []


def test_disk_that_fills_up_while_writing(tmp_path: Path) -> None:
    script = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from artifact_samples import write_artifact; from penjing.errors import OutputNotWritableError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "try: write_artifact(Path(sys.argv[1]), 'keep')\n"
        "except OutputNotWritableError as error: print(error)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", script, str(tmp_path / "tray")]
    result = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    assert result.stdout == f"{tmp_path / 'tray'}: cannot be written (File too large); choose another place\n"
    assert result.stderr == ""
    assert names(tmp_path) == []


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: cannot be read"):
        write_artifact(tmp_path / "tray", files=(tmp_path / "tokenizer.json",))
    assert names(tmp_path) == []


def test_wrong_tensors(tmp_path: Path) -> None:
    encoded = encode(embedding(), KEEP, "range", "embedding")
    with ArtifactWriter(tmp_path / "tray", CONFIG) as writer:
        with pytest.raises(MissingTensorError, match="embedding was expected"):
            writer.add_vector("final_norm", np.ones(36, np.float32))
        with pytest.raises(MissingTensorError, match="embedding first"):
            writer.finish(provenance())
        writer.add_matrix("embedding", encoded)
        with pytest.raises(NonFiniteWeightError, match=r"blocks\.0\.attention_norm"):
            writer.add_vector("blocks.0.attention_norm", np.full(36, np.nan, np.float32))
    with (
        ArtifactWriter(tmp_path / "tray", CONFIG) as writer,
        pytest.raises(TensorShapeError, match=r"\[36, 40\]"),
    ):
        writer.add_matrix("embedding", encode(embedding().T.copy(), KEEP, "range", "embedding"))
    with ArtifactWriter(tmp_path / "tray", CONFIG) as writer, pytest.raises(FormatError, match="float64"):
        writer.add_vector("embedding", np.ones(36))
    assert names(tmp_path) == []


def test_stale_partials_are_cleaned_and_live_ones_kept(tmp_path: Path) -> None:
    stale = tmp_path / ".tray.partial-1"  # a process that exists, but does not hold the lock
    stale.mkdir()
    (tmp_path / ".tray.partial-2").touch()
    (stale / "tensors.bin").touch()
    other = tmp_path / ".other.partial-1"
    other.mkdir()
    expected = sorted([".other.partial-1", ".tray.partial-2", f".tray.partial-{os.getpid()}"])
    with ArtifactWriter(tmp_path / "tray", CONFIG):
        assert names(tmp_path) == expected
        with (
            pytest.raises(OutputNotWritableError, match="being written"),
            ArtifactWriter(tmp_path / "tray", CONFIG),
        ):
            pass
        assert names(tmp_path) == expected


def test_two_processes_may_race_for_one_name(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, __file__, str(tmp_path / "tray"), "0.01"], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "embedding\n"
    write_artifact(tmp_path / "tray", seed=1)
    child.communicate(timeout=60)
    assert child.returncode == 2
    assert contents(tmp_path / "tray") == contents(write_artifact(tmp_path / "fresh", seed=1))
    assert names(tmp_path) == ["fresh", "tray"]


def test_replacement_killed_between_its_two_renames(tmp_path: Path) -> None:
    path = write_artifact(tmp_path / "tray")
    before = contents(path)
    path.rename(tmp_path / ".tray.replaced-1")
    with pytest.raises(OutputExistsError):
        write_artifact(path)
    assert contents(path) == before
    (tmp_path / ".tray.replaced-1").mkdir()
    write_artifact(path, seed=1, force=True)
    assert names(tmp_path) == ["tray"]


@pytest.mark.parametrize("force", [False, True])
def test_killed_at_random_moments(tmp_path: Path, force: bool) -> None:
    """Whenever a writer is killed, what stands under the name is whole, or is not there.

    A replacement that is killed between its two renames has left the old artifact, whole, aside.
    """
    target = tmp_path / "tray"
    expected = contents(write_artifact(tmp_path / "fresh"))
    before = contents(write_artifact(target, seed=1)) if force else None
    generator = random.Random(7)
    for _ in range(4):
        child = subprocess.Popen(
            [sys.executable, __file__, str(target), "0.004", *(["force"] if force else [])],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(generator.uniform(0, 0.15))
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        aside = list(tmp_path.glob(".tray.replaced-*"))
        if target.exists():
            assert contents(target) in (expected, before)
        elif force:
            assert [contents(path) in (expected, before) for path in aside] == [True]
        else:
            assert not aside
    others = [name for name in names(tmp_path) if name not in ("fresh", "tray")]
    assert all(name.startswith((".tray.partial-", ".tray.replaced-")) for name in others)
    write_artifact(target, force=True)
    assert contents(target) == expected
    assert names(tmp_path) == ["fresh", "tray"]


def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    """Ten times the tensors, the same peak."""
    script = (
        "import resource, sys; from pathlib import Path; import numpy as np\n"
        "from penjing.artifact import *; from penjing.formats import encode\n"
        "from penjing.spec import WeightFormat; from artifact_samples import provenance\n"
        "blocks = (BlockConfig(num_heads=8, num_kv_heads=8, intermediate_size=2048),) * int(sys.argv[2])\n"
        "config = ModelConfig(family='llama', vocab_size=64, hidden_size=512, head_dim=64, max_positions=8,\n"
        "    norm_eps=1e-5, tied_head=True, blocks=blocks)\n"
        "with ArtifactWriter(Path(sys.argv[1]), config) as writer:\n"
        "    for name, role in expected_tensors(config).items():\n"
        "        tensor = np.ones(role.shape, np.float32)\n"
        "        if role.is_matrix:\n"
        "            writer.add_matrix(name, encode(tensor, WeightFormat(name='keep'), 'range', name))\n"
        "        else:\n"
        "            writer.add_vector(name, tensor)\n"
        "    writer.finish(provenance('keep'))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    peaks = []
    for blocks in (1, 8):
        command = [sys.executable, "-c", script, str(tmp_path / str(blocks)), str(blocks)]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
        peaks.append(int(subprocess.run(command, check=True, capture_output=True, env=environment).stdout))
    written = sum(path.stat().st_size for path in (tmp_path / "8").iterdir()) // 1024
    assert peaks[1] - peaks[0] < written / 10, (peaks, written)


def test_threads_may_write_different_artifacts(tmp_path: Path) -> None:
    threads = [threading.Thread(target=write_artifact, args=(tmp_path / str(index),)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first, *rest = (contents(tmp_path / str(index)) for index in range(4))
    assert all(other == first for other in rest)


def slow_writer(target: str, seconds: str, *force: str) -> int:
    """A process to kill: writes an artifact, announcing each tensor and taking its time."""

    def pause(name: str) -> None:
        print(name, flush=True)
        time.sleep(float(seconds))

    try:
        write_artifact(Path(target), force=bool(force), after=pause)
    except OutputExistsError:
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(slow_writer(*sys.argv[1:]))
