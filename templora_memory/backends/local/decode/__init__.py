"""Decoding: many requests with adapters of their own in one batch."""
