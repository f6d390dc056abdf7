"""Backends: what runs the base model. Each is a folder; they do not know each other."""
