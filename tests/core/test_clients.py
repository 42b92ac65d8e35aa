"""The client store, the streams of images, and cohorts."""

from pathlib import Path

import pytest
import torch

from ssl_split import config as configuration
from ssl_split import tree as trees
from ssl_split.clients import CLIENTS_PER_THREAD, Clients, ClientStore, choose_engine
from ssl_split.data.cohort import Streams, draw_cohort, steps_per_round
from ssl_split.models.split import build
from ssl_split.tree import Tree


@pytest.mark.parametrize("limit", [10**9, 100, 0])
def test_store_returns_what_was_put_in_memory_or_in_a_file(limit: int, tmp_path: Path) -> None:
    """Rows of 80 bytes: all in memory, one in memory and two in files, all in files."""
    store = ClientStore(limit_bytes=limit, folder=tmp_path / "rows")
    rows = {k: torch.randn(20, generator=torch.Generator().manual_seed(k)) for k in (3, 7, 900)}
    for k, row in rows.items():
        store.put("momentum", k, row)
    store.put("momentum", 7, rows[7] * 2)
    assert ("momentum", 8) not in store
    assert torch.equal(store.get("momentum", 3), rows[3])
    assert torch.equal(store.get("momentum", 7), rows[7] * 2)
    assert store.changed == {("momentum", 3), ("momentum", 7), ("momentum", 900)}
    assert (tmp_path / "rows").exists() == (limit < 240)
    store.drop("momentum")
    assert not list(store.keys())
    assert not store.changed


def test_store_keeps_a_copy() -> None:
    store, row = ClientStore(), torch.zeros(4)
    store.put("velocity", 0, row)
    row.fill_(1)
    assert store.get("velocity", 0).sum() == 0


def test_streams_are_passes_joined_end_to_end() -> None:
    """Every pass holds each image once; taking 5 at a time from 7 images gives the same stream as taking 1 at a time."""
    parts = [torch.arange(7), torch.arange(100, 103)]
    streams = Streams(parts, seed=0)
    by_five = torch.cat([streams.take(0, start, 5) for start in range(0, 35, 5)])
    by_one = torch.cat([Streams(parts, seed=0).take(0, start, 1) for start in range(35)])
    assert torch.equal(by_five, by_one)
    passes = by_five.view(5, 7)
    assert all(torch.equal(p.sort().values, parts[0]) for p in passes)
    assert len({tuple(p.tolist()) for p in passes}) > 1
    assert set(streams.take(1, 0, 8).tolist()) == {100, 101, 102}
    assert not torch.equal(Streams(parts, seed=1).take(0, 0, 7), passes[0])


def test_b_that_divides_d_gives_one_pass_per_round() -> None:
    parts = [torch.arange(12)] * 3
    steps = steps_per_round([12] * 3, 4)
    assert steps == 3
    taken = torch.cat([Streams(parts, seed=0).take(1, 4 * step, 4) for step in range(steps)])
    assert torch.equal(taken.sort().values, parts[1])


@pytest.mark.parametrize(("sizes", "batch", "epochs", "expected"), [
    ([10000] * 5, 20, 1, 500), ([2500] * 20, 20, 1, 125), ([50] * 1000, 1, 1, 50), ([3, 50], 20, 1, 1), ([30, 50], 20, 5, 10),
    ([1], 20, 1, 1)])
def test_steps_per_round(sizes: list[int], batch: int, epochs: int, expected: int) -> None:
    assert steps_per_round(sizes, batch, local_epochs=epochs) == expected


def test_cohorts_have_no_client_twice_and_all_join_in_order() -> None:
    drawn = [draw_cohort(50, 10, seed=0, round=r) for r in range(20)]
    assert all(len(set(c.tolist())) == 10 and c.max() < 50 for c in drawn)
    assert len({tuple(c.tolist()) for c in drawn}) == 20
    assert torch.equal(drawn[3], draw_cohort(50, 10, seed=0, round=3))
    assert draw_cohort(4, 4, seed=0, round=1).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(("engine", "clients", "device", "expected"), [
    ("auto", 100, "cpu", "loop"), ("auto", 100, "cuda", "fused"), ("auto", 5, "cuda", "loop"), ("fused", 5, "cpu", "fused"),
    ("loop", 100, "cuda", "loop")])
def test_engine(engine: str, clients: int, device: str, expected: str) -> None:
    assert choose_engine(engine, torch.nn.Linear(2, 2), clients=clients, device=torch.device(device)) == expected


def _passed(threads: int, *, bf16: bool) -> tuple[torch.Tensor, Tree, bool]:
    """Smashed data and gradients of nine clients with weights of their own; whether each core had its own clients."""
    half = build(configuration.from_dict({"width": 0.125, "cut": 5}), image_size=16).client
    before, generator = torch.get_num_threads(), torch.Generator().manual_seed(0)
    torch.set_num_threads(threads)
    try:
        weights = trees.repeat(trees.gather(half), 9)
        weights.flat.add_(torch.randn(weights.flat.shape, generator=generator) * 0.01)
        gradients = trees.zeros(weights.layout, 9, like=weights.flat)
        clients = Clients(half, weights, gradients=gradients)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            outputs = clients.forward(torch.randn(9, 2, 3, 16, 16, generator=generator))
            with torch.no_grad():
                assert not any(o.requires_grad for o in clients.forward(torch.zeros(9, 1, 3, 16, 16)))
        joined = torch.cat(outputs).detach().float()
        clients.backward(outputs, torch.cat(outputs).detach() * 0.1)
        return joined, gradients, clients._pool is not None
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("bf16", [False, True])
def test_cores_with_clients_of_their_own_change_no_bit(bf16: bool) -> None:
    """Operations on one client run on one core either way."""
    assert CLIENTS_PER_THREAD * 2 <= 9
    (one, one_gradients, shared), (two, two_gradients, own) = _passed(1, bf16=bf16), _passed(2, bf16=bf16)
    assert (shared, own) == (False, True)
    assert torch.equal(one, two)
    assert torch.equal(one_gradients.flat, two_gradients.flat)
    assert (one_gradients.flat.abs().sum(1) > 0).all()


def test_standardising_together_changes_nothing() -> None:
    """Each client alone, through its own module, in float64."""
    half = build(configuration.from_dict({"width": 0.125, "cut": 5}), image_size=16).client
    weights = trees.repeat(trees.gather(half, dtype=torch.float64), 3)
    weights.flat.add_(torch.randn(weights.flat.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.01)
    x = torch.randn(3, 2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    together, alone = (trees.zeros(weights.layout, 3, like=weights.flat) for _ in range(2))
    clients = Clients(half, weights, gradients=together)
    outputs = clients.forward(x)
    clients.backward(outputs, torch.cat(outputs).detach())
    single = Clients(half, weights, gradients=alone)
    for k in range(3):
        output = single.module(k)(x[k])
        output.backward(output.detach())
        torch.testing.assert_close(outputs[k], output, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(together.flat, alone.flat, rtol=1e-9, atol=1e-11)
