from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
from checkpoints import write_checkpoint

from penjing.errors import CheckpointNotFoundError, MissingExtraError
from penjing.models import Checkpoint
from penjing.models.hub import looks_like_repository


def fake_hub(monkeypatch: pytest.MonkeyPatch, download: object) -> None:
    module = types.ModuleType("huggingface_hub")
    module.snapshot_download = download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)


def test_only_names_are_sent_to_the_hub() -> None:
    assert looks_like_repository("gpt2")
    assert looks_like_repository("Qwen/Qwen2.5-0.5B")
    assert looks_like_repository("Qwen/Qwen2.5-0.5B@main")
    for path in (
        "/data/model",
        "./model",
        "../model",
        "a/b/c",
        "",
        "a/",
        "~/model",
        "a b",
        "a@",
        "@main",
        "a@../b",
    ):
        assert not looks_like_repository(path)


def test_fetched_repository_is_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = write_checkpoint(tmp_path / "snapshots" / "0123abc")
    asked: list[tuple[str, str | None]] = []

    def download(
        name: str, revision: str | None, allow_patterns: list[str], ignore_patterns: list[str]
    ) -> str:
        asked.append((name, revision))
        assert not any(pattern.endswith((".bin", ".pt", ".py")) for pattern in allow_patterns)
        return str(snapshot)

    fake_hub(monkeypatch, download)
    for name, revision in (("owner/some-model-7b", None), ("owner/some-model-7b@refs/pr/1", "refs/pr/1")):
        checkpoint = Checkpoint.open(name)
        assert (checkpoint.name, checkpoint.revision) == ("owner/some-model-7b", "0123abc")
        assert asked.pop() == ("owner/some-model-7b", revision)


def test_unreachable_repository_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(name: str, **_: object) -> str:
        raise ConnectionError("no route to host\nmore\nlines")

    fake_hub(monkeypatch, download)
    with pytest.raises(CheckpointNotFoundError, match="no route to host") as caught:
        Checkpoint.open("owner/some-model-7b")
    assert "\n" not in str(caught.value)


def test_offline_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("huggingface_hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointNotFoundError, match="cannot be fetched") as caught:
        Checkpoint.open("penjing-tests/no-such-model")
    assert "\n" not in str(caught.value)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r"penjing\[hub\]"):
        Checkpoint.open("owner/some-model-7b")
