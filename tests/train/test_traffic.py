"""Traffic in closed form against the published tables."""

import pytest

from ssl_split import config as configuration
from ssl_split.traffic import MIB, published_mocosfl, split_ssl_bytes

RESNET18 = {1: (65536, 1856), 3: (65536, 75840), 5: (65536, 149824), 7: (32768, 379968), 9: (32768, 675392), 11: (16384, 1594432),
            13: (16384, 2775104), 15: (8192, 6448192), 17: (8192, 11168832)}  # h, c


def _published(cut: int, epochs: float, s: float, images: float) -> float:
    h, c = RESNET18[cut]
    return sum(published_mocosfl(epochs, s, images, c, h)) / MIB


def test_table_1_of_mocosfl_to_the_printed_digit() -> None:
    rows = {"FL-SSL": published_mocosfl(500, 5, 0, 21677121, 0), "MocoSFL-1": published_mocosfl(200, 1, 50, 1856, 65536),
            "MocoSFL-3": published_mocosfl(200, 1, 50, 75840, 65536)}
    printed = {"FL-SSL": ("8269.2", "0.0", "8269.2"), "MocoSFL-1": ("1.4", "5000.0", "5001.4"),
               "MocoSFL-3": ("57.9", "5000.0", "5057.9")}
    for name, (weights, latents) in rows.items():
        assert tuple(f"{x / MIB:.1f}" for x in (weights, latents, weights + latents)) == printed[name]
    with_bottleneck = published_mocosfl(200, 1, 50, 0, 1024)[1] / 2 / MIB  # TAResSFL: frozen client, activations only
    assert with_bottleneck == 39.0625


@pytest.mark.parametrize(("clients", "syncs", "images", "expected"), [
    (1000, 1, 50, [5001.4, 5057.9, 5114.3, 2789.9, 3015.3, 2466.5, 3367.2, 5544.6, 9146.1]),
    (200, 5, 250, [25007.1, 25289.3, 25571.5, 13949.5, 15076.4, 12332.3, 16836.2, 27722.9, 45730.7]),
    (20, 10, 2500, [250014.2, 250578.6, 251143.1, 127898.9, 130152.8, 74664.6, 83672.4, 80445.8, 116461.4]),
    (5, 10, 10000, [1000014.2, 1000578.6, 1001143.1, 502898.9, 505152.8, 262164.6, 271172.4, 174195.8, 210211.4])])
def test_published_formula_at_every_cut(clients: int, syncs: int, images: int, expected: list[float]) -> None:
    assert [round(_published(cut, 200, 1 / syncs, images), 1) for cut in RESNET18] == expected


@pytest.mark.parametrize(("algorithm", "symmetric", "expected"), [
    ("mocosfl", "original", [7502.8, 7615.7, 7728.6, 4329.8, 4780.6, 4307.9, 6109.5, 10776.7, 17979.8]),
    ("monacosfl", "original", [7505.7, 7731.4, 7957.2, 4909.6, 5811.1, 6740.8, 10343.9, 20615.8, 35022.1]),
    ("mocosfl", "stacked", [15002.8, 15115.7, 15228.6, 8079.8, 8530.6, 6182.9, 7984.5, 11714.2, 18917.3]),
    ("monacosfl", "stacked", [15005.7, 15231.4, 15457.2, 8659.6, 9561.1, 8615.8, 12218.9, 21553.3, 35959.6])])
def test_true_totals_of_1000_clients(algorithm: str, symmetric: str, expected: list[float]) -> None:
    """200 participating epochs of 50 steps of one image, one sync each (spec: how the true count differs)."""
    config = configuration.from_dict({"algorithm": algorithm, "symmetric": symmetric, "batch_size": 1, "syncs_per_round": 1})
    totals = [200 * sum(split_ssl_bytes(config, steps=50, h=h, c=c).values()) / MIB for h, c in RESNET18.values()]
    assert [round(t, 1) for t in totals] == expected


def test_true_totals_of_5_clients() -> None:
    config = configuration.from_dict({"algorithm": "monacosfl", "symmetric": "stacked", "batch_size": 20, "syncs_per_round": 10})
    totals = [200 * sum(split_ssl_bytes(config, steps=500, h=h, c=c).values()) / MIB for h, c in RESNET18.values()]
    assert [round(t, 1) for t in totals] == [
        3000056.6, 3002314.5, 3004572.3, 1511595.7, 1520611.3, 798658.2, 834689.5, 571783.2, 715845.7]
