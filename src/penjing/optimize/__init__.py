"""What needs both wings: evaluation of an artifact as served, search for a budget, and certificates."""

from __future__ import annotations

from penjing.verbs import make_callable

make_callable(__name__, "penjing.optimize.search", "optimize")
