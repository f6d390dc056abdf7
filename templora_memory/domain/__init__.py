"""Pure values: ids, messages, settings, manifests, journals, results. Nothing here does I/O."""
