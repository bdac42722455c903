"""The table of measured costs of this machine: filled as it is asked, kept from one run to the next.

A table belongs to a processor model, an instruction set, a number of threads and a build of the core; another
of any of them is another table. It lies in a directory of the user's as JSON; its hash names its contents.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from penjing.kernels import _core, default_isa
from penjing.measure.attention_times import measure_attentions
from penjing.measure.machine import Processors, cpu_model, usable_cores
from penjing.measure.probe_model import Stored
from penjing.measure.product_times import measure_product
from penjing.measure.row_times import measure_memory, measure_rows
from penjing.measure.times import AttentionPair, Memory, ProductTimes, RowTimes
from penjing.spec import KvFormats, Spec, canonical_json

TABLE_VERSION = 3  # of what is measured, and how
QUIET_SHARE = 0.85  # of its processor that a thread must get for its timings to be kept
S = TypeVar("S", bound=Spec)


class TableKey(Spec):
    """What times depend on. core: of the compiled core, the SHA-256 of its file."""

    table_version: int = TABLE_VERSION
    cpu_model: str
    isa: str
    threads: int
    core: str

    @property
    def digest(self) -> str:
        """SHA-256 (hex)."""
        return hashlib.sha256(canonical_json(self).encode()).hexdigest()


def key_of_this_machine(threads: int | None = None, isa: str | None = None) -> TableKey:
    """threads: those that compute; None for every usable core."""
    core = hashlib.sha256(Path(_core.__file__).read_bytes()).hexdigest()
    return TableKey(
        cpu_model=cpu_model(), isa=isa or default_isa(), threads=threads or usable_cores(), core=core
    )


class CostTable:
    """Seconds of the parts of a step, by what they depend on.

    entries: what is known, by name; plain data, as in the file. path: where it is kept, None for nowhere.
    What is asked for and not known is measured at once, a second or two for a format; a table that is not
    this machine's (`measures` false) raises KeyError instead. busy: names of what was measured while other
    work took the processors: used now, and measured anew next time.
    """

    def __init__(
        self, key: TableKey, entries: dict[str, Any], path: Path | None = None, *, measures: bool = True
    ) -> None:
        self.key = key
        self.entries = entries
        self.path = path
        self.measures = measures
        self.busy: list[str] = []

    @classmethod
    def open(cls, directory: Path, threads: int | None = None, isa: str | None = None) -> CostTable:
        """This machine's table in a directory; empty if there is none, or one that cannot be read."""
        key = key_of_this_machine(threads, isa)
        path = directory / f"{key.digest[:32]}.json"
        return cls(key, read_entries(path, key), path)

    @cached_property
    def processors(self) -> Processors:
        """Of the machine that measures."""
        return Processors(self.key.threads)

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of the key and all that is known; it changes when more is measured."""
        document = {"key": self.key.model_dump(mode="json"), "entries": self.entries}
        return hashlib.sha256(canonical_json(document).encode()).hexdigest()

    @property
    def rows(self) -> RowTimes:
        """Row-wise work, and what a step and a block cost in themselves."""
        return self.entry("rows", RowTimes, lambda: measure_rows(self.key.threads, self.key.isa))

    @property
    def memory(self) -> Memory:
        """How cold weights are, by the bytes that a step reads."""
        threads, isa = self.key.threads, self.key.isa
        return self.entry("memory", Memory, lambda: measure_memory(threads, isa, self.rows))

    def product(self, stored: Stored) -> ProductTimes:
        """Products of a format."""
        threads, isa = self.key.threads, self.key.isa
        return self.entry(
            f"product {stored.label}",
            ProductTimes,
            lambda: measure_product(stored, threads, isa, self.rows, self.memory),
        )

    def attention(self, kv: KvFormats, num_heads: int, num_kv_heads: int, head_dim: int) -> AttentionPair:
        """Attention over one KV head of a block."""
        name = f"attention {kv.key},{kv.value} {num_heads}/{num_kv_heads} x {head_dim}"
        return self.entry(
            name,
            AttentionPair,
            lambda: measure_attentions(kv, num_heads, num_kv_heads, head_dim, self.key.isa),
        )

    def entry(self, name: str, kind: type[S], measure: Callable[[], S]) -> S:
        """What is known by a name, or measured now and known from now on."""
        known = self.entries.get(name)
        if known is not None:
            return kind.model_validate(known)
        if not self.measures:
            raise KeyError(f"the table of costs has no {name}")
        disturbed = self.is_disturbed()
        found = measure()
        self.entries[name] = found.model_dump(mode="json")
        if disturbed or self.is_disturbed():
            self.busy.append(name)
        elif self.path is not None:
            self.save(self.path)
        return found

    def is_disturbed(self) -> bool:
        """Whether other work takes the processors; one thread alone is timed by its own processor time."""
        return self.key.threads > 1 and self.processors.share() < QUIET_SHARE

    def forget_busy(self) -> None:
        """Let what was measured while the machine was busy be measured again, when it is asked for next."""
        for name in self.busy:
            self.entries.pop(name, None)
        self.busy.clear()

    def save(self, path: Path) -> None:
        """Write what is known, beside what another process may have learned meanwhile."""
        kept = {name: value for name, value in self.entries.items() if name not in self.busy}
        entries = read_entries(path, self.key) | kept
        path.parent.mkdir(parents=True, exist_ok=True)
        document = {"key": self.key.model_dump(mode="json"), "entries": entries}
        partial = path.with_name(f"{path.name}.{os.getpid()}")
        partial.write_text(json.dumps(document, indent=1, sort_keys=True), "utf-8")
        partial.replace(path)


def read_entries(path: Path, key: TableKey) -> dict[str, Any]:
    """Entries of a table's file; none if it is absent, damaged, or of another key: they are measured anew."""
    try:
        document = json.loads(path.read_text("utf-8"))
        entries: dict[str, Any] = document["entries"]
        return entries if TableKey.model_validate(document["key"]) == key else {}
    except (OSError, ValueError, KeyError, TypeError, ValidationError):
        return {}
