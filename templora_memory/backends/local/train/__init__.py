"""Learning: examples in, a new adapter out."""
