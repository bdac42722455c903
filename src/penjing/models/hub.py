"""Fetches a published repository with huggingface_hub, and says at which commit."""

from __future__ import annotations

import re
from pathlib import Path

from penjing.errors import CheckpointNotFoundError, MissingExtraError

WANTED_FILES = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model", "merges.txt"]
UNWANTED_FILES = ["*/*", "consolidated*"]  # other formats, and second copies of the weights
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(@[A-Za-z0-9][\w./-]*)?")


def looks_like_repository(name: str) -> bool:
    """`name` or `owner/name`, maybe with `@revision`: anything else is a path, and is never sent anywhere."""
    return REPOSITORY.fullmatch(name) is not None


def fetch(name: str) -> tuple[Path, str, str]:
    """Download a repository into the hub's cache: its directory, its name, and the commit it was resolved to.

    `name@revision` takes a branch, tag or commit. Raises MissingExtraError without huggingface_hub,
    CheckpointNotFoundError if the name is neither a directory nor a repository that can be reached.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise MissingExtraError(
            "hub", "huggingface_hub", f"{name} is no directory, and fetching it"
        ) from None
    repository, _, revision = name.partition("@")
    try:
        snapshot = snapshot_download(
            repository,
            revision=revision or None,
            allow_patterns=WANTED_FILES,
            ignore_patterns=UNWANTED_FILES,
        )
    except Exception as error:  # the hub's clients raise errors of several libraries, all meaning "not there"
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointNotFoundError(
            f"{name}: no such directory, and it cannot be fetched ({reason[0][:200]}); check the name"
        ) from None
    directory = Path(snapshot)
    return directory, repository, directory.name
