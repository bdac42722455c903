"""bench/peers.py without any peer: turns, ratios, failures and the page, with stubs for engines."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "bench"))
from peer import contender as contender_module
from peer.contender import Entry
from peer.contest import TASKS, Contest
from peer.report import BEGIN, END, markdown_of, results_of, write

from penjing.measure.machine import Machine

# Says who was asked for what in a file, and answers with the rates of its model, which is a list of numbers.
STUB = """
import json, pathlib, sys
model = pathlib.Path(sys.argv[2])
rates = iter(model.read_text().split())
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    with model.with_name("asked").open("a") as asked:
        print(model.name, json.loads(line)["phase"], file=asked)
    print(json.dumps({"tokens_per_second": float(next(rates))}), flush=True)
"""
MACHINE = Machine(
    cpu_model="abacus",
    cores=1,
    isa="beads",
    memory_bytes=1,
    read_bytes_per_second=1e9,
    int8_operations_per_second=1e9,
)


@pytest.fixture
def contest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Contest]:
    """Three of whom one fails in its second turn, and one who never starts; one round counts."""
    stub = tmp_path / "stub.py"
    stub.write_text(STUB)
    monkeypatch.setattr(contender_module, "WORKER", stub)
    monkeypatch.setattr(contender_module, "SETTLE_SECONDS", 0.0)
    contest = Contest(1, tmp_path)
    for name, rates in (("Penjing int4", "9 6"), ("llama.cpp Q4_0", "9 4"), ("OpenVINO int4", "9")):
        model = tmp_path / name.replace(" ", "")
        model.write_text(rates)
        contest.enter(Entry(name, "stub", 4, model), sys.executable)
    contest.enter(Entry("transformers bf16", "stub", 16, tmp_path / "nothing"), sys.executable)
    contest.run(1, TASKS[:1])
    yield contest
    contest.close()


def test_contenders_take_turns_and_who_fails_is_named(contest: Contest, tmp_path: Path) -> None:
    turn = ["Penjingint4 prefill", "llama.cppQ4_0 prefill", "OpenVINOint4 prefill"]
    assert (tmp_path / "asked").read_text().splitlines() == turn * 2
    assert contest.rates == {
        "Penjing int4": {"prefill, 512 tokens": [6.0]},
        "llama.cpp Q4_0": {"prefill, 512 tokens": [4.0]},
    }
    assert contest.missing["OpenVINO int4"].startswith("StopIteration (exit code 1, log ")
    assert "FileNotFoundError" in contest.missing["transformers bf16"]


def test_the_page_gets_tables_and_keeps_the_rest(contest: Contest, tmp_path: Path) -> None:
    results = results_of(contest, "tiny", 1, MACHINE, {"penjing": "0"})
    (ratio,) = results["ratios"]
    assert (ratio["ours"], ratio["theirs"], ratio["median"]) == ("Penjing int4", "llama.cpp Q4_0", 1.5)
    text = markdown_of(results)
    assert "| Penjing int4 / llama.cpp Q4_0 | 1.50 (1.50-1.50) |" in text
    assert "Not measured: OpenVINO int4 (StopIteration" in text
    page = tmp_path / "performance.md"
    page.write_text(f"# before\n{BEGIN}\nold\n{END}\nafter\n")
    for _ in range(2):
        assert write(results, tmp_path / "performance") == tmp_path / "performance" / "peers.json"
    written = page.read_text()
    assert written.startswith(f"# before\n{BEGIN}\nShape tiny")
    assert written.endswith(f"peers.svg)\n{END}\nafter\n")
    assert "old" not in written
    assert written.count("| Penjing int4 |") == 1


def test_other_work_on_the_machine_is_pointed_out(contest: Contest) -> None:
    results = results_of(contest, "tiny", 1, MACHINE, {})
    results["contenders"]["Penjing int4"]["foreign_share"] = 0.2
    assert "Other work took up to 20% of the machine" in markdown_of(results)
    for found in results["contenders"].values():
        found["foreign_share"] = 0.01
    assert "Other work" not in markdown_of(results)
