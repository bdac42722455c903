"""Packages that are also their main function: `penjing.quantize(...)`, whichever was imported first."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


def make_callable(package: str, home: str, function: str) -> None:
    """Let calling the imported package `package` (its `__name__`) call a function of the module `home`.

    The module is imported by the first call, so that its neighbours in the package can be had without it.
    Python looks `__call__` up on a class, so the package gets a class of its own.
    """

    def find(_package: ModuleType) -> Any:
        return getattr(import_module(home), function)

    sys.modules[package].__class__ = type("Verb", (ModuleType,), {"__call__": property(find)})
