"""Memories as objects in a bucket."""
