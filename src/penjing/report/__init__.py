"""What was measured, in forms for people: a page, and a model card."""

from penjing.report.card import render_card
from penjing.report.page import render_page

__all__ = ["render_card", "render_page"]
