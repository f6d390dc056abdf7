"""Files, locks and staging folders, shared by the stores and the server."""
