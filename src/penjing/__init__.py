"""Penjing makes large language models small, proves what was lost, and serves them.

>>> import penjing
>>> tray = penjing.quantize("path/to/checkpoint", "tray", penjing.preset("int4"))
>>> engine = penjing.Engine("tray")
>>> engine.generate("Once upon a time").text

Names are loaded on first use, so that what serves never waits for what optimizes.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from penjing.artifact import Artifact, verify_artifact
    from penjing.engine import Completion, Engine, Sampling
    from penjing.errors import PenjingError
    from penjing.export.safetensors import export_safetensors
    from penjing.optimize.evaluate import evaluate
    from penjing.optimize.search import optimize
    from penjing.quantize.walk import quantize_checkpoint as quantize
    from penjing.spec import Budget, Recipe, preset

__version__ = version("penjing")

# name -> (module, attribute in it; none for a package that is itself callable)
_HOMES = {
    "Artifact": ("penjing.artifact", "Artifact"),
    "Budget": ("penjing.spec", "Budget"),
    "Completion": ("penjing.engine", "Completion"),
    "Engine": ("penjing.engine", "Engine"),
    "PenjingError": ("penjing.errors", "PenjingError"),
    "Recipe": ("penjing.spec", "Recipe"),
    "Sampling": ("penjing.engine", "Sampling"),
    "evaluate": ("penjing.optimize.evaluate", "evaluate"),
    "export_safetensors": ("penjing.export.safetensors", "export_safetensors"),
    "optimize": ("penjing.optimize", ""),
    "preset": ("penjing.spec", "preset"),
    "quantize": ("penjing.quantize", ""),
    "verify_artifact": ("penjing.artifact", "verify_artifact"),
}

__all__ = [
    "Artifact",
    "Budget",
    "Completion",
    "Engine",
    "PenjingError",
    "Recipe",
    "Sampling",
    "evaluate",
    "export_safetensors",
    "optimize",
    "preset",
    "quantize",
    "verify_artifact",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    home = import_module(module)
    return getattr(home, attribute) if attribute else home


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
