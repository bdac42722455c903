"""Activations of all calibration sequences between two blocks, in memory or in a file.

Either way they have the same dtype, so that nothing depends on where they lie: float32 for the residual
stream, which bfloat16 would round again in every block, and for what a matrix reads the matrix's own dtype.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from penjing.artifact.staging import output_errors


class Stream:
    """[sequences, length, width] of a dtype, written and read by ranges of sequences.

    directory: where a file for it is made, which has no name and goes when the process does; None keeps it in
    memory. The file is read and written, not mapped: its pages are never this process's memory.
    """

    def __init__(
        self, sequences: int, length: int, width: int, dtype: torch.dtype, directory: Path | None = None
    ) -> None:
        self.shape = (sequences, length, width)
        self.dtype = dtype
        self.directory = directory
        self.memory: Tensor | None = None
        self.file: int | None = None
        if directory is None:
            self.memory = torch.empty(self.shape, dtype=dtype)
        else:
            with output_errors(directory):
                descriptor, path = tempfile.mkstemp(dir=directory)
                os.unlink(path)
            self.file = descriptor

    def read(self, first: int, last: int) -> Tensor:
        """A copy of sequences first .. last - 1."""
        if self.memory is not None:
            return self.memory[first:last].clone()
        part = torch.empty((last - first, *self.shape[1:]), dtype=self.dtype)
        self.transfer(part, first, write=False)
        return part

    def write(self, first: int, part: Tensor) -> None:
        """Put `part`, of any dtype, at sequence `first` and after it."""
        if self.memory is not None:
            self.memory[first : first + len(part)] = part
        else:
            self.transfer(part.to(self.dtype).contiguous(), first, write=True)

    def transfer(self, part: Tensor, first: int, *, write: bool) -> None:
        """Move all bytes of `part` to or from its place in the file."""
        assert self.file is not None
        assert self.directory is not None
        view = part.view(torch.uint8).numpy().data.cast("B")
        place, done = first * self.shape[1] * self.shape[2] * self.dtype.itemsize, 0
        with output_errors(self.directory):
            while done < len(view):
                move = os.pwritev if write else os.preadv
                count = move(self.file, [view[done:]], place + done)
                assert count > 0, "the spill file ended early"
                done += count

    def close(self) -> None:
        """Give memory or file back."""
        self.memory = None
        if self.file is not None:
            os.close(self.file)
            self.file = None
