"""Distance correlation against a loop, its known values, and its gradient on the client alone."""

import pytest
import supervised
import torch

from ssl_split.defences.nopeek import distance_correlation


def slow(x: torch.Tensor, z: torch.Tensor) -> float:
    """Szekely, Rizzo and Bakirov (2007), definition 4, entry by entry."""
    def centred(rows: torch.Tensor) -> list[list[float]]:
        n = len(rows)
        d = [[float((rows[i] - rows[j]).norm()) for j in range(n)] for i in range(n)]
        means = [sum(row) / n for row in d]
        whole = sum(means) / n
        return [[d[i][j] - means[i] - means[j] + whole for j in range(n)] for i in range(n)]

    def product(a: list[list[float]], b: list[list[float]]) -> float:
        return sum(p * q for r, s in zip(a, b, strict=True) for p, q in zip(r, s, strict=True)) / len(a) ** 2

    a, b = centred(x.flatten(1)), centred(z.flatten(1))
    return (product(a, b) / (product(a, a) * product(b, b)) ** 0.5) ** 0.5


def test_against_the_loop() -> None:
    x, z = (torch.randn(7, *s, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i, s in enumerate([(3, 4, 4), (5, 2)]))
    assert distance_correlation(x, z).item() == pytest.approx(slow(x, z), rel=1e-9)


def test_known_values() -> None:
    """1 for a scaled and rotated copy, 0 where nothing varies; the gradient is finite even for equal images."""
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)).Q
    assert distance_correlation(x, 3 * x @ rotation + 1).item() == pytest.approx(1, abs=1e-9)
    z = torch.ones(6, 4, dtype=torch.float64, requires_grad=True)
    found = distance_correlation(x, z)
    assert found.item() < 1e-5
    found.backward()
    assert z.grad is not None
    assert bool(torch.isfinite(z.grad).all())


@pytest.mark.parametrize("algorithm", ["sfl_v1", "minibatch_sfl"])
def test_one_step_is_the_task_and_the_clients_own_loss(algorithm: str) -> None:
    """One client, one step, against plain autograd of cross-entropy + alpha dCor(x, f(x)); the server's half sees the task alone."""
    fields = {"algorithm": algorithm, "defence": "nopeek", "nopeek": {"alpha": 2.0}, "clients": 1, "local_steps": 1, "momentum": 0.0,
              "weight_decay": 0.0, "batch_size": 4}
    trial = supervised.Trial(supervised.small(**fields), sizes=[4])
    network = supervised.build(trial.config, image_size=16, classes=supervised.CLASSES).double()
    trial.rounds(1)
    x, y = supervised.draw(0, 0, 4)
    z = network.client(x)
    loss = torch.nn.functional.cross_entropy(network.server(z), y) + 2.0 * distance_correlation(x, z)
    loss.backward()
    expected = {k: p.detach() - 0.05 * p.grad for k, p in network.named_parameters()}  # type: ignore[operator]
    supervised.same({k: v for k, v in trial.weights().items() if k in expected}, expected)
