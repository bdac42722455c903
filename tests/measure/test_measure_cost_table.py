"""The table of measured costs: what it keeps, whose it is, and what its hash says."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_up_costs import KEY, product_times

from penjing.measure import cost_table
from penjing.measure.cost_table import CostTable, key_of_this_machine
from penjing.measure.times import Memory, ProductTimes

MEMORY = Memory(nbytes=(1, 2), coldness=(0.0, 1.0))


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CostTable, "is_disturbed", lambda _: False)


def measured(times: list[str], name: str) -> Memory:
    times.append(name)
    return MEMORY


def test_measured_once_and_kept(tmp_path: Path) -> None:
    calls: list[str] = []
    path = tmp_path / "costs" / "table.json"
    table = CostTable(KEY, {}, path)
    for _ in range(2):
        assert table.entry("memory", Memory, lambda: measured(calls, "memory")) == MEMORY
    assert calls == ["memory"]
    again = CostTable(KEY, cost_table.read_entries(path, KEY), measures=False)
    assert again.memory == MEMORY
    assert again.hash == table.hash


def test_only_what_is_asked_for_is_measured() -> None:
    table = CostTable(KEY, {}, measures=False)
    with pytest.raises(KeyError, match="memory"):
        table.entry("memory", Memory, lambda: measured([], "memory"))


def test_the_hash_names_key_and_contents() -> None:
    entries = {"product int4/64": product_times("int4/64").model_dump(mode="json")}
    hashes = {
        CostTable(KEY, {}).hash,
        CostTable(KEY, entries).hash,
        CostTable(KEY.model_copy(update={"threads": 4}), entries).hash,
    }
    assert len(hashes) == 3
    assert CostTable(KEY, dict(entries)).hash in hashes


def test_another_machine_has_another_table(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    table = CostTable(KEY, {"memory": MEMORY.model_dump(mode="json")}, path)
    table.save(path)
    other = KEY.model_copy(update={"cpu_model": "another"})
    assert cost_table.read_entries(path, other) == {}
    assert other.digest != KEY.digest
    assert set(cost_table.read_entries(path, KEY)) == {"memory"}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"key": 3, "entries": {}}', '{"entries": 1}'])
def test_a_damaged_file_is_measured_anew(tmp_path: Path, text: str) -> None:
    path = tmp_path / "table.json"
    path.write_text(text)
    assert cost_table.read_entries(path, KEY) == {}


def test_processes_add_to_each_other(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    one, two = CostTable(KEY, {}, path), CostTable(KEY, {}, path)
    one.entry("a", Memory, lambda: MEMORY)
    two.entry("b", Memory, lambda: MEMORY)
    assert set(cost_table.read_entries(path, KEY)) == {"a", "b"}


def test_what_a_busy_machine_says_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CostTable, "is_disturbed", lambda _: True)
    path = tmp_path / "table.json"
    table = CostTable(KEY, {}, path)
    assert table.entry("memory", Memory, lambda: MEMORY) == MEMORY
    assert table.busy == ["memory"]
    assert not path.exists()
    monkeypatch.setattr(CostTable, "is_disturbed", lambda _: False)
    table.entry("b", Memory, lambda: MEMORY)
    assert set(cost_table.read_entries(path, KEY)) == {"b"}


def test_the_key_of_this_machine(tmp_path: Path) -> None:
    key = key_of_this_machine(threads=3)
    assert key.threads == 3
    assert len(key.core) == 64
    table = CostTable.open(tmp_path, threads=3)
    assert table.key == key
    assert table.path is not None
    assert key.digest[:32] in table.path.name


def test_a_stored_entry_is_validated() -> None:
    table = CostTable(KEY, {"product int4/64": {"rows": [1]}}, measures=False)
    with pytest.raises(ValueError, match="warm"):
        table.entry("product int4/64", ProductTimes, lambda: product_times("int4/64"))
