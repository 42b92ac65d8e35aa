"""Speed of a MocoSFL step (symmetric none; an image counts once) against three rulers, all measured in one run:

(a) the plain way: a Python loop of deep-copied client modules, one optimiser each, as published code does it (NCHW, fp32, the system's
    allocator);
(b) one centralised MoCo step on as many images;
(c) plain convolutions of the network's shapes, forward and backward, which is what the hardware gives.

    python benchmarks/step.py                    # full-width ResNet-18 at cuts 1, 7, 13; about 20 minutes on two cores
    python benchmarks/step.py --cuts 13 --regimes 5,5,20 --width 0.25
    python benchmarks/step.py --cuts 7 --regimes 200,100,1 --profile    # where the time of a step goes, on one thread

Each measurement runs in a process of its own (allocator, thread pools and caches of one do not touch the next): 2 steps to warm up, then
`--steps`; the minimum is reported, the median beside it.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ssl_split import allocator
from ssl_split import config as configuration
from ssl_split.algorithms.api import Batch, Setup
from ssl_split.algorithms.table import ALGORITHMS
from ssl_split.channel import Channel
from ssl_split.config import Config
from ssl_split.models.count import macs
from ssl_split.models.split import Network, build
from ssl_split.objectives.moco import enqueue, info_nce, initial_queue


def timed(step: Callable[[], object], steps: int) -> dict[str, float]:
    """Seconds per step: minimum and median, after two to warm up."""
    for _ in range(2):
        step()
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return {"seconds": min(seconds), "median": statistics.median(seconds)}


def views(config: Config) -> tuple[torch.Tensor, torch.Tensor]:
    """Random normalised views `(P, B, 3, 32, 32)`: data loading is not part of this measurement."""
    shape = (2, config.cohort_size, config.batch_size, 3, 32, 32)
    v1, v2 = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return v1, v2


def prepared(config: Config) -> Callable[[], object]:
    """A step of `config.algorithm` without data loading and without a sync."""
    network = build(config, image_size=32)
    setup = Setup(config, network, [10**6] * config.clients, 10**6, torch.device("cpu"), torch.float32)
    algorithm = ALGORITHMS[config.algorithm](setup)
    state = algorithm.init()
    wire = Channel(config.wire, state.ledger)
    cohort = torch.arange(1 if algorithm.centralised else config.cohort_size)
    algorithm.begin_round(state, cohort, wire)
    v1, v2 = views(config)
    if algorithm.centralised:
        v1, v2 = v1.flatten(0, 1)[None], v2.flatten(0, 1)[None]
    return lambda: algorithm.step(state, Batch((v1, v2)), wire)


def ours(config: Config, steps: int) -> dict[str, float]:
    """Seconds of such a step."""
    return timed(prepared(config), steps)


GROUPS = {"convolutions": ("convolution", "conv2d"), "GroupNorm": ("group_norm",), "head and queue": ("aten::mm", "aten::addmm")}
"""Operations of each group by parts of their names."""


def profiled(config: Config, steps: int) -> dict[str, float]:
    """Seconds on one thread by group of operations, mean of `steps` steps."""
    step = prepared(config)
    for _ in range(2):
        step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for _ in range(steps):
            step()
    events = profile.key_averages()
    found = {name: sum(e.self_cpu_time_total for e in events if any(p in e.key for p in parts)) for name, parts in GROUPS.items()}
    # with all that its functions call
    found["weight standardisation"] = sum(e.cpu_time_total for e in events if e.key in (
        "_Standardise", "_StandardiseBackward", "_StandardiseStack", "_StandardiseStackBackward"))
    found["activations, sums, SGD, EMA"] = sum(e.self_cpu_time_total for e in events) - sum(found.values())
    return {name: microseconds / 1e6 / steps for name, microseconds in found.items()}


class PlainLoop:
    """MocoSFL as published code runs it."""

    def __init__(self, config: Config, network: Network) -> None:
        self.config, cohort = config, config.cohort_size
        self.clients = [copy.deepcopy(network.client) for _ in range(cohort)]
        self.momentum = [copy.deepcopy(network.client) for _ in range(cohort)]
        self.server, self.momentum_server = copy.deepcopy(network.server), copy.deepcopy(network.server)
        self.optimisers = [self._sgd(c) for c in [*self.clients, self.server]]
        self.queue, self.head = initial_queue(config.queue_size, config.head.out, torch.Generator().manual_seed(0)), 0

    def _sgd(self, module: nn.Module) -> torch.optim.SGD:
        return torch.optim.SGD(module.parameters(), lr=0.06, momentum=0.9, weight_decay=5e-4)

    @staticmethod
    def _ema(target: nn.Module, source: nn.Module) -> None:
        with torch.no_grad():
            for a, b in zip(target.parameters(), source.parameters(), strict=True):
                a.mul_(0.99).add_(b, alpha=0.01)

    def step(self, v1: torch.Tensor, v2: torch.Tensor) -> None:
        """One step on `(P, B, C, H, W)` views."""
        for optimiser in self.optimisers:
            optimiser.zero_grad()
        h = [client(x) for client, x in zip(self.clients, v1, strict=True)]
        for a, b in zip(self.momentum, self.clients, strict=True):
            self._ema(a, b)
        with torch.no_grad():
            h_k = torch.cat([client(x) for client, x in zip(self.momentum, v2, strict=True)])
        h_q = torch.cat([x.detach() for x in h]).requires_grad_()
        self._ema(self.momentum_server, self.server)
        q = functional.normalize(self.server(h_q), dim=1)
        with torch.no_grad():
            k = functional.normalize(self.momentum_server(h_k), dim=1)
        loss = info_nce(q, k, self.queue.clone(), temperature=0.1)
        self.head = enqueue(self.queue, self.head, k)
        loss.backward()
        for x, g in zip(h, h_q.grad.split(len(h[0])), strict=True):
            x.backward(g)
        for optimiser in self.optimisers:
            optimiser.step()


def plain(config: Config, steps: int) -> dict[str, float]:
    """Ruler (a)."""
    loop, (v1, v2) = PlainLoop(config, build(config, image_size=32)), views(config)
    return timed(lambda: loop.step(v1, v2), steps)


def convolutions(config: Config, steps: int) -> dict[str, float]:
    """Ruler (c): each convolution of the network alone on a batch of P * B, forward and backward, and the FLOP/s reached."""
    network, batch, seconds, flops = build(config, image_size=32), config.cohort_size * config.batch_size, 0.0, 0
    shapes: list[tuple[nn.Conv2d, torch.Size]] = []
    hooks = [m.register_forward_hook(lambda m, i, o: shapes.append((m, i[0].shape))) for m in network.modules() if isinstance(m, nn.Conv2d)]
    network(torch.zeros(1, 3, 32, 32))
    for hook in hooks:
        hook.remove()
    bf16 = config.precision == "bf16"
    order = torch.contiguous_format if bf16 else torch.channels_last
    for conv, shape in shapes:
        x = torch.randn(batch, *shape[1:]).to(torch.bfloat16 if bf16 else torch.float32).contiguous(memory_format=order).requires_grad_()
        w = conv.weight.detach().to(x.dtype).contiguous(memory_format=order).requires_grad_()

        def step(x: torch.Tensor = x, w: torch.Tensor = w, conv: nn.Conv2d = conv) -> None:
            y = functional.conv2d(x, w, stride=conv.stride, padding=conv.padding)
            y.backward(torch.ones_like(y))

        seconds += timed(step, max(3, steps // 2))["seconds"]
        flops += 2 * 3 * batch * y_macs(conv, shape)
    return {"seconds": seconds, "flops_per_second": flops / seconds}


def y_macs(conv: nn.Conv2d, shape: torch.Size) -> int:
    """Multiply-adds of one image through a convolution."""
    side = -(-shape[-1] // conv.stride[0])
    return conv.out_channels * conv.in_channels * conv.kernel_size[0] * conv.kernel_size[1] * side * side // conv.groups


def copy_bandwidth() -> float:
    """Bytes per second, read and written, of copying 1 GiB."""
    a, b = torch.zeros(2**28), torch.empty(2**28)
    return 2 * 4 * 2**28 / timed(lambda: b.copy_(a), 5)["seconds"]


KINDS: dict[str, Callable[[Config, int], dict[str, float]]] = {"ours": ours, "plain": plain, "convolutions": convolutions,
                                                               "profile": profiled}


def child(spec: dict[str, Any]) -> None:
    """One measurement, as JSON on stdout."""
    if spec["kind"] != "plain":
        allocator.keep_freed_memory()
    torch.set_num_threads(spec["threads"])
    if spec["kind"] == "bandwidth":
        print(json.dumps({"bytes_per_second": copy_bandwidth()}))
        return
    print(json.dumps(KINDS[spec["kind"]](configuration.from_dict(spec["config"]), spec["steps"])))


def measure(kind: str, config: dict[str, Any], *, steps: int, threads: int) -> dict[str, float]:
    """Run one measurement in a fresh process."""
    spec = json.dumps({"kind": kind, "config": config, "steps": steps, "threads": threads})
    done = subprocess.run([sys.executable, __file__, "--child", spec], capture_output=True, text=True, env={**os.environ,
                          "OMP_NUM_THREADS": str(threads)})
    if done.returncode:
        sys.exit(f"error: the measurement {kind} failed: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout)


def step_flops(network: Network) -> float:
    """FLOP of one image in a step with symmetric none: forward and backward online, forward of the momentum network."""
    return 2 * 4 * macs(network, (3, 32, 32))


def row(regime: tuple[int, int, int], cut: int, args: argparse.Namespace) -> dict[str, Any]:
    """All measurements of one line of the table."""
    clients, active, batch = regime
    config = {"clients": clients, "clients_per_round": active, "batch_size": batch, "cut": cut, "width": args.width, "symmetric": "none",
              "rounds": 10}
    at = {"steps": args.steps, "threads": args.threads}
    found = {"plain": measure("plain", config, **at)}
    for precision in ("fp32", "bf16"):
        here = {**config, "precision": precision}
        found[f"mocosfl {precision}"] = measure("ours", {**here, "algorithm": "mocosfl"}, **at)
        found[f"moco {precision}"] = measure("ours", {**here, "algorithm": "moco"}, **at)
    network = build(configuration.from_dict(config), image_size=32)
    images, flops = active * batch, step_flops(network) * active * batch
    line = {"regime": regime, "cut": cut, "images_per_s": {k: images / v["seconds"] for k, v in found.items()},
            "gflops_per_s": {k: flops / v["seconds"] / 1e9 for k, v in found.items()}, "seconds": found}
    speed = line["images_per_s"]
    line["ratios"] = {"fp32 to plain": speed["mocosfl fp32"] / speed["plain"], "bf16 to plain": speed["mocosfl bf16"] / speed["plain"],
                      "fp32 to moco fp32": speed["mocosfl fp32"] / speed["moco fp32"],
                      "bf16 to moco bf16": speed["mocosfl bf16"] / speed["moco bf16"]}
    line["client_parameters"] = sum(p.numel() for p in network.client.parameters()) * active
    return line


def show_profile(regimes: list[tuple[int, ...]], args: argparse.Namespace) -> None:
    """Shares of a step's CPU time, MocoSFL beside centralised MoCo on as many images."""
    print("CPU seconds of a step on one thread")
    for clients, active, batch in regimes:
        for cut in args.cuts:
            for precision in ("fp32", "bf16"):
                for algorithm in ("mocosfl", "moco"):
                    config = {"clients": clients, "clients_per_round": active, "batch_size": batch, "cut": cut, "width": args.width,
                              "symmetric": "none", "rounds": 10, "precision": precision, "algorithm": algorithm}
                    found = measure("profile", config, steps=args.steps, threads=1)
                    print(f"({clients}, {active}, {batch}) cut {cut} {precision} {algorithm:>8} {sum(found.values()):6.2f} s: "
                          + ", ".join(f"{name} {seconds:.2f}" for name, seconds in found.items()), flush=True)


def show(line: dict[str, Any], ceiling: dict[str, float], bandwidth: float) -> None:
    """One line of the table, and the memory-traffic bound where weights outweigh images."""
    speed, ratio = line["images_per_s"], line["ratios"]
    print(f"{line['regime']!s:>15} {line['cut']:>4} | {speed['plain']:7.1f} | {speed['mocosfl fp32']:7.1f} "
          f"({ratio['fp32 to plain']:4.2f}x plain, {ratio['fp32 to moco fp32']:4.2f}x moco {speed['moco fp32']:6.1f}) | "
          f"{speed['mocosfl bf16']:7.1f} ({ratio['bf16 to plain']:4.2f}x plain, {ratio['bf16 to moco bf16']:4.2f}x moco "
          f"{speed['moco bf16']:6.1f}) | {line['gflops_per_s']['mocosfl fp32'] * 1e9 / ceiling['fp32']:4.0%} and "
          f"{line['gflops_per_s']['mocosfl bf16'] * 1e9 / ceiling['bf16']:4.0%} of convolutions", flush=True)
    if line["regime"][2] == 1 and line["cut"] >= 13:
        moved = 60 * line["client_parameters"]
        bound = moved / bandwidth
        print(f"    memory bound: 60 bytes for each of {line['client_parameters'] / 1e6:.0f} M client parameters a step = "
              f"{moved / 1e9:.1f} GB, {bound:.2f} s at the measured {bandwidth / 1e9:.1f} GB/s; the step takes "
              f"{line['seconds']['mocosfl fp32']['seconds'] / bound:.2f} (fp32) and "
              f"{line['seconds']['mocosfl bf16']['seconds'] / bound:.2f} (bf16) times that")


def main() -> None:
    """Measure and print; `--json FILE` keeps everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, nargs="+", default=[1, 7, 13])
    parser.add_argument("--regimes", nargs="+", default=["5,5,20", "20,5,20", "200,100,1"], help="clients,active,batch")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--profile", action="store_true", help="print where the time goes instead")
    parser.add_argument("--json", help="write all numbers here")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(json.loads(args.child))
        return
    print(f"{platform.processor() or platform.machine()}, {args.threads} threads, torch {torch.__version__}, ResNet-18 x{args.width:g}, "
          f"load {os.getloadavg()[0]:.1f} at the start; images/s, best of {args.steps}")
    regimes = [tuple(map(int, r.split(","))) for r in args.regimes]
    if args.profile:
        show_profile(regimes, args)
        return
    base = {"width": args.width, "clients": 5, "batch_size": 20}
    at = {"steps": args.steps, "threads": args.threads}
    ceiling = {p: measure("convolutions", {**base, "precision": p}, **at)["flops_per_second"] for p in ("fp32", "bf16")}
    bandwidth = measure("bandwidth", {}, **at)["bytes_per_second"]
    print(f"plain convolutions at batch 100: {ceiling['fp32'] / 1e9:.0f} GFLOP/s fp32, {ceiling['bf16'] / 1e9:.0f} bf16; copying: "
          f"{bandwidth / 1e9:.1f} GB/s")
    print(f"{'(N, active, B)':>15} {'cut':>4} | {'plain':>7} | MocoSFL fp32 | MocoSFL bf16 | share of (c)")
    lines = []
    for regime in regimes:
        for cut in args.cuts:
            lines.append(row(regime, cut, args))
            show(lines[-1], ceiling, bandwidth)
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump({"ceiling": ceiling, "bandwidth": bandwidth, "lines": lines}, file, indent=1)


if __name__ == "__main__":
    main()
