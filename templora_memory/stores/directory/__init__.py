"""Memories as folders below a root."""
