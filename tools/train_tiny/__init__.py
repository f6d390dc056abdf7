"""How the embedded model was made: `python -m tools.train_tiny --help`."""
