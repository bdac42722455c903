"""The page and the card of made-up searches: what they say, and that nothing in them can do harm."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser

import pytest
from records import infeasible, kept

from penjing.optimize.record import SearchRecord
from penjing.optimize.record_parts import Sample
from penjing.report import render_card, render_page
from penjing.report.words import LANGUAGES, Language

EVIL = "<script>alert(1)</script>\"'|`[x](javascript:1)"
VOID = {"meta", "rect", "circle", "path", "br"}


class Outline(HTMLParser):
    """Tags in order (each must be closed as it was opened), the text, and what would be fetched or run."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.risky: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.risky += [
            f"{tag} {name}" for name, _ in attrs if name in ("src", "href") or name.startswith("on")
        ]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["script"], ["style"]):
            self.text += data


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("record", [kept(), infeasible()], ids=["kept", "infeasible"])
def test_the_page_is_whole_and_fetches_nothing(record: SearchRecord, language: Language) -> None:
    page = render_page(record, language)
    outline = Outline(page)
    assert outline.open == []
    assert outline.risky == []
    assert outline.tags.count("script") == 1
    assert "http" not in page.replace("http-equiv", "")
    assert f'<html lang="{language}">' in page
    assert "{" not in outline.text
    assert "nan" not in re.sub(r"[a-z]+nan|nan[a-z]+", "", outline.text.lower())


def test_the_claim_is_a_bound_that_is_never_rounded_down() -> None:
    text = Outline(render_page(kept())).text
    assert "is at most 1.48% higher than before, with 96.25% confidence" in text  # 1.4727%
    assert "At 28.6% of its size" in text
    assert "at most 25\u00a0ms" in text
    assert "✓\u00a0kept" in text
    assert "KEPT" in text


def test_sections_of_a_search_that_ended_well() -> None:
    page = render_page(kept())
    first = ["compared", "frontier", "layers", "sensitivity", "roofline", "time"]
    last = ["errors", "samples", "use", "measured"]
    assert re.findall(r'<section id="(\w+)"', page) == first + last


def test_what_is_not_known_is_left_out() -> None:
    bare = kept().model_copy(
        update={"frontier": (), "layers": (), "roofline": None, "time": (), "errors": None, "samples": ()}
    )
    assert re.findall(r'<section id="(\w+)"', render_page(bare)) == ["compared", "use", "measured"]


def test_an_infeasible_budget_says_what_binds_and_what_could_be_had() -> None:
    text = Outline(render_page(infeasible())).text
    assert "What binds is a size of at most 18%" in text
    assert "a size of at most 27.13%, or a rise of perplexity of at most 61.20%" in text
    assert "NOT KEPT" in text
    assert "✗\u00a0binds" in text
    assert "penjing serve" not in text


def test_a_loss_below_zero_is_no_rise() -> None:
    record = kept()
    claim = record.claim
    assert claim is not None
    better = record.model_copy(update={"claim": claim.model_copy(update={"upper_nats": math.log(0.98765)})})
    assert "is lower than before, by at least 1.23%" in Outline(render_page(better)).text


@pytest.mark.parametrize("language", LANGUAGES)
def test_names_and_samples_are_inert(language: Language) -> None:
    record = kept(EVIL)
    sample = Sample(prompt=EVIL, before=EVIL, after=f"```\n{EVIL}")
    point = record.frontier[-1].model_copy(update={"name": EVIL})
    layer = record.layers[0].model_copy(update={"group": EVIL, "kind": EVIL, "scores": {EVIL: 0.1}})
    record = record.model_copy(
        update={"samples": (sample,), "frontier": (*record.frontier[:-1], point), "layers": (layer,)}
    )
    page = render_page(record, language)
    outline = Outline(page)
    assert outline.tags.count("script") == 1
    assert outline.risky == []
    assert "<script>alert" not in page
    assert outline.text.count(EVIL) >= 5
    card = render_card(record, language)
    outside = re.sub(r"(?ms)^(`{3,})text\n.*?^\1$", "", card)
    assert "<script>" not in outside
    assert r"\[x\]" in outside
    assert outside.count("````") == 0
    rows = [line for line in outside.splitlines() if line.startswith("|") and "alert" in line]
    assert rows
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 8 for row in rows)


def test_the_script_is_the_one_that_may_run() -> None:
    """The policy names the hash of what stands between the tags, byte for byte."""
    import base64
    import hashlib

    page = render_page(kept())
    script = re.search(r"<script>(.*)</script>", page, re.S)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page
    assert "default-src 'none'" in page


def test_the_same_record_gives_the_same_page() -> None:
    assert render_page(kept()) == render_page(kept())


def test_the_card_has_the_numbers() -> None:
    card = render_card(kept())
    assert "| Tensors | 2.20\u00a0GB | 629\u00a0MB | 28.6% |" in card
    assert "penjing serve tray" in card
    assert "predicted" not in card
    tables = re.findall(r"(?m)(?:^\|.*\n)+", card)
    assert len(tables) == 4
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_samples_show_where_they_part() -> None:
    page = render_page(kept())
    assert "He wrote </span>the number" in page
    assert "He wrote </span>it down" in page
    assert "word for word the same" in page
