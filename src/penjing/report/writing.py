"""Puts a report on disk, whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from penjing.artifact.staging import output_errors
from penjing.errors import OutputExistsError


def write_report(path: Path, text: str, *, force: bool = False) -> None:
    """Write a file, replacing one that exists only by `force`.

    Raises OutputExistsError, or OutputNotWritableError.
    """
    if path.exists() and not force:
        raise OutputExistsError(f"{path}: exists; choose another name, or replace it with --force")
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    with output_errors(path):
        try:
            partial.write_text(text, "utf-8")
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
