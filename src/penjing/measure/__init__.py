"""Cost, speed, quality and the statistics of claims. Knows arrays, shapes and callables; never an engine."""
