"""Activations of all calibration sequences between two blocks, in memory or in a file.

Either way they are float32, so that nothing depends on where they lie: bfloat16 would halve them, but round
what the residual stream adds up over all blocks.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from penjing.artifact.staging import output_errors


class Stream:
    """float32 [sequences, length, width], written and read by ranges of sequences.

    directory: where a file for it is made, which has no name and goes when the process does; None keeps it in
    memory. The file is read and written, not mapped: its pages are never this process's memory.
    """

    def __init__(self, sequences: int, length: int, width: int, directory: Path | None = None) -> None:
        self.shape = (sequences, length, width)
        self.directory = directory
        self.memory: Tensor | None = None
        self.file: int | None = None
        if directory is None:
            self.memory = torch.empty(self.shape)
        else:
            with output_errors(directory):
                descriptor, path = tempfile.mkstemp(dir=directory)
                os.unlink(path)
            self.file = descriptor

    def read(self, first: int, last: int) -> Tensor:
        """A copy of sequences first .. last - 1."""
        if self.memory is not None:
            return self.memory[first:last].clone()
        part = torch.empty((last - first, *self.shape[1:]))
        self.transfer(part, first, write=False)
        return part

    def write(self, first: int, part: Tensor) -> None:
        """Put `part` at sequence `first` and after it."""
        if self.memory is not None:
            self.memory[first : first + len(part)] = part
        else:
            self.transfer(part.contiguous(), first, write=True)

    def transfer(self, part: Tensor, first: int, *, write: bool) -> None:
        """Move all bytes of `part` to or from its place in the file."""
        assert self.file is not None
        assert self.directory is not None
        view = memoryview(part.numpy()).cast("B")
        place, done = first * self.shape[1] * self.shape[2] * 4, 0
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
