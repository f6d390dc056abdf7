"""Applications that come with the package."""
