"""Puts a report on disk, whole or not at all."""

from __future__ import annotations

from pathlib import Path

from penjing.artifact.staging import replace_file
from penjing.errors import OutputExistsError


def write_report(path: Path, text: str, *, force: bool = False) -> None:
    """Write a file, replacing one that exists only by `force`.

    Raises OutputExistsError, or OutputNotWritableError.
    """
    if path.exists() and not force:
        raise OutputExistsError(f"{path}: exists; choose another name, or replace it with --force")
    replace_file(path, text)
