"""Adapters as values, one for each row of a batch, and PEFT's files."""
