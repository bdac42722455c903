"""Descriptions of a service for cluster managers."""

from penjing.cluster.kubernetes import render_kubernetes

__all__ = ["render_kubernetes"]
