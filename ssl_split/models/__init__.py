"""Networks as lists of units that can be cut."""
