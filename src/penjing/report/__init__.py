"""What was measured, in forms for people: a table for a model card."""

from penjing.report.markdown import render_markdown

__all__ = ["render_markdown"]
