"""What was measured, in forms for people: a page, a model card, a table."""

from penjing.report.card import render_card
from penjing.report.markdown import render_markdown
from penjing.report.page import render_page

__all__ = ["render_card", "render_markdown", "render_page"]
