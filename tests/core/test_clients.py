"""The client store, the streams of images, and cohorts."""

from pathlib import Path

import pytest
import torch

from ssl_split.clients import ClientStore, choose_engine
from ssl_split.data.cohort import Streams, draw_cohort, steps_per_round


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
