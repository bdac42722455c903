"""The command that turns what a search recorded into a page, or into a model card."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from penjing.cli.options import Force


class LanguageName(StrEnum):
    """Languages of a report."""

    en = "en"
    zh = "zh"


class ReportFormat(StrEnum):
    """Forms of a report."""

    html = "html"
    markdown = "markdown"


def report(
    tray: Annotated[
        Path,
        typer.Argument(help="Artifact directory, or the report.json of an infeasible budget."),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="File to write. Default: report.html in TRAY; of a card, stdout."),
    ] = None,
    language: Annotated[LanguageName, typer.Option(help="Language of the report.")] = LanguageName.en,
    format: Annotated[
        ReportFormat, typer.Option(help="A page, or a model card for stdout.")
    ] = ReportFormat.html,
    force: Force = False,
) -> None:
    """Write what was asked, tried, found and lost as one page for a browser or paper, or as a model card."""
    from penjing.artifact.layout import PAGE_FILE
    from penjing.optimize.recording import recorded
    from penjing.report import render_card, render_page
    from penjing.report.writing import write_report

    record = recorded(tray)
    if format is ReportFormat.markdown:
        text = render_card(record, language.value)
    else:
        text = render_page(record, language.value)
        if out is None:
            out, force = tray / PAGE_FILE if tray.is_dir() else tray.with_suffix(".html"), True
    if out is None:
        print(text, end="")
        return
    write_report(out, text, force=force)
    print(f"wrote {out}")
