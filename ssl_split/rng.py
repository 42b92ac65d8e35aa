"""Random numbers by key: each purpose, round and client has its own stream, whatever the order of execution."""

from __future__ import annotations

import hashlib

import torch


def generator(seed: int, purpose: str, *indices: int) -> torch.Generator:
    """A CPU generator whose stream depends on nothing but its key.

    Args:
        seed: The run's seed.
        purpose: What the numbers are for, e.g. `"partition"`.
        indices: Round, step, client, ... in the purpose's own order.

    Returns:
        A fresh generator. Equal keys give equal streams, so no generator has to be stored in a checkpoint.
    """
    key = f"{seed}/{purpose}/" + "/".join(map(str, indices))
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    made = torch.Generator("cpu")
    made.manual_seed(int.from_bytes(digest, "little") >> 1)
    return made
