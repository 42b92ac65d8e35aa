"""Federated algorithms: the client holds the whole network (cut full), or its first layers (any other cut)."""
