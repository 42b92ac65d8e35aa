"""Split federated learning with its traffic counted, its smashed data attacked and its features probed."""

__version__ = "0.1.0"
