"""One training loop and its parts: optimizers, schedules, ranks, the state on disk."""
