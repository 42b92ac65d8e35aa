"""What an inversion attack costs: seconds, and reconstructed images per second, of every method on one client half, in one run.

    python benchmarks/inversion.py                                                  # ResNet-18 at cut 13, quick, all methods
    python benchmarks/inversion.py --budget standard --only ridge decoder --aux 5000
    python benchmarks/inversion.py --cut 5 --width 0.25 --precision bf16

The client is untrained and the images are smooth noise: an attack costs the same on others, but for a decoder that stops early where its
validation levels off. The server of `pcat` and `sdar` is untrained too: MocoSFL's half and queue. Seconds run from the first query to the
scores of all targets; ridge is the unit of the last column.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from attacks.methods import METHODS
from attacks.reconstruct import reconstruct
from attacks.served import Contrasting, frozen
from attacks.view import ServerModel
from ssl_split import allocator, rng
from ssl_split import config as configuration
from ssl_split.config import Config
from ssl_split.models.split import Network, build
from ssl_split.objectives.moco import initial_queue


def smooth(count: int, size: int, seed: int) -> torch.Tensor:
    """Images `(count, 3, size, size)` in [0, 1]."""
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    fine = 0.2 * torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed + 1))
    return (F.interpolate(coarse, size=size, mode="bilinear") * 0.8 + fine).clamp(0, 1)


def server(network: Network, config: Config, device: torch.device) -> ServerModel:
    """The server's half of an untrained network, its momentum half the same, with a queue of random keys."""
    half = frozen(network.server).to(device)
    queue = initial_queue(config.queue_size, config.head.out, rng.generator(config.seed, "queue")).to(device)
    loss = Contrasting(half, half, queue, config.temperature, config.augmentation, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    return ServerModel((lambda: loss,), supervised=False)


def options(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="resnet18")
    parser.add_argument("--cut", type=int, default=13)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--budget", default="quick", choices=("quick", "standard", "paper"))
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--targets", type=int, default=128)
    parser.add_argument("--aux", type=int, default=1000)
    parser.add_argument("--only", nargs="+", default=list(METHODS), choices=METHODS)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Print one table."""
    args = options(argv)
    allocator.keep_freed_memory()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = configuration.from_dict({"arch": args.arch, "cut": args.cut, "width": args.width, "algorithm": "mocosfl"})

    def network(seed: int) -> Network:
        return build(config.replace(seed=seed), image_size=args.image_size, classes=0).eval()

    def fresh(seed: int) -> nn.Module:
        return network(seed).client.to(device)

    client, beside = fresh(0), server(network(0), config, device)
    targets, own, private = (smooth(n, args.image_size, s).to(device) for n, s in ((args.targets, 0), (args.aux, 2), (args.aux, 4)))
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {device}; {args.arch} x{args.width:g} cut "
          f"{args.cut}, {args.targets} targets, {args.aux} own images, {args.budget}, {args.precision}")
    print(f"{'method':<10}{'seconds':>10}{'images/s':>11}{'to ridge':>10}")
    found: dict[str, float] = {}
    for method in sorted(args.only, key=lambda name: name != "ridge"):
        given = {"precision": args.precision} if "precision" in METHODS[method].options else {}
        start = time.perf_counter()
        reconstruct(client, targets, own, method=method, private=private, fresh=fresh, momentum=client, server=beside, budget=args.budget,
                    seeds=1, **given)
        found[method] = time.perf_counter() - start
        unit = f"{found[method] / found['ridge']:>9.1f}x" if "ridge" in found else f"{'-':>10}"
        print(f"{method:<10}{found[method]:>10.1f}{args.targets / found[method]:>11.1f}{unit}", flush=True)


if __name__ == "__main__":
    main()
