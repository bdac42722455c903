"""What `penjing generate` has loaded when it writes its first token: imports are most of its start."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from running import Run

PROBE = """
import json, sys
sys.argv = ["penjing", "generate", sys.argv[1], "the cat", "--max-tokens", "1"]
from penjing.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print()
print(json.dumps(sorted(sys.modules)))
"""
THIRD_PARTY = {
    "annotated_doc",  # of typer
    "annotated_types",  # of pydantic
    "numpy",
    "penjing",
    "pydantic",
    "pydantic_core",
    "shellingham",  # of typer
    "tokenizers",
    "typer",
    "typing_extensions",  # of pydantic
    "typing_inspection",
}
ROOMS = {"artifact", "cli", "data", "engine", "errors", "formats", "kernels", "measure", "spec", "text"}
FOR_CHECKPOINTS = {"models", "optimize", "quantize", "verbs"}


def loaded_by_generate(model: Path) -> set[str]:
    """Every module of the process."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, str(model)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def third_party(modules: set[str]) -> set[str]:
    """Packages from elsewhere; what the interpreter itself brings along does not count."""
    bare = subprocess.run(
        [sys.executable, "-c", "import sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    roots = {name.split(".")[0] for name in modules - set(bare.stdout.split())}
    return {root for root in roots - sys.stdlib_module_names if not root.startswith("_")}


def rooms(modules: set[str]) -> set[str]:
    return {name.split(".")[1] for name in modules if name.startswith("penjing.")}


@pytest.fixture
def tray(run: Run, checkpoint: Path, tmp_path: Path) -> Path:
    assert run("quantize", checkpoint, "-o", tmp_path / "tray", "--format", "layered").code == 0
    return tmp_path / "tray"


def test_an_artifact_needs_the_runtime_and_nothing_else(tray: Path) -> None:
    modules = loaded_by_generate(tray)
    assert third_party(modules) <= THIRD_PARTY
    assert rooms(modules) <= ROOMS
    assert not modules & {"penjing.artifact.certificate", "penjing.artifact.writer", "numpy.testing"}


def test_a_checkpoint_needs_what_makes_its_reference_artifact(checkpoint: Path) -> None:
    modules = loaded_by_generate(checkpoint)
    assert third_party(modules) <= THIRD_PARTY | {"ml_dtypes"}
    assert rooms(modules) <= ROOMS | FOR_CHECKPOINTS
    assert not modules & {"penjing.optimize.search", "penjing.optimize.evaluate"}
