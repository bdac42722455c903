"""The floors of the house: a package imports only from lower floors, and the two wings never meet."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import penjing

SOURCE = Path(penjing.__file__).parent
FLOORS = (
    {"errors", "verbs"},
    {"spec"},
    {"kernels"},
    {"formats"},
    {"artifact", "text"},
    {"data", "measure"},
    {"models", "training", "engine"},
    {"quantize", "prune", "distill", "transfer", "serve"},
    {"optimize"},
    {"report", "export", "cluster"},
    {"cli", "__init__"},
    {"__main__"},
)
WORKSHOP = {"models", "training", "quantize", "prune", "distill", "transfer"}
RUNTIME = {"engine", "serve"}
HEAVY = {"torch", "transformers", "sklearn", "pandas", "matplotlib"}
TRAINING_IN_OPTIMIZE = {"gate", "shaping", "learning", "pruning", "transferring", "distilling", "training"}
NEEDS_TASKS = {"harness", "tasks"}  # in optimize, loaded by `evaluate --tasks` alone
NEVER_AT_IMPORT = HEAVY | {"openai", "huggingface_hub", "pyarrow", "lm_eval"}
FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS) for name in names}


def rooms() -> Iterator[tuple[str, Path]]:
    """(room, file) for every Python file; a room is a package or a module directly under penjing."""
    for path in sorted(SOURCE.rglob("*.py")):
        yield path.relative_to(SOURCE).parts[0].removesuffix(".py"), path


def imported_rooms(tree: ast.AST) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                parts = alias.name.split(".")
                if parts[0] == "penjing":
                    yield (parts[1] if len(parts) > 1 else "__init__"), node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            parts = (node.module or "").split(".")
            if parts == ["penjing"]:
                yield from (
                    (alias.name if alias.name in FLOOR_OF else "__init__", node.lineno)
                    for alias in node.names
                )
            elif parts[0] == "penjing":
                yield parts[1], node.lineno


def test_every_room_has_a_floor() -> None:
    assert {room for room, _ in rooms()} <= set(FLOOR_OF)


def test_imports_go_down() -> None:
    wrong = []
    for room, path in rooms():
        for target, line in imported_rooms(ast.parse(path.read_text())):
            if target != room and FLOOR_OF[target] >= FLOOR_OF[room]:
                wrong.append(f"{path.relative_to(SOURCE)}:{line} {room} imports {target}")
    assert not wrong, "\n".join(wrong)


def test_the_wings_never_meet() -> None:
    wrong = []
    for room, path in rooms():
        other = RUNTIME if room in WORKSHOP else WORKSHOP if room in RUNTIME else set()
        for target, line in imported_rooms(ast.parse(path.read_text())):
            if target in other:
                wrong.append(f"{path.relative_to(SOURCE)}:{line} {room} imports {target}")
    assert not wrong, "\n".join(wrong)


def test_own_imports_stand_at_the_top() -> None:
    """An import hidden in a function dodges the rule above; only the command line may, for its speed."""
    wrong = []
    for room, path in rooms():
        if room == "cli":
            continue
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                wrong += [f"{path.relative_to(SOURCE)}:{line}" for _, line in imported_rooms(function)]
    assert not wrong, "\n".join(wrong)


def test_heavy_packages_are_imported_lazily() -> None:
    """Importing any room of the runtime, or the path of data-free quantization, must not need an extra."""
    path_of_data_free = "import sys, penjing.models, penjing.quantize.walk, penjing.optimize.quantizing\n"
    path_of_data_free += (
        "import penjing.optimize.search, penjing.cli; assert not {'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", path_of_data_free], check=True)
    wrong = []
    for room, path in rooms():
        in_torch = room in WORKSHOP or (room == "optimize" and path.stem in TRAINING_IN_OPTIMIZE)
        in_tasks = room == "optimize" and path.stem in NEEDS_TASKS
        allowed = {"torch"} if in_torch else {"lm_eval"} if in_tasks else set()
        tree = ast.parse(path.read_text())
        for node in tree.body:
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            roots = {name.split(".")[0] for name in names}
            wrong += [f"{path.relative_to(SOURCE)}: {name}" for name in roots & (NEVER_AT_IMPORT - allowed)]
    assert not wrong, "\n".join(wrong)


def test_public_names() -> None:
    assert penjing.__all__ == [
        "SEEDLING_TEXT",
        "Artifact",
        "Budget",
        "Completion",
        "DistillStep",
        "Engine",
        "PenjingError",
        "PruneStep",
        "Recipe",
        "Sampling",
        "TrainStep",
        "TransferStep",
        "Workload",
        "bench",
        "compress",
        "distill",
        "evaluate",
        "export",
        "optimize",
        "preset",
        "profile",
        "prune",
        "quantize",
        "serve",
        "train",
        "transfer",
        "verify",
    ]
    assert set(penjing._HOMES) == set(penjing.__all__) <= set(dir(penjing))
    for name in penjing.__all__:
        assert getattr(penjing, name) is not None


@pytest.mark.parametrize("verb", ["distill", "export", "optimize", "prune", "quantize", "serve", "transfer"])
def test_a_package_is_its_verb_whichever_was_imported_first(verb: str) -> None:
    for imports in (f"import penjing.{verb}", f"import penjing; penjing.{verb}; import penjing.{verb}"):
        code = f"{imports}\nassert callable(penjing.{verb}) and penjing.{verb}.__doc__\npenjing.{verb}()"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert "TypeError" in done.stderr.splitlines()[-1], "called, it wants its arguments"
        assert "required positional argument" in done.stderr
