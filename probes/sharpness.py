"""How sharp the minimum is that a supervised run has found: curvature, and the loss at a distance.

* Largest eigenvalue of the Hessian of the mean cross-entropy over all weights, by power iteration with Hessian-vector products (double
  backward passes). It is the eigenvalue largest in magnitude; a negative one is said as such.
* Loss at distance rho uphill, L(w + rho g / ||g||), as SAM sees it (Foret et al., ICLR 2021, eq. 2), and the mean over random directions.

Un-augmented training images, eval mode, float32 or float64. No measure of generalisation by itself: rescaling weights changes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from probes import bench
from ssl_split import fields, rng, run
from ssl_split.data.imageset import ImageSet, Triple, to_input
from ssl_split.display import progress
from ssl_split.fields import field

BATCH = 128
"""Images per pass."""


@dataclass(frozen=True)
class Options(bench.Target):
    """Options of the sharpness measurement."""

    images: int = field(1000, "training images, drawn with the seed", low=1, section="measurement")
    rho: float = field(0.05, "distance at which the loss is taken", above=0)
    iterations: int = field(30, "most Hessian-vector products", low=1)
    tolerance: float = field(1e-3, "relative change of the eigenvalue at which the iteration ends", above=0)
    directions: int = field(5, "random directions", low=1)
    seed: int = field(0, "of images and directions", low=0)
    device: str = field("auto", "auto, cpu, cuda or cuda:N")


class Landscape:
    """The mean cross-entropy of a network on some images as a function of its weights."""

    def __init__(self, network: nn.Module, images: ImageSet, *, mean: Triple, std: Triple) -> None:
        """
        Args:
            network: In eval mode, on its device; its weights are moved and put back.
            images: Labelled.
            mean, std: Constants of the normalisation.
        """
        self.network, self.images, self._constants = network, images, (mean, std)
        self.weights = [p for p in network.parameters() if p.requires_grad]

    def _batches(self) -> list[tuple[Tensor, Tensor]]:
        assert self.images.labels is not None
        like = self.weights[0]
        pairs = zip(self.images.images.split(BATCH), self.images.labels.split(BATCH), strict=True)
        return [(to_input(x.to(like.device), *self._constants, like.dtype), y.to(like.device)) for x, y in pairs]

    def _sum(self, of: Callable[[Tensor], list[Tensor]]) -> list[Tensor]:
        """Sum over batches of what `of` makes of each batch's share of the mean loss."""
        total: list[Tensor] = []
        for x, y in self._batches():
            with torch.enable_grad():
                found = of(functional.cross_entropy(self.network(x), y, reduction="sum") / len(self.images))
            total = [a + b for a, b in zip(total, found, strict=True)] if total else found
        return total

    def loss(self) -> float:
        """At the weights as they are."""
        return float(self._sum(lambda loss: [loss.detach()])[0])

    def gradient(self) -> list[Tensor]:
        """Of each weight tensor."""
        return self._sum(lambda loss: list(torch.autograd.grad(loss, self.weights)))

    def hessian_times(self, vector: Sequence[Tensor]) -> list[Tensor]:
        """H v, by differentiating g . v."""
        def product(loss: Tensor) -> list[Tensor]:
            first = torch.autograd.grad(loss, self.weights, create_graph=True)
            along = torch.stack([(g * v).sum() for g, v in zip(first, vector, strict=True)]).sum()
            found = torch.autograd.grad(along, self.weights, allow_unused=True)
            return [torch.zeros_like(w) if f is None else f for w, f in zip(self.weights, found, strict=True)]

        return self._sum(product)

    def loss_at(self, direction: Sequence[Tensor], distance: float) -> float:
        """At so far along a direction, whatever its length."""
        kept, scale = [w.detach().clone() for w in self.weights], distance / (_norm(direction) + 1e-12)
        with torch.no_grad():
            for w, d in zip(self.weights, direction, strict=True):
                w.add_(d, alpha=scale)
        found = self.loss()
        with torch.no_grad():
            for w, old in zip(self.weights, kept, strict=True):
                w.copy_(old)
        return found

    def random_direction(self, seed: int, number: int) -> list[Tensor]:
        """Normal numbers."""
        g = rng.generator(seed, "sharpness direction", number)
        return [torch.randn(w.shape, generator=g).to(w) for w in self.weights]

    def largest_eigenvalue(self, *, iterations: int, tolerance: float, seed: int, advance: Callable[[int], object] | None = None
                           ) -> tuple[float, float]:
        """Power iteration.

        Returns:
            The eigenvalue (Rayleigh quotient) that is largest in magnitude, and its last relative change.
        """
        vector = self.random_direction(seed, 0)
        value, change = 0.0, float("inf")
        for _ in range(iterations):
            length = _norm(vector)
            vector = [v / length for v in vector]
            image = self.hessian_times(vector)
            before, value = value, sum(float((v * h).sum()) for v, h in zip(vector, image, strict=True))
            change = abs(value - before) / max(abs(value), 1e-12)
            if advance is not None:
                advance(1)
            if change < tolerance or _norm(image) == 0:
                break
            vector = image
        return value, change


def _norm(parts: Sequence[Tensor]) -> float:
    return float(torch.stack([p.square().sum() for p in parts]).sum().sqrt())


def measure(options: Options) -> dict[str, Any]:
    """Curvature and losses of a run; the contents of `result.json`.

    Raises:
        ValueError: the run has no classifier.
    """
    checkpoint = run.open_checkpoint(options.checkpoint, which=options.which, out=options.out)
    if not checkpoint.config.supervised:
        raise ValueError(f"{checkpoint.run_dir.name} has no classifier, so there is no cross-entropy: {checkpoint.config.algorithm} trains "
                         "without labels")
    numbers = {k: v for k, v in fields.to_dict(options).items() if k not in ("checkpoint", "which", "out", "data_dir", "device")}
    folder = run.result_dir(checkpoint.run_dir, "measures", "sharpness", {**numbers, "checkpoint": checkpoint.reference})
    if (known := bench.known(folder / "result.json")) is not None:
        return {**known, "path": str(folder / "result.json")}
    dataset = checkpoint.dataset(options.data_dir)
    bench.labelled(dataset)
    chosen = torch.randperm(len(dataset.train), generator=rng.generator(options.seed, "sharpness images"))[: options.images]
    network = checkpoint.network().to(bench.device(options.device)).eval()
    land = Landscape(network, dataset.train.select(chosen), mean=dataset.mean, std=dataset.std)
    with progress(options.iterations, "Hessian-vector products") as bar:
        value, change = land.largest_eigenvalue(iterations=options.iterations, tolerance=options.tolerance, seed=options.seed,
                                                advance=bar.advance)
    at = [land.loss_at(land.random_direction(options.seed, 1 + i), options.rho) for i in range(options.directions)]
    made = {"kind": "measure", "name": "sharpness", "loss": land.loss(), "largest_eigenvalue": value, "relative_change": change,
            "converged": change < options.tolerance, "loss_uphill": land.loss_at(land.gradient(), options.rho),
            "loss_random_mean": sum(at) / len(at), "images": len(chosen), "options": numbers, "checkpoint": checkpoint.reference,
            "environment": run.environment(), "command": run.command_line()}
    run.write_json(folder / "result.json", made)
    return {**made, "path": str(folder / "result.json")}


def main(argv: Sequence[str]) -> None:
    """`python -m probes.sharpness`."""
    options = bench.options(Options, argv, "python -m probes.sharpness", description=__doc__ or "", epilog=(
        "examples:\n"
        "  python -m probes.sharpness --checkpoint runs/RUN\n"
        "  python -m probes.sharpness --checkpoint runs/RUN --images 5000 --rho 0.1\n\n"
        "writes RUN/measures/sharpness-HASH/result.json"))
    found = measure(options)
    note = "" if found["converged"] else f" (not converged: last relative change {found['relative_change']:.1e}; raise --iterations)"
    print(f"largest eigenvalue of the Hessian {found['largest_eigenvalue']:.4g}{note}\n"
          f"loss {found['loss']:.4f}; at distance {options.rho:g}: uphill {found['loss_uphill']:.4f}, in random directions "
          f"{found['loss_random_mean']:.4f}\nOn {found['images']} training images. A sharpness compares runs of one network and "
          f"normalisation only.\nresult: {found['path']}")


if __name__ == "__main__":
    raise SystemExit(fields.command(main))
