"""Page faults and time of a training step with and without the allocator fix (ssl_split/allocator.py), each in a fresh process.

    python benchmarks/alloc.py
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time

import torch

from ssl_split import allocator
from ssl_split import config as configuration
from ssl_split.models.split import build

BATCHES = (10, 50, 200)
STEPS = 6


def measure(fixed: str, batch: int) -> dict[str, float]:
    """Forward and backward of the first two units of a full-width ResNet-18 at one thread."""
    if fixed == "fixed":
        allocator.keep_freed_memory()
    torch.set_num_threads(1)
    network = build(configuration.from_dict({"cut": 3, "dataset": "digits"}), image_size=32).client.to(memory_format=torch.channels_last)
    x = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(0)).contiguous(memory_format=torch.channels_last)

    def step() -> None:
        network(x).sum().backward()

    step()
    step()
    faults, best = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, float("inf")
    for _ in range(STEPS):
        start = time.process_time()
        step()
        best = min(best, time.process_time() - start)
    after = resource.getrusage(resource.RUSAGE_SELF)
    return {"ms_per_image": best / batch * 1e3, "faults": (after.ru_minflt - faults) / STEPS, "peak_mib": after.ru_maxrss / 1024}


def main() -> None:
    """Print one line per batch size."""
    if len(sys.argv) == 3:
        print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
        return
    print("batch | glibc default: CPU ms per image, faults a step, peak MiB | fixed: the same | time ratio")
    for batch in BATCHES:
        found = {}
        for kind in ("default", "fixed"):
            done = subprocess.run([sys.executable, __file__, kind, str(batch)], capture_output=True, text=True, check=True)
            found[kind] = json.loads(done.stdout)
        cells = [f"{f['ms_per_image']:6.2f} {f['faults']:9.0f} {f['peak_mib']:7.0f}" for f in found.values()]
        ratio = found["default"]["ms_per_image"] / found["fixed"]["ms_per_image"]
        print(f"{batch:5d} | {cells[0]} | {cells[1]} | {ratio:.2f}x", flush=True)


if __name__ == "__main__":
    main()
