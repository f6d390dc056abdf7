"""The service of many memories, over the ports of a backend and a store."""
