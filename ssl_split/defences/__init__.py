"""Defences of smashed data: one file each, a table, and what the clients' side of the wire does with them."""
