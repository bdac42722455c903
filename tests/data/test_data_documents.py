"""Reading documents, and the named error for every kind of unusable input."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from penjing.data.documents import Document, read_documents
from penjing.errors import DataError, EmptyDataError, MissingExtraError, TextEncodingError


def texts(path: Path) -> list[str]:
    return [document.text for document in read_documents(path)]


def test_plain_file_is_one_document(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes("\ufeffein Garten\r\nin der Schale\n".encode())
    (document,) = read_documents(path)
    assert document == Document("ein Garten\r\nin der Schale\n", str(path))


def test_jsonl_names_the_row_and_passes_over_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "one"}\n\n{"text": "  "}\n{"text": "two\\n", "label": 3}')
    assert [(d.text, d.source) for d in read_documents(path)] == [
        ("one", f"{path}:1"),
        ("two\n", f"{path}:4"),
    ]


def test_directory_is_read_in_order_without_hidden_and_foreign_files(tmp_path: Path) -> None:
    for name in ("b.py", "a/z.md", ".git/config.txt", "image.png", "a/.hidden.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert texts(tmp_path) == ["a/z.md", "b.py"]


def test_parquet_round_trip(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet", reason="Parquet needs pyarrow")
    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.table({"id": [1, 2], "text": ["one", "two"]}), path)
    assert texts(path) == ["one", "two"]
    parquet.write_table(pyarrow.table({"body": ["one"]}), path)
    with pytest.raises(DataError, match="no column"):
        texts(path)
    path.write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match="readable Parquet"):
        texts(path)


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "rows.parquet").write_bytes(b"")
    with pytest.raises(MissingExtraError, match=r"penjing\[parquet\]"):
        texts(tmp_path / "rows.parquet")


@pytest.mark.parametrize("content", ["", " \n\t\n"])
def test_no_text_is_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "empty.txt").write_text(content)
    for path in (tmp_path, tmp_path / "empty.txt"):
        with pytest.raises(EmptyDataError, match="no text"):
            texts(path)


def test_invalid_utf8_names_file_and_byte(tmp_path: Path) -> None:
    plain, rows = tmp_path / "latin.txt", tmp_path / "rows.jsonl"
    plain.write_bytes(b"caf\xe9")
    with pytest.raises(TextEncodingError, match=r"latin\.txt is not UTF-8 at byte 3"):
        texts(plain)
    rows.write_bytes(b'{"text": "a"}\n{"text": "\xff"}\n')
    with pytest.raises(TextEncodingError, match=r"rows\.jsonl is not UTF-8 at byte 24"):
        texts(rows)


@pytest.mark.parametrize(
    "line",
    ['{"body": "x"}', '{"text": 3}', '{"text": null}', '["text"]', '"text"', "{", "[" * 100_000, "null"],
)
def test_jsonl_line_without_text_names_the_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "fine"}\n' + line + "\n")
    with pytest.raises(DataError, match="line 2"):
        texts(path)


def test_missing_path_and_unknown_suffix(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no data at"):
        texts(tmp_path / "absent")
    (tmp_path / "sheet.xlsx").write_text("x")
    with pytest.raises(DataError, match="suffix"):
        texts(tmp_path / "sheet.xlsx")


def test_digest_is_of_the_text_alone(tmp_path: Path) -> None:
    lone_surrogate = json.loads('"\\ud800"')
    assert Document("x", "a").digest == Document("x", "b").digest != Document("y", "a").digest
    assert len(Document(lone_surrogate, "a").digest) == 64
