"""Memories as folders on a file system."""
