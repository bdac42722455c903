"""Collect the corpus of Seedling: human-written Python under permissive licences.

    python scripts/seedling_corpus.py --environment VENV --standard-library LIB ... --output DIR

Reads the installed distributions of a virtual environment (licence checked in their metadata) and the
standard libraries of several Python versions, and writes to DIR

    train.jsonl      one file a line: {"text", "source"}
    heldout.jsonl    standard-library files that training never sees, unchanged, same fields
    heldout.LICENSE  the licence of these files
    sources.json     every source with version, licence, files and bytes kept

The held-out files are chosen by a hash of the module's path inside the standard library, so the same module
of another Python version is held out with it; vendored and edited copies are found by shared runs of lines.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib.metadata
import json
import re
import shutil
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

PERMISSIVE = re.compile(r"\bMIT\b|BSD|Apache|PSF|Python Software Foundation|Expat", re.IGNORECASE)
RESTRICTIVE = re.compile(r"GPL|MPL|Mozilla|EPL|CDDL|Proprietary|NonCommercial", re.IGNORECASE)
GENERATED = re.compile(
    r"auto[- ]?generated|generated (?:by|from|automatically|file|code)|do not (?:edit|modify)"
    r"|machine generated",
    re.IGNORECASE,
)
LICENCE_HEADER = re.compile(r"copyright|licen[sc]e|all rights reserved", re.IGNORECASE)
# Package trees that are written by code generators or are copies of other packages.
SKIPPED_PACKAGES = frozenset({"plotly", "debugpy", "pip", "nvidia"})
SKIPPED_DIRECTORIES = frozenset(
    {"_vendor", "vendor", "vendored", "_vendored", "extern", "site-packages", "lib2to3"}
)

MIN_BYTES, MAX_BYTES = 256, 250_000
SHINGLE_LINES = 3
HELDOUT_PER_MILLE = 20
MAX_HELDOUT_BYTES = (
    45_000  # a longer file would be half of the held-out text; it stays out of training all the same
)
MAX_PACKAGE_BYTES = 10_000_000  # no package speaks louder than the standard library


@dataclass(frozen=True)
class SourceFile:
    """A candidate: `source` names package, version and path; `key` is the path inside its library."""

    path: Path
    source: str
    key: str
    origin: str


@dataclass(frozen=True)
class CleanText:
    """Text that passed the filters, with hashes of every run of three substantive lines."""

    file: SourceFile
    text: str
    shingles: frozenset[int]


def licence_of(metadata: importlib.metadata.PackageMetadata) -> str:
    """The licence a distribution declares: the SPDX expression, else classifiers, else the first line of
    the text.
    """
    if expression := metadata.get("License-Expression"):
        return str(expression)
    classifiers = [
        c.split("::")[-1].strip() for c in metadata.get_all("Classifier") or [] if c.startswith("License")
    ]
    return "; ".join(classifiers) or str(metadata.get("License") or "").strip().split("\n")[0]


def package_files(environment: Path) -> tuple[list[SourceFile], dict[str, dict[str, str]]]:
    """Python files of every permissively licensed distribution in a virtual environment, with its licence
    table.
    """
    files: list[SourceFile] = []
    table: dict[str, dict[str, str]] = {}
    directories = [str(p) for p in environment.glob("lib/python*/site-packages")]
    for distribution in sorted(
        importlib.metadata.distributions(path=directories), key=lambda d: d.name.lower()
    ):
        licence = licence_of(distribution.metadata)
        if not PERMISSIVE.search(licence) or RESTRICTIVE.search(licence):
            continue
        origin = f"{distribution.name} {distribution.version}"
        kept = [p for p in distribution.files or [] if p.suffix == ".py" and wanted(p.parts)]
        if kept:
            table[origin] = {"name": distribution.name, "version": distribution.version, "licence": licence}
        for part in sorted(kept, key=str):
            files.append(SourceFile(Path(str(part.locate())), f"{origin}: {part}", str(part), origin))
    return files, table


def wanted(parts: tuple[str, ...]) -> bool:
    return (
        ".." not in parts and parts[0] not in SKIPPED_PACKAGES and not SKIPPED_DIRECTORIES.intersection(parts)
    )


def standard_library_files(library: Path) -> list[SourceFile]:
    """Python files of one standard library directory (`.../lib/python3.11`)."""
    origin = f"{library.name} standard library"
    relative = sorted(p.relative_to(library) for p in library.rglob("*.py"))
    return [
        SourceFile(library / p, f"{library.name}: {p.as_posix()}", p.as_posix(), origin)
        for p in relative
        if wanted(p.parts)
    ]


def clean(file: SourceFile) -> CleanText | None:
    """Read one file and return its text, or None when it is not human-written Python source in UTF-8."""
    try:
        raw = file.path.read_bytes()
        text = raw.decode("utf-8").replace("\r\n", "\n")
    except (OSError, UnicodeDecodeError):
        return None
    if not MIN_BYTES <= len(raw) <= MAX_BYTES or GENERATED.search(text[:1500]) or looks_like_data(text):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    text = without_licence_header(text).strip("\n") + "\n"
    shingles = frozenset(line_shingles(text))
    return CleanText(file, text, shingles) if len(shingles) >= 4 else None


def looks_like_data(text: str) -> bool:
    """Tables, minified code, test vectors: long lines, too many digits, escapes or non-ASCII characters."""
    lines = text.split("\n")
    digits = sum(map(text.count, "0123456789"))
    return (
        max(map(len, lines)) > 500
        or len(text) / len(lines) > 80
        or digits > 0.12 * len(text)
        or text.count("\\x") + text.count("\\u") > 0.01 * len(text)
        or len(text.encode()) - len(text) > 0.03 * len(text)
    )


def without_licence_header(text: str) -> str:
    """Drop the leading comment block when it is a licence notice: thousands of copies teach nothing."""
    lines = text.split("\n")
    end = next((i for i, line in enumerate(lines) if line.strip() and not line.startswith("#")), len(lines))
    return "\n".join(lines[end:]) if LICENCE_HEADER.search("\n".join(lines[:end])) else text


def line_shingles(text: str) -> Iterator[int]:
    """Hashes of each run of three consecutive substantive lines, white space removed."""
    lines = [line for raw in text.split("\n") if len(line := re.sub(r"\s+", "", raw)) >= 8]
    for i in range(len(lines) - SHINGLE_LINES + 1):
        digest = hashlib.blake2b("\n".join(lines[i : i + SHINGLE_LINES]).encode(), digest_size=8)
        yield int.from_bytes(digest.digest(), "big")


def is_held_out(key: str) -> bool:
    """Whether a standard-library module path belongs to the held-out set; stable across versions and runs."""
    digest = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
    is_test = any(part in {"test", "tests", "idle_test"} for part in key.split("/")[:-1])
    return digest % 1000 < HELDOUT_PER_MILLE and not is_test


def select(texts: Iterable[CleanText], held_keys: set[str], held_shingles: set[int]) -> Iterator[CleanText]:
    """Yield training texts: not held out, not close to a held-out file, not close to what was yielded
    before.
    """
    seen: set[int] = set()
    for text in texts:
        tail = {"/".join(text.file.key.split("/")[i:]) for i in range(text.file.key.count("/"))}
        if text.file.key in held_keys or tail & held_keys:
            continue
        size = len(text.shingles)
        if len(text.shingles & held_shingles) > 0.1 * size or len(text.shingles & seen) > 0.5 * size:
            continue
        seen |= text.shingles
        yield text


def capped(texts: Iterable[CleanText], uncapped: str) -> list[CleanText]:
    """Texts in the order of a hash of their source, at most MAX_PACKAGE_BYTES for each origin but
    `uncapped`.
    """
    num_bytes: dict[str, int] = {}
    kept = []
    for text in sorted(texts, key=lambda t: hashlib.sha256(t.file.source.encode()).digest()):
        num_bytes[text.file.origin] = num_bytes.get(text.file.origin, 0) + len(text.text.encode())
        if text.file.origin == uncapped or num_bytes[text.file.origin] <= MAX_PACKAGE_BYTES:
            kept.append(text)
    return kept


def write_jsonl(path: Path, texts: Iterable[CleanText]) -> dict[str, list[int]]:
    """Write texts one a line; return files and bytes kept per origin."""
    kept: dict[str, list[int]] = {}
    with path.open("w", encoding="utf-8") as out:
        for text in texts:
            out.write(json.dumps({"text": text.text, "source": text.file.source}) + "\n")
            count = kept.setdefault(text.file.origin, [0, 0])
            count[0] += 1
            count[1] += len(text.text.encode())
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--environment", type=Path, required=True, help="virtual environment with the packages"
    )
    parser.add_argument(
        "--standard-library", type=Path, required=True, nargs="+", help="lib/python3.X directories"
    )
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)

    packages, table = package_files(options.environment)
    first, *others = [standard_library_files(library) for library in options.standard_library]
    # The first library and the packages come before other versions, which then only add what differs.
    candidates = first + packages + [file for files in others for file in files]
    with ProcessPoolExecutor() as pool:
        texts = [text for text in pool.map(clean, candidates, chunksize=64) if text is not None]

    libraries = {files[0].origin for files in (first, *others) if files}
    held_keys = {f.key for files in (first, *others) for f in files if is_held_out(f.key)}
    held = [text for text in texts if text.file.key in held_keys and text.file.origin in libraries]
    held_shingles = {shingle for text in held for shingle in text.shingles}
    published = [
        replace(text, text=text.file.path.read_text(encoding="utf-8"))  # licence comments included
        for text in held
        if text.file.origin == first[0].origin and len(text.text.encode()) <= MAX_HELDOUT_BYTES
    ]
    shutil.copyfile(options.standard_library[0] / "LICENSE.txt", options.output / "heldout.LICENSE")
    heldout = write_jsonl(options.output / "heldout.jsonl", published)
    selected = capped(select(texts, held_keys, held_shingles), uncapped=first[0].origin)
    kept = write_jsonl(options.output / "train.jsonl", selected)

    sources = []
    for origin, (num_files, num_bytes) in kept.items():
        entry = table.get(
            origin, {"name": "Python standard library", "version": origin.split()[0], "licence": "PSF-2.0"}
        )
        sources.append({**entry, "num_files": num_files, "num_bytes": num_bytes})
    report = {"sources": sources, "heldout": heldout, "num_bytes": sum(n for _, n in kept.values())}
    (options.output / "sources.json").write_text(json.dumps(report, indent=1) + "\n")
    num_files = sum(n for n, _ in kept.values())
    print(f"train {report['num_bytes'] / 1e6:.1f} MB in {num_files} files; held out {heldout}")


if __name__ == "__main__":
    main()
