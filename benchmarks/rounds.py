"""Cost of a round of the supervised algorithms, split and federated, against plain federated averaging on the same work, and how it grows
with clients.

FedAvg here is the plain way: one network, one PyTorch optimiser, client after client, no wire. The split algorithms do the same forward and
backward passes in two halves and send everything through the channel. All measured in one run, each in a process of its own.

    python benchmarks/rounds.py                                        # quarter-width ResNet-18 at cut 5, 10 and 100 clients
    python benchmarks/rounds.py --clients 1000 --rounds 1 --only fedavg "sfl_v1 in groups" sfl_v2    # copies for all would need 26 GiB
    python benchmarks/rounds.py --clients 1000 --participation 0.1 --only fedavg fedlesam scaffold fedwmsam fedsmoo    # what clients keep
    python benchmarks/rounds.py --clients 10 --cut 13 --width 1.0 --batch-size 32

Every client makes `--local-steps` steps of `--batch-size` images; `sfl_v1` also with `--at-once` clients in memory together, federated
methods always so, unsplit. With `--participation` below 1 each round has the next clients: ten rounds of a tenth meet all. Seconds are
the minimum of `--rounds` after one to warm up; memory is the process's peak beyond what it had before the algorithm was built.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from ssl_split import allocator
from ssl_split import config as configuration
from ssl_split.algorithms.api import Batch, Setup
from ssl_split.algorithms.table import ALGORITHMS
from ssl_split.channel import Channel
from ssl_split.config import FEDERATED, Config
from ssl_split.models.split import build

CLASSES = 10
SPLIT = ("sfl_v1", "sfl_v1 in groups", "sfl_v2", "minibatch_sfl", "smofi", "split_learning")


def fedavg(config: Config, steps: int) -> Callable[[], object]:
    """A round of the plain way."""
    network = build(config, image_size=32, classes=CLASSES).to(memory_format=torch.channels_last)
    x, y = images(config)

    def round() -> None:
        start = {k: v.clone() for k, v in network.state_dict().items()}
        total = {k: torch.zeros_like(v) for k, v in start.items()}
        for _ in range(config.cohort_size):
            network.load_state_dict(start)
            made = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
            for _ in range(steps):
                made.zero_grad()
                functional.cross_entropy(network(x.contiguous(memory_format=torch.channels_last)), y).backward()
                made.step()
            for key, value in network.state_dict().items():
                total[key].add_(value, alpha=1 / config.cohort_size)
        network.load_state_dict(total)

    return round


def images(config: Config) -> tuple[torch.Tensor, torch.Tensor]:
    """One random batch: loading data is not part of this measurement."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(config.batch_size, 3, 32, 32, generator=generator), torch.randint(CLASSES, (config.batch_size,), generator=generator)


def split(config: Config, steps: int) -> Callable[[], object]:
    """A round of a split algorithm."""
    network = build(config, image_size=32, classes=CLASSES)
    counts = torch.ones(config.clients, CLASSES, dtype=torch.int64)
    setup = Setup(config, network, [steps * config.batch_size] * config.clients, steps, torch.device("cpu"), torch.float32,
                  [steps] * config.clients, counts)
    algorithm = ALGORITHMS[config.algorithm](setup)
    state = algorithm.init()
    wire = Channel(config.wire, state.ledger)
    x, y = images(config)

    def round() -> None:
        cohort = (torch.arange(config.cohort_size) + state.round * config.cohort_size) % config.clients
        algorithm.begin_round(state, cohort, wire)
        for _ in range(algorithm.round_steps(cohort)):
            places = algorithm.participants(state)
            count = places.stop - places.start
            algorithm.step(state, Batch((x.expand(count, *x.shape),), y.expand(count, *y.shape), places), wire)
        algorithm.end_round(state, wire)

    return round


def child(options: argparse.Namespace) -> None:
    """One measurement, printed as JSON."""
    allocator.keep_freed_memory()
    name = options.algorithm
    unsplit = name in FEDERATED and name != "fedavg"
    groups = {"clients_at_once": options.at_once} if unsplit or name == "sfl_v1 in groups" else {}
    config = configuration.from_dict({"algorithm": "sfl_v1" if name == "fedavg" else name.split()[0],
                                      "cut": "full" if unsplit else options.cut,
                                      "width": options.width, "clients": options.clients[0], "batch_size": options.batch_size,
                                      "clients_per_round": max(1, round(options.participation * options.clients[0])),
                                      "schedule": "constant", "client_lr": 0.01, "server_lr": 0.01, "partition": {"kind": "iid"}, **groups})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    one_round = (fedavg if name == "fedavg" else split)(config, options.local_steps)
    seconds = []
    for _ in range(1 + options.rounds):
        start = time.perf_counter()
        one_round()
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(json.dumps({"seconds": min(seconds[1:]), "mib": peak / 1024}))


def measure(name: str, clients: int, options: argparse.Namespace) -> dict[str, Any] | None:
    """In a process of its own; None where it ran out of memory."""
    words = ["--algorithm", name, "--clients", str(clients), "--cut", options.cut, "--width", str(options.width), "--batch-size",
             str(options.batch_size), "--local-steps", str(options.local_steps), "--rounds", str(options.rounds), "--at-once",
             str(options.at_once), "--participation", str(options.participation)]
    done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, env=dict(os.environ))
    if done.returncode:
        print(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"{name} was killed", file=sys.stderr)
        return None
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure everything and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--participation", type=float, default=1.0, help="share of the clients in a round")
    parser.add_argument("--only", nargs="+", choices=(*SPLIT, *FEDERATED), default=("fedavg", *SPLIT), metavar="ALGORITHM",
                        help=f"fedavg (the plain way), {', '.join(SPLIT)}; {', '.join(FEDERATED[1:])}")
    parser.add_argument("--cut", default="5")
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--local-steps", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--at-once", type=int, default=10)
    parser.add_argument("--algorithm", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.algorithm:
        child(options)
        return
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}; ResNet-18 x"
          f"{options.width:g} cut {options.cut}, {options.local_steps} steps of {options.batch_size} images a client, groups of "
          f"{options.at_once}, participation {options.participation:g}")
    print(f"{'clients':>8} {'algorithm':<18} {'s a round':>10} {'to FedAvg':>10} {'MiB':>8}")
    for clients in options.clients:
        plain = None
        for name in options.only:
            found = measure(name, clients, options)
            if found is None:
                print(f"{clients:>8} {name:<18} {'failed':>10}")
                continue
            plain = plain or found["seconds"]
            print(f"{clients:>8} {name:<18} {found['seconds']:>10.2f} {found['seconds'] / plain:>9.2f}x {found['mib']:>8.0f}", flush=True)


if __name__ == "__main__":
    main()
