"""What needs both wings: evaluation of an artifact as served, search for a budget, and certificates."""

from __future__ import annotations

from penjing.optimize.search import optimize
from penjing.verbs import make_callable

__all__ = ["optimize"]

make_callable(__name__, optimize)
