"""A record of the embedded model, measured here, its page and card, and the command that writes them."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import penjing
from penjing.artifact import Artifact, write_certificate
from penjing.cli import main
from penjing.measure.quality import concatenate
from penjing.models.embedded import SEEDLING
from penjing.optimize.certificate import issue_certificate
from penjing.optimize.compare import compare_engines
from penjing.optimize.documents import read_tokens
from penjing.optimize.evaluate import Settings, evaluate, open_engine, windows_of
from penjing.optimize.evaluation import Evaluation
from penjing.optimize.profile import measure_profile
from penjing.optimize.record import SearchRecord, write_record
from penjing.optimize.record_parts import Point
from penjing.optimize.recording import (
    certified_record,
    errors_of,
    figures_of,
    roofline_of,
    samples_of,
    time_of,
)
from penjing.optimize.reference import runnable
from penjing.report import render_card, render_page
from penjing.spec import Budget, preset

TOKENS = 4200
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("real")


@pytest.fixture(scope="module", autouse=True)
def cache(directory: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PENJING_CACHE", str(directory / "cache"))
        yield


def measured(path: Path) -> Evaluation:
    return evaluate(path, SEEDLING, penjing.SEEDLING_TEXT, tokens=TOKENS, threads=1, speed=False)


def point(name: str, evaluation: Evaluation, status: str) -> Point:
    compared = evaluation.compared
    return Point.model_validate(
        {
            "name": name,
            "tensor_bytes": compared.artifact_bytes,
            "size_ratio": compared.size_ratio,
            "mean_loss": compared.bound.mean,
            "upper_loss": compared.bound.upper,
            "mean_kl": compared.quality.mean_kl,
            "status": status,
        }
    )


@pytest.fixture(scope="module")
def chosen(directory: Path) -> Evaluation:
    """int8 as measured."""
    return measured(penjing.quantize(SEEDLING, directory / "tray", preset("int8")).path)


@pytest.fixture(scope="module")
def tray(chosen: Evaluation, directory: Path) -> Path:
    """int8, with its certificate."""
    artifact, budget = Artifact.open(directory / "tray"), Budget(max_size=0.6, max_loss=0.05)
    certificate = issue_certificate(chosen, artifact, budget, text_part="all", token_limit=TOKENS)
    write_certificate(artifact.path, certificate)
    return artifact.path


@pytest.fixture(scope="module")
def record(tray: Path, chosen: Evaluation, directory: Path) -> SearchRecord:
    small = penjing.quantize(SEEDLING, directory / "small", preset("int4"))
    artifact, smaller = Artifact.open(tray), measured(small.path)
    settings = Settings(threads=1)
    engines = [open_engine(path, settings, None) for path in (runnable(str(SEEDLING)), tray)]
    documents = read_tokens(penjing.SEEDLING_TEXT, engines[1].tokenizer, 700)
    windows = windows_of(documents, engines[1], settings)
    quality = concatenate(compare_engines(*engines, windows, "best", lambda *_: None))
    profile = measure_profile(tray, 128)
    roofline = roofline_of(profile, decode_tokens_per_second=500.0)
    before, after = figures_of(chosen)
    return certified_record(tray).model_copy(
        update={
            "before": before,
            "after": after,
            "frontier": (point("int4/64", smaller, "measured"), point("int8/64", chosen, "chosen")),
            "roofline": roofline,
            "time": time_of(artifact, profile, roofline),
            "errors": errors_of(quality),
            "samples": samples_of(*engines, ["def read(path):\n"], max_tokens=8),
            "text": chosen.text,
        }
    )


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["penjing", "report", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def test_the_page_of_a_real_record(record: SearchRecord) -> None:
    page = render_page(record)
    assert re.findall(r'<section id="(\w+)"', page) == [
        *("compared", "frontier", "layers", "roofline", "time", "errors", "samples", "use", "measured")
    ]
    assert record.artifact_hash is not None
    assert record.artifact_hash in page
    assert "def read(path):" in page
    assert page.count("8.25") > 25
    sizes = [point.size_ratio for point in record.frontier]
    assert f"{100 * sizes[0]:.2f}%" in page
    assert f"| int8/64 | {100 * sizes[1]:.2f}%" in render_card(record)


def test_the_command_writes_a_page(
    tray: Path, record: SearchRecord, command: Command, tmp_path: Path
) -> None:
    """With a record and without one; over its own page, but over nothing else unless told to."""
    (tray / "report.json").unlink(missing_ok=True)
    assert command(tray)[0] == 0
    assert '<section id="frontier"' not in (tray / "report.html").read_text()
    write_record(tray, record)
    code, out, _ = command(tray)
    assert (code, out) == (0, f"wrote {tray / 'report.html'}\n")
    assert '<section id="frontier"' in (tray / "report.html").read_text()
    assert penjing.verify(tray).certificate is not None
    mine = tmp_path / "mine.html"
    mine.write_text("mine")
    code, _, err = command(tray, "-o", mine)
    assert code == 2
    assert "OutputExistsError" in err
    assert mine.read_text() == "mine"
    assert command(tray, "-o", mine, "--force", "--language", "zh")[0] == 0
    assert '<html lang="zh">' in mine.read_text()


def test_the_command_prints_a_card(
    tray: Path, record: SearchRecord, command: Command, tmp_path: Path
) -> None:
    write_record(tray, record)
    code, out, _ = command(tray, "--format", "markdown")
    assert (code, out) == (0, render_card(record))
    assert command(tray, "--format", "markdown", "--language", "zh", "-o", tmp_path / "card.md")[0] == 0
    assert (tmp_path / "card.md").read_text() == render_card(record, "zh")


def test_the_command_refuses_what_has_no_record(command: Command, tmp_path: Path) -> None:
    code, _, err = command(tmp_path)
    assert code == 2
    assert err.count("\n") == 1
    assert "penjing optimize" in err
    assert command(tmp_path / "nowhere")[0] == 2
    assert command(tmp_path, "-o", tmp_path / "no" / "such" / "file.html")[0] == 2
