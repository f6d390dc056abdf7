"""Training: examples in, a new adapter out."""
