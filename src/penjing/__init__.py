"""Penjing makes large language models small, proves what was lost, and serves them.

>>> import penjing
>>> tray = penjing.quantize("path/to/checkpoint", "tray", penjing.preset("int4"))
>>> engine = penjing.Engine("tray")
>>> engine.generate("Once upon a time").text

Names are loaded on first use, so that what serves never waits for what optimizes.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from penjing.artifact import Artifact
    from penjing.engine import Completion, Engine, Sampling
    from penjing.errors import PenjingError
    from penjing.export.choose import export as export
    from penjing.models.embedded import SEEDLING_TEXT
    from penjing.optimize.bench import Workload
    from penjing.optimize.bench import measure_bench as bench
    from penjing.optimize.distilling import distill as distill
    from penjing.optimize.evaluate import evaluate
    from penjing.optimize.profile import measure_profile as profile
    from penjing.optimize.pruning import prune as prune
    from penjing.optimize.recipes import apply_recipe as compress
    from penjing.optimize.search import optimize
    from penjing.optimize.training import train
    from penjing.optimize.transferring import transfer as transfer
    from penjing.optimize.verify import verify
    from penjing.quantize.walk import quantize_checkpoint as quantize
    from penjing.serve.artifacts import serve_models as serve
    from penjing.spec import Budget, DistillStep, PruneStep, Recipe, TrainStep, TransferStep, preset

    __version__: str

# name -> (module, attribute in it; none for a package that is itself callable)
_HOMES = {
    "SEEDLING_TEXT": ("penjing.models.embedded", "SEEDLING_TEXT"),
    "Artifact": ("penjing.artifact", "Artifact"),
    "Budget": ("penjing.spec", "Budget"),
    "Completion": ("penjing.engine", "Completion"),
    "DistillStep": ("penjing.spec", "DistillStep"),
    "Engine": ("penjing.engine", "Engine"),
    "PenjingError": ("penjing.errors", "PenjingError"),
    "PruneStep": ("penjing.spec", "PruneStep"),
    "Recipe": ("penjing.spec", "Recipe"),
    "Sampling": ("penjing.engine", "Sampling"),
    "TrainStep": ("penjing.spec", "TrainStep"),
    "TransferStep": ("penjing.spec", "TransferStep"),
    "Workload": ("penjing.optimize.bench", "Workload"),
    "bench": ("penjing.optimize.bench", "measure_bench"),
    "compress": ("penjing.optimize.recipes", "apply_recipe"),
    "distill": ("penjing.distill", ""),
    "evaluate": ("penjing.optimize.evaluate", "evaluate"),
    "export": ("penjing.export", ""),
    "optimize": ("penjing.optimize", ""),
    "preset": ("penjing.spec", "preset"),
    "profile": ("penjing.optimize.profile", "measure_profile"),
    "prune": ("penjing.prune", ""),
    "quantize": ("penjing.quantize", ""),
    "serve": ("penjing.serve", ""),
    "train": ("penjing.optimize.training", "train"),
    "transfer": ("penjing.transfer", ""),
    "verify": ("penjing.optimize.verify", "verify"),
}

__all__ = [
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


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("penjing")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    home = import_module(module)
    return getattr(home, attribute) if attribute else home


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
