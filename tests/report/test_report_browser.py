"""The page in a real browser, where there is one: drawn, within its width, and without a complaint."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from records import infeasible, kept

from penjing.report import render_page
from penjing.report.words import Language

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SHOWN: tuple[tuple[str, Language, int], ...] = (  # record, language, width in CSS pixels
    ("kept", "en", 360),
    ("kept", "en", 1440),
    ("kept", "zh", 390),
    ("kept", "zh", 768),
    ("infeasible", "en", 390),
    ("infeasible", "zh", 1440),
)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--dump-dom"),
    *("--enable-logging=stderr", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--no-first-run"),
)
PATIENCE_SECONDS = 300
LEAST_TEXT, LEAST_LABEL = 14.0, 10.5  # CSS pixels: of text, and of labels in pictures
LOOK = """
function look(frame) {
  const page = frame.contentDocument, view = frame.contentWindow, root = page.documentElement;
  const sizes = [], labels = [], outside = [], boxes = [], collisions = [];
  const walk = page.createTreeWalker(page.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const element = walk.currentNode.parentElement;
    const shown = walk.currentNode.data.trim() && element.getClientRects().length;
    if (!shown || element.closest("svg,script")) continue;
    sizes.push(parseFloat(view.getComputedStyle(element).fontSize));
  }
  for (const svg of page.querySelectorAll("svg")) {
    const box = svg.getBoundingClientRect();
    if (svg.closest(".wide,.narrow") && !svg.getClientRects().length) continue;
    boxes.push([box.width, box.height, svg.querySelectorAll("path,rect,circle").length]);
    if (svg.matches(".seal")) continue;
    const texts = [...svg.querySelectorAll("text")].map(text => [text, text.getBoundingClientRect()]);
    for (const [text, place] of texts) {
      labels.push(parseFloat(view.getComputedStyle(text).fontSize) * box.width / svg.viewBox.baseVal.width);
      const over = Math.max(box.left - place.left, place.right - box.right, box.top - place.top,
        place.bottom - box.bottom);
      if (over > 2) outside.push([text.textContent, over]);
    }
    for (const [one, a] of texts) for (const [other, b] of texts) {
      const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (one !== other && across > 1 && down > 6) collisions.push([one.textContent, other.textContent]);
    }
  }
  return {name: frame.title, overflow: root.scrollWidth - root.clientWidth, sizes: Math.min(...sizes),
    labels: labels.length ? Math.min(...labels) : 99, outside, boxes, collisions};
}
window.onload = () => {
  document.getElementById("found").textContent =
    JSON.stringify([...document.querySelectorAll("iframe")].map(look));
};
"""


@pytest.fixture(scope="module")
def browser() -> str:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("no Chromium on this machine to look at the page with")
    return found


def frames(directory: Path) -> Path:
    """A document that shows pages at several widths."""
    shown = []
    for name, language, width in SHOWN:
        file = directory / f"{name}-{language}.html"
        file.write_text(render_page(kept() if name == "kept" else infeasible(), language), "utf-8")
        shown.append(f'<iframe src="{file.name}" title="{file.stem} {width}" width="{width}"></iframe>')
    frame = directory / "frames.html"
    frame.write_text(f'<!doctype html><pre id="found"></pre>{"".join(shown)}<script>{LOOK}</script>', "utf-8")
    return frame


@pytest.fixture(scope="module")
def looked(browser: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], str]:
    """What was found of every page at every width, and what the browser said."""
    directory = tmp_path_factory.mktemp("pages")
    command = [browser, *FLAGS, f"--user-data-dir={directory / 'profile'}", frames(directory).as_uri()]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip(f"{browser} had not looked at the pages after {PATIENCE_SECONDS} seconds")
    found = re.search(r'<pre id="found">(.+?)</pre>', done.stdout, re.S)
    assert found is not None, done.stderr[-2000:]
    return json.loads(html.unescape(found[1])), done.stderr


def test_the_console_is_silent(looked: tuple[list[dict[str, Any]], str]) -> None:
    assert "CONSOLE" not in looked[1]


def test_nothing_overflows(looked: tuple[list[dict[str, Any]], str]) -> None:
    assert {page["name"]: page["overflow"] for page in looked[0] if page["overflow"] > 0} == {}
    assert len(looked[0]) == len(SHOWN)


def test_pictures_are_drawn(looked: tuple[list[dict[str, Any]], str]) -> None:
    for page in looked[0]:
        assert len(page["boxes"]) == (9 if page["name"].startswith("kept") else 2), page["name"]
        assert all(width > 50 and height > 30 and shapes for width, height, shapes in page["boxes"])


def test_text_is_large_enough(looked: tuple[list[dict[str, Any]], str]) -> None:
    for page in looked[0]:
        assert page["sizes"] >= LEAST_TEXT, page["name"]
        assert page["labels"] >= LEAST_LABEL, page["name"]


def test_labels_stay_inside_and_apart(looked: tuple[list[dict[str, Any]], str]) -> None:
    for page in looked[0]:
        assert page["outside"] == [], page["name"]
        assert page["collisions"] == [], page["name"]
