"""Sweeps: a YAML file multiplied out into command lines, each with the files it promises, run one after another."""
