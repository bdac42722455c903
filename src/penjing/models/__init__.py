"""Models as published: a lazy checkpoint reader and the table of families."""

from penjing.models.checkpoint import Checkpoint

__all__ = ["Checkpoint"]
