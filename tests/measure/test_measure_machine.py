"""What this machine says of itself, and what control groups take away."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from penjing import kernels
from penjing.measure import machine as machine_module
from penjing.measure.machine import (
    Processors,
    Reading,
    probe_machine,
    usable_cores,
    usable_memory_bytes,
)


def test_probe_is_plausible() -> None:
    machine = probe_machine(threads=1)
    assert machine.cpu_model
    assert 1 <= machine.cores <= (os.cpu_count() or 1)
    assert machine.isa in kernels.available_isas()
    assert 1e8 < machine.memory_bytes < 1e15
    assert 1e8 < machine.read_bytes_per_second < 1e13
    assert 1e8 < machine.int8_operations_per_second < 1e15


def limit(root: Path, name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that the control groups lie under `root`."""
    root.mkdir(exist_ok=True)
    (root / name).write_text(text)
    monkeypatch.setattr(machine_module, "_cgroup_directories", lambda: [root])


@pytest.mark.parametrize(
    ("quota", "cores"), [("100000 100000", 1), ("50000 100000", 1), ("max 100000", None)]
)
def test_a_quota_limits_cores(
    quota: str, cores: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(tmp_path / "group", "cpu.max", quota, monkeypatch)
    assert usable_cores() == (cores or len(os.sched_getaffinity(0)))


def test_a_memory_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit(tmp_path / "group", "memory.max", "1048576", monkeypatch)
    assert usable_memory_bytes() == 1048576
    limit(tmp_path / "group", "memory.max", "max", monkeypatch)
    assert usable_memory_bytes() > 1048576


def test_affinity_limits_cores() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize("threads", [1, 2])
def test_what_threads_get_and_read(threads: int) -> None:
    assert 0 < Processors(threads).share(seconds=0.002) <= 1
    assert Reading(threads).bytes_per_second() > 1e6


def test_processors_that_were_faster_before_are_shared() -> None:
    processors = Processors(1)
    processors.share(seconds=0.002)
    processors.best_rate *= 10
    assert processors.share(seconds=0.002) < 0.2
