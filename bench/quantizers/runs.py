"""Quantizers run once: what they made is kept under a hash of all that it depends on."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penjing.spec import canonical_json
from quantizers.plan import QUANTIZERS

HERE = Path(__file__).parent
KEY_DIGITS = 12


@dataclass(frozen=True)
class Material:
    """What every job is given: a checkpoint and calibration tokens, each with its hash."""

    model: Path
    model_hash: str
    calibration: Path
    calibration_hash: str


@dataclass(frozen=True)
class Run:
    """A quantizer with its settings. directory: where its results are, or will be."""

    name: str
    settings: dict[str, Any]
    directory: Path

    @classmethod
    def of(cls, name: str, settings: dict[str, Any], material: Material, cache: Path) -> Run:
        """The run that these settings make of this material, by the versions that are pinned."""
        packages = QUANTIZERS[settings["quantizer"]]
        facts = [settings, material.model_hash, material.calibration_hash, *packages]
        key = hashlib.sha256(canonical_json({"facts": facts}).encode()).hexdigest()[:KEY_DIGITS]
        return cls(name, settings, cache / "runs" / f"{settings['quantizer']}-{key}")

    @property
    def is_done(self) -> bool:
        """Whether its weights and facts are there."""
        return self.directory.is_dir()

    @property
    def partial(self) -> Path:
        """Where it works until it is done, and what is left of a failure."""
        return self.directory.with_name(f"partial-{self.directory.name}")

    @property
    def failure(self) -> str | None:
        """Why it failed the last time, if it did."""
        path = self.partial / "failure"
        return path.read_text() if path.exists() else None

    @property
    def facts(self) -> dict[str, Any]:
        """What its process reported."""
        found: dict[str, Any] = json.loads((self.directory / "facts.json").read_text())
        return found

    def start(self, python: Path, material: Material, threads: int) -> str | None:
        """Run it to its end, in a process of the peers' environment; why it failed, if it did."""
        partial = self.partial
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        given = {"model": str(material.model), "calibration": str(material.calibration), "threads": threads}
        (partial / "job.json").write_text(json.dumps({"name": self.name, **self.settings, **given}, indent=1))
        script = HERE / f"run_{self.settings['quantizer']}.py"
        print(f"quality: {self.name}", file=sys.stderr, flush=True)
        with (partial / "log").open("w") as log:
            command = [str(python), str(script), str(partial / "job.json"), str(partial)]
            done = subprocess.run(command, stdout=log, stderr=log, cwd=partial, check=False)
        if done.returncode:
            last = (partial / "log").read_text("utf-8", "replace").strip().splitlines()[-1:]
            (partial / "failure").write_text(f"{' '.join(last)[:200]}, exit code {done.returncode}")
            return self.failure
        partial.rename(self.directory)
        return None
