"""Packages that are also their main function: `penjing.quantize(...)`, whichever was imported first."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType


def make_callable(package: str, function: Callable[..., object]) -> None:
    """Let calling the imported package `package` (its `__name__`) call `function`.

    Python looks `__call__` up on a class, so the module gets a class of its own.
    """
    verb = type("Verb", (ModuleType,), {"__call__": staticmethod(function), "__doc__": function.__doc__})
    sys.modules[package].__class__ = verb
