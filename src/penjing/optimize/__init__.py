"""What needs both wings: evaluation of an artifact as served, search for a budget, and certificates."""

from __future__ import annotations

import sys
from types import ModuleType

from penjing.optimize.search import optimize

__all__ = ["optimize"]


class Verb(ModuleType):
    """The package is also its main function: `penjing.optimize(...)`, whichever was imported first."""

    __call__ = staticmethod(optimize)


sys.modules[__name__].__class__ = Verb
