"""The peers' own virtual environment: made on first use, every version pinned, nothing of ours in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Collection, Mapping
from pathlib import Path

BASE = ("torch==2.13.0", "transformers==5.5.4", "gguf==0.19.0", "matplotlib==3.11.2")
PEERS = {
    "transformers": (),
    "openvino": ("openvino==2026.4.1", "optimum-intel==2.2.0", "nncf==3.4.0"),
    "llama.cpp": ("llama-cpp-python==0.3.36",),
}
# For this processor, and without the vision part, which takes as long to build as the rest.
BUILD = {"CMAKE_ARGS": "-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF"}
LIST_VERSIONS = (
    "import json, importlib.metadata as m;"
    "print(json.dumps({d.metadata['Name'].lower().replace('_', '-'): d.version for d in m.distributions()}))"
)


class Environment:
    """A virtual environment in `directory`. missing: peer -> why it cannot be had."""

    def __init__(
        self,
        directory: Path,
        base: tuple[str, ...] = BASE,
        peers: Mapping[str, tuple[str, ...]] = PEERS,
    ) -> None:
        self.directory = directory
        self.base = base
        self.peers = peers
        self.python = directory / "bin" / "python"
        self.missing: dict[str, str] = {}

    def install(self, peers: Collection[str]) -> None:
        """Bring these peers to the pinned versions; one that fails does not keep the others out."""
        if not self.python.exists():
            subprocess.run([sys.executable, "-m", "venv", str(self.directory)], check=True)
        failure = self.require(self.base)
        for peer, packages in self.peers.items():
            reason = failure or self.require(packages) if peer in peers else "left out by --peers"
            if reason is not None:
                self.missing[peer] = reason
        if "torchvision" in self.versions():  # comes along, in a build whose import fails beside this torch
            self.pip("uninstall", "-y", "torchvision")

    def require(self, packages: tuple[str, ...]) -> str | None:
        """Install what is not there in that version; the reason if that fails."""
        present = self.versions()
        wanted = [spec for spec in packages if present.get(spec.split("==")[0], "") not in versions_of(spec)]
        return self.pip("install", *wanted) if wanted else None

    def pip(self, *arguments: str) -> str | None:
        """Run pip, its output on stderr; the last line of an error."""
        print(f"peers: pip {' '.join(arguments)}", file=sys.stderr, flush=True)
        command = [str(self.python), "-m", "pip", "--disable-pip-version-check", "-q", *arguments]
        done = subprocess.run(command, env=os.environ | BUILD, stderr=subprocess.PIPE, text=True, check=False)
        sys.stderr.write(done.stderr)
        lines = [line for line in done.stderr.splitlines() if line.lower().startswith("error")]
        return None if done.returncode == 0 else (lines or ["pip failed"])[-1].strip()

    def versions(self) -> dict[str, str]:
        """Every package in it."""
        listed = subprocess.run(
            [str(self.python), "-c", LIST_VERSIONS], capture_output=True, text=True, check=True
        )
        found: dict[str, str] = json.loads(listed.stdout)
        return found


def versions_of(spec: str) -> tuple[str, str]:
    """The spellings of a pinned version: registries may mark the processor-only build of torch."""
    version = spec.split("==")[1]
    return version, f"{version}+cpu"
