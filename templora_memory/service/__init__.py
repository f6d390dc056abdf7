"""What a service of many memories does, over the ports of a backend and a store."""
