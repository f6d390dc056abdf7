"""Several replicas of the server, with Ray Serve."""
