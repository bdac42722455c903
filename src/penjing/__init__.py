"""Penjing makes large language models small, proves what was lost, and serves them."""

__version__ = "0.1.0"
