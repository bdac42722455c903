"""A directory that appears whole or not at all: written beside its target, renamed at the end.

The staging directory `.NAME.partial-PID` is locked while its writer lives, so that what a killed writer left
behind can be told from the work of a running one, in whatever container or host it runs.
"""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from penjing.errors import OutputExistsError, OutputNotWritableError


@contextmanager
def output_errors(target: Path) -> Iterator[None]:
    """Turn the system's refusals (permissions, a full disk) into OutputNotWritableError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputNotWritableError(
            f"{target}: cannot be written ({reason}); choose another place"
        ) from error


def replace_file(path: Path, text: str) -> None:
    """Write a file, whole or not at all, over an older one. Raises OutputNotWritableError."""
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    with output_errors(path):
        try:
            partial.write_text(text, "utf-8")
            sync(partial)
            partial.replace(path)
            sync(path.parent)
        finally:
            partial.unlink(missing_ok=True)


class StagingDirectory:
    """A locked temporary sibling of `target`.

    objection: what speaks against replacing an existing target although `force` is given, None for nothing.
    """

    def __init__(self, target: Path, *, force: bool, objection: Callable[[Path], str | None]) -> None:
        self.target = Path(os.path.realpath(target))
        self.force = force
        self.objection = objection
        self.path = self.sibling("partial")
        self.lock: int | None = None

    def sibling(self, role: str) -> Path:
        """A hidden name next to the target, this process's own."""
        return self.target.parent / f".{self.target.name}.{role}-{os.getpid()}"

    def create(self) -> None:
        """Make and lock the directory. Raises OutputExistsError or OutputNotWritableError."""
        with output_errors(self.target):
            recover_replaced(self.target)
        self.check_target()
        with output_errors(self.target):
            remove_stale(self.target)
            with suppress(FileExistsError):
                self.path.mkdir()
                self.lock = lock_directory(self.path)
        if self.lock is None:
            raise OutputNotWritableError(f"{self.target}: is being written already; wait for that to end")

    def check_target(self) -> None:
        """Refuse to write over what exists, unless forced; and never over what Penjing did not write."""
        if not os.path.lexists(self.target):
            return
        if not self.force:
            raise OutputExistsError(f"{self.target}: exists already; choose another name or use --force")
        with output_errors(self.target):
            objection = self.objection(self.target)
        if objection is not None:
            raise OutputExistsError(
                f"{self.target}: {objection}, so --force does not replace it; choose another name"
            )

    def publish(self) -> None:
        """Flush to disk and rename to the target; what stood there is removed only afterwards."""
        self.check_target()
        with output_errors(self.target):
            sync(self.path)
            replaced = self.swap() if os.path.lexists(self.target) else None
            if replaced is None:
                self.path.rename(self.target)
            sync(self.target.parent)
            self.unlock()
            if replaced is not None:
                shutil.rmtree(replaced)

    def swap(self) -> Path:
        """Move the old directory aside and the new one in; undone if the second move fails."""
        replaced = self.sibling("replaced")
        self.target.rename(replaced)
        try:
            self.path.rename(self.target)
        except BaseException:
            replaced.rename(self.target)
            raise
        return replaced

    def discard(self) -> None:
        """Remove the directory, if it is still under its temporary name."""
        if self.lock is not None:
            shutil.rmtree(self.path, ignore_errors=True)
        self.unlock()

    def unlock(self) -> None:
        """Let go of the lock; the kernel does it for a process that dies."""
        if self.lock is not None:
            os.close(self.lock)
            self.lock = None


def lock_directory(path: Path) -> int | None:
    """A descriptor holding an exclusive lock on a directory, or None if somebody else holds it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def siblings(target: Path, role: str) -> list[Path]:
    """Hidden names next to the target, of any process."""
    return sorted(target.parent.glob(f".{glob.escape(target.name)}.{role}-*"))


def remove_stale(target: Path) -> None:
    """Remove what killed writers of this target left behind: partial directories that nobody locks."""
    for path in siblings(target, "partial"):
        with suppress(OSError):  # somebody else's, or gone already
            lock = lock_directory(path)
            if lock is not None:
                try:
                    shutil.rmtree(path)
                finally:
                    os.close(lock)


def recover_replaced(target: Path) -> None:
    """Finish a replacement that was killed half-way: the old artifact goes back, or goes."""
    for path in siblings(target, "replaced"):
        if target.exists():
            shutil.rmtree(path)
        else:
            path.rename(target)


def sync(path: Path) -> None:
    """Flush a file or a directory's entries to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
