"""Times artifacts and servers under one kind of load: waits, rates, and what the machine would allow."""

from penjing.optimize.bench.endpoint import measure_endpoint
from penjing.optimize.bench.local import measure_bench
from penjing.optimize.bench.random_artifact import BENCH_FORMATS, random_artifact
from penjing.optimize.bench.results import Bench, Quantiles, Row
from penjing.optimize.bench.rounds import Rounds
from penjing.optimize.bench.workload import Workload, grid

__all__ = [
    "BENCH_FORMATS",
    "Bench",
    "Quantiles",
    "Rounds",
    "Row",
    "Workload",
    "grid",
    "measure_bench",
    "measure_endpoint",
    "random_artifact",
]
