"""Algorithms that cut the network."""
