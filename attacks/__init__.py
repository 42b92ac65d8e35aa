"""Privacy attacks on what crosses the wire."""
