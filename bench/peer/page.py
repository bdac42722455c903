"""Results as JSON, and their tables in a page of docs/."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def write_page(
    results: dict[str, Any], path: Path, markdown: str, *, plot_title: str, marks: tuple[str, str]
) -> None:
    """Write `path`, a JSON file, and the tables into the page DIRECTORY.md beside its directory.

    The tables, and the plot that belongs to the JSON file, go between the page's two marks, if it has them.
    """
    begin, end = marks
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    page = path.parent.with_suffix(".md")
    text = page.read_text("utf-8") if page.exists() else ""
    if begin in text and end in text:
        before, _, rest = text.partition(begin)
        after = rest.partition(end)[2]
        plot = f"![{plot_title}]({path.parent.name}/{path.stem}.svg)"
        page.write_text(f"{before}{begin}\n{markdown}\n\n{plot}\n{end}{after}", "utf-8")
