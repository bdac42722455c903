"""Cost, memory, quality and the statistics of claims. Knows arrays, shapes and callables; never an engine."""
