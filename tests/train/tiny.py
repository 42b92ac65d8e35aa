"""Runs of a few seconds on embedded images."""

from __future__ import annotations

from pathlib import Path

from ssl_split import config as configuration
from ssl_split.config import Config

TINY = {"dataset": "digits", "image_size": 16, "train_images": 120, "width": 0.125, "clients": 3, "batch_size": 4, "rounds": 2,
        "syncs_per_round": 2, "symmetric": "none", "queue_size": 64, "head": {"hidden": 16, "out": 8}, "cut": 5,
        "validate_every_rounds": 1, "threads": 1, "partition": {"kind": "iid"}}


def tiny(out: Path, **changes: object) -> Config:
    """A run of 2 rounds of 9 or 10 steps."""
    return configuration.from_dict(configuration.fields.merge(TINY, {"out": str(out), **changes}))


def brief(out: Path, **changes: object) -> Config:
    """A run of 2 rounds of 5 steps, on a network of fewer layers: for tests that compare runs, whatever they learn."""
    return tiny(out, **{"arch": "vgg11", "train_images": 60, **changes})
