"""MocoSFL, MonAcoSFL and centralised MoCo against a slow reference, against each other, and against closed forms, in float64."""

import pytest
import torch
from harness import Trial, small
from plain import Plain

from ssl_split.algorithms.split.mocosfl import sync_steps
from ssl_split.traffic import split_ssl_bytes

CUTS = [1, 9, 17]


def _assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert len(a) > 0
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-9, atol=1e-11, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("algorithm", ["mocosfl", "monacosfl"])
@pytest.mark.parametrize("symmetric", ["none", "original", "stacked"])
@pytest.mark.parametrize("cut", CUTS)
def test_stacked_clients_equal_the_plain_way(algorithm: str, symmetric: str, cut: int) -> None:
    """Six steps with syncs at 2, 4 (end of round) and 6: losses, online and momentum weights of every client, and the queue."""
    trial = Trial(small(algorithm=algorithm, symmetric=symmetric, cut=cut))
    plain = Plain(trial.config, trial.setup.network, trial.state.tensors["queue"], total_steps=8)
    for step in range(6):
        views = trial.views()
        assert trial.step()["loss"] == pytest.approx(plain.step(*views), rel=1e-10)
        if step % 2:
            plain.sync(momentum=algorithm == "monacosfl")
    for kind, modules in (("online", plain.online), ("momentum", plain.momentum)):
        for k, module in enumerate(modules):
            row = trial.state.trees[f"cohort.{kind}"].row(k)
            _assert_same({n: row[n] for n in row}, {n: p.data for n, p in module.named_parameters()})
    server = trial.state.trees["server.momentum"]
    _assert_same(dict(server), {n: p.data for n, p in plain.momentum_server.named_parameters()})
    torch.testing.assert_close(trial.state.tensors["queue"].roll(-trial.state.counters["queue_head"], 0), plain.queue)


@pytest.mark.parametrize("cut", [0, *CUTS, "full"])
def test_one_client_is_centralised_moco(cut: int | str) -> None:
    split = Trial(small(algorithm="mocosfl", clients=1, cut=cut))
    whole = Trial(small(algorithm="moco", clients=1, cut=cut))
    assert split.run(6) == pytest.approx(whole.run(6), rel=1e-9)
    split.algorithm._sync(split.state, split.wire)  # the averaged client half is what is compared
    _assert_same(split.weights(), whole.weights())


@pytest.mark.slow
@pytest.mark.parametrize("cut", [3, 5, 7, 11, 13, 15])
def test_one_client_is_centralised_moco_at_the_other_cuts(cut: int) -> None:
    test_one_client_is_centralised_moco(cut)


@pytest.mark.parametrize("cut", CUTS)
def test_one_client_makes_monacosfl_mocosfl(cut: int) -> None:
    a, b = (Trial(small(algorithm=name, clients=1, cut=cut)) for name in ("mocosfl", "monacosfl"))
    assert a.run(8) == b.run(8)


def test_monacosfl_without_a_momentum_sync_is_mocosfl() -> None:
    a = Trial(small(algorithm="mocosfl", cut=9))
    b = Trial(small(algorithm="monacosfl", cut=9, monacosfl={"every_syncs": 100}))
    assert a.run(8) == b.run(8)
    assert Trial(small(algorithm="mocosfl", cut=9)).run(8) != Trial(small(algorithm="monacosfl", cut=9)).run(8)


@pytest.mark.parametrize("symmetric", ["none", "original", "stacked"])
def test_at_cut_0_all_are_centralised_moco_on_the_concatenated_batches(symmetric: str) -> None:
    runs = {name: Trial(small(algorithm=name, cut=0, symmetric=symmetric)) for name in
            ("mocosfl", "monacosfl", "moco")}
    losses = {name: trial.run(6) for name, trial in runs.items()}
    assert losses["mocosfl"] == pytest.approx(losses["moco"], rel=1e-9)
    assert losses["mocosfl"] == losses["monacosfl"]
    _assert_same(runs["mocosfl"].weights(), runs["moco"].weights())


@pytest.mark.parametrize("cut", CUTS)
def test_sync_every_step_with_local_mean_is_centralised_sgd(cut: int) -> None:
    """Without momentum the mean of the clients' steps on their own mean losses is the step on the union batch."""
    common = {"momentum": 0.0, "client_grad_scale": "local_mean", "syncs_per_round": 4, "cut": cut}
    split, whole = Trial(small(algorithm="monacosfl", **common)), Trial(small(algorithm="moco", **common))
    assert split.run(8) == pytest.approx(whole.run(8), rel=1e-9)
    _assert_same(split.weights(), whole.weights())


def test_global_mean_scales_the_client_gradient_by_one_over_p() -> None:
    """After one step the client moved P times less than with local_mean (no momentum, no weight decay)."""
    moved = {}
    for scale in ("global_mean", "local_mean"):
        trial = Trial(small(algorithm="mocosfl", cut=9, momentum=0.0, weight_decay=0.0, client_grad_scale=scale))
        before = trial.state.trees["cohort.online"].flat.clone()
        trial.run(1)
        moved[scale] = trial.state.trees["cohort.online"].flat - before
    torch.testing.assert_close(3 * moved["global_mean"], moved["local_mean"], rtol=1e-9, atol=1e-12)


def test_after_a_sync_momentum_clients_are_equal_only_in_monacosfl() -> None:
    spread = {}
    for name in ("mocosfl", "monacosfl"):
        trial = Trial(small(algorithm=name, cut=13))
        trial.run(2)
        rows = trial.state.trees["cohort.momentum"].flat
        spread[name] = (rows - rows[0]).abs().max().item()
        online = trial.state.trees["cohort.online"].flat
        assert (online - online[0]).abs().max() == 0
    assert spread["monacosfl"] == 0
    assert spread["mocosfl"] > 1e-8


def test_align_online_makes_the_distance_zero_and_costs_no_bytes() -> None:
    trial = Trial(small(algorithm="monacosfl", cut=13, monacosfl={"align": "online"}))
    trial.run(2)
    assert torch.equal(trial.state.trees["cohort.momentum"].flat, trial.state.trees["cohort.online"].flat)
    trial.run(6)
    sent = trial.state.ledger.bytes()
    assert sent["up"]["ema_up"] == sent["down"]["ema_down"] == 0
    assert sent["up"]["model_up"] > 0


def test_every_second_sync_aligns_every_second_time() -> None:
    trial = Trial(small(algorithm="monacosfl", cut=13, monacosfl={"every_syncs": 2}))
    equal = []
    for _ in range(4):
        trial.run(2)
        rows = trial.state.trees["cohort.momentum"].flat
        equal.append(bool((rows - rows[0]).abs().max() == 0))
    assert equal == [False, True, False, True]


@pytest.mark.parametrize("symmetric", ["none", "stacked"])
@pytest.mark.parametrize(("clients", "per_round"), [(3, None), (4, 2)])
@pytest.mark.parametrize("algorithm", ["mocosfl", "monacosfl"])
@pytest.mark.parametrize("cut", CUTS)
def test_ledger_is_the_closed_form(cut: int, algorithm: str, clients: int, per_round: int | None, symmetric: str) -> None:
    """Two rounds; with 2 of 4 drawn in turn each client takes part once."""
    config = small(algorithm=algorithm, cut=cut, clients=clients, clients_per_round=per_round, symmetric=symmetric)
    trial = Trial(config)
    trial.run(8)
    h = torch.Size(trial.setup.network.smashed_shape).numel()
    expected = split_ssl_bytes(config, steps=4, h=h, c=sum(p.numel() for p in trial.setup.network.client.parameters()))
    rounds_times_clients = 2 * config.cohort_size
    sent = trial.state.ledger.bytes()
    assert {**sent["up"], **sent["down"]} == {kind: n * rounds_times_clients for kind, n in expected.items()}


def test_broadcast_trains_alike_and_charges_every_client() -> None:
    lazy, broadcast = (Trial(small(algorithm="monacosfl", cut=9, clients=4, clients_per_round=2, wire={"model_traffic": traffic}))
                       for traffic in ("lazy", "broadcast"))
    assert lazy.run(8) == broadcast.run(8)
    c = sum(p.numel() for p in lazy.setup.network.client.parameters())
    assert lazy.state.ledger.bytes()["down"]["model_down"] == 2 * 2 * 2 * 4 * c  # rounds, members, syncs, bytes
    assert broadcast.state.ledger.bytes()["down"]["model_down"] == 2 * 4 * 2 * 4 * c  # rounds, all clients, syncs, bytes
    assert broadcast.state.ledger.bytes()["down"]["ema_down"] == 2 * 4 * 2 * 4 * c


@pytest.mark.parametrize(("steps", "syncs"), [(125, 10), (4, 2), (3, 10), (1, 1), (500, 500)])
def test_exactly_s_syncs_and_the_last_ends_the_round(steps: int, syncs: int) -> None:
    at = sync_steps(steps, syncs)
    assert len(at) == min(steps, syncs)
    assert max(at) == steps
    assert min(at) >= 1


def test_queue_holds_the_last_keys_in_order() -> None:
    """24 places, 6 keys a step: after 7 steps the places hold steps 3 to 6 (wrap-around)."""
    trial, seen = Trial(small(algorithm="mocosfl", cut=1)), []
    original = trial.algorithm._enqueue
    trial.algorithm._enqueue = lambda state, keys: (seen.extend(keys), original(state, keys))[1]
    trial.run(7)
    last = torch.cat(seen)[-24:]
    torch.testing.assert_close(trial.state.tensors["queue"].roll(-trial.state.counters["queue_head"], 0), last)
    assert trial.state.counters["queue_head"] == 7 * 6 % 24


def test_per_client_queues_follow_the_place_in_the_cohort() -> None:
    """With P queues of K / P keys, queue p holds only keys of the p-th member, whoever that is."""
    trial, seen = Trial(small(algorithm="mocosfl", cut=1, queue="per_client", clients=4, clients_per_round=2)), []
    original = trial.algorithm._enqueue
    trial.algorithm._enqueue = lambda state, keys: (seen.extend(k.view(2, 2, -1) for k in keys), original(state, keys))[1]
    trial.run(8)
    queue, head = trial.state.tensors["queue"], trial.state.counters["queue_head"]
    assert queue.shape == (2, 12, 8)
    torch.testing.assert_close(queue.roll(-head, 1), torch.cat(seen, 1)[:, -12:])


def test_private_rows_wait_for_their_client() -> None:
    """A client outside the cohort keeps a stale momentum encoder and its SGD momentum until it is drawn again."""
    trial = Trial(small(algorithm="mocosfl", cut=9, clients=4, clients_per_round=2, rounds=4))
    trial.run(4)
    kept = trial.state.store.get("momentum", 0).clone(), trial.state.store.get("velocity", 0).clone()
    trial.run(4)  # clients 2 and 3
    assert torch.equal(trial.state.store.get("momentum", 0), kept[0])
    trial.algorithm.begin_round(trial.state, torch.tensor([0, 1]), trial.wire)
    assert torch.equal(trial.state.trees["cohort.momentum"].flat[0], kept[0])
    assert torch.equal(trial.state.trees["cohort.velocity"].flat[0], kept[1])
    assert len(list(trial.state.store.keys())) == 8


def test_monacosfl_keeps_no_private_momentum_after_an_aligned_round() -> None:
    trial = Trial(small(algorithm="monacosfl", cut=9, clients=4, clients_per_round=2))
    trial.run(4)
    assert {kind for kind, _ in trial.state.store.keys()} == {"velocity"}  # noqa: SIM118


def test_data_weights_equal_uniform_ones_for_equal_clients_and_not_else() -> None:
    uniform = Trial(small(algorithm="monacosfl", cut=9)).run(6)
    assert Trial(small(algorithm="monacosfl", cut=9, weighting="data")).run(6) == pytest.approx(uniform, rel=1e-9)
    uneven = Trial(small(algorithm="monacosfl", cut=9, weighting="data"), sizes=[2, 8, 14]).run(6)
    assert uneven != pytest.approx(uniform, rel=1e-9)


def test_published_pool_average_puts_client_0_in_place_of_the_first_member() -> None:
    """Cohort {2, 3}: client 0 is outside, so the mean is over its stale weights and client 3's."""
    trial = Trial(small(algorithm="mocosfl", cut=9, clients=4, clients_per_round=2, published_pool_average=True, rounds=4))
    trial.run(4)
    stale = trial.state.trees["client.online"].flat.clone()
    trial.run(1)
    rows = trial.state.trees["cohort.online"].flat.clone()
    average = trial.algorithm._average(trial.state, trial.state.trees["cohort.online"], trial.state.trees["client.online"],
                                       torch.ones(2, dtype=torch.bool))
    torch.testing.assert_close(average.flat, (stale + rows[1]) / 2)


def test_published_client_schedule_swings() -> None:
    rates = [Trial(small(algorithm="mocosfl", cut=1, rounds=4, published_client_schedule=True)).algorithm._rates(s)[0] for s in (0, 4, 8)]
    assert rates == pytest.approx([0.06, 0.0, 0.06])


@pytest.mark.parametrize("symmetric", ["none", "stacked"])
def test_fused_engine_agrees_with_the_loop(symmetric: str) -> None:
    loop, fused = (Trial(small(algorithm="monacosfl", cut=9, engine=engine, symmetric=symmetric)) for engine in ("loop", "fused"))
    assert loop.run(5) == pytest.approx(fused.run(5), rel=1e-9)
    _assert_same(loop.weights(), fused.weights())
    assert loop.state.ledger.bytes() == fused.state.ledger.bytes()


def test_batchnorm_statistics_are_averaged_like_weights() -> None:
    trial = Trial(small(algorithm="monacosfl", cut=9, norm="batch"))
    trial.run(1)
    rows = trial.state.trees["cohort.online"]
    name = next(n for n in rows if n.endswith("running_mean"))
    assert (rows[name][0] - rows[name][1]).abs().max() > 0
    expected = trial.state.trees["cohort.online"].flat.clone()
    trial.run(1)
    shared = trial.state.trees["client.online"][name]
    assert (trial.state.trees["cohort.online"][name] - shared).abs().max() == 0
    assert not torch.equal(expected, trial.state.trees["cohort.online"].flat)


def test_engine_fused_refuses_batchnorm() -> None:
    with pytest.raises(ValueError, match="running statistics"):
        Trial(small(algorithm="mocosfl", cut=9, norm="batch", engine="fused"))


@pytest.mark.parametrize("codec", ["fp16", "bf16", "int8", "int8_channel"])
def test_codecs_change_what_the_server_learns_from(codec: str) -> None:
    exact = Trial(small(algorithm="monacosfl", cut=9)).run(4)
    wire = dict.fromkeys(("activations", "gradients", "weights", "ema"), codec)
    coded = Trial(small(algorithm="monacosfl", cut=9, wire=wire)).run(4)
    assert coded != exact
    assert coded == pytest.approx(exact, rel=0.1)


def test_divergence_of_hand_made_clients() -> None:
    """Two clients at +d and -d from their mean in every entry: mean squared distance d^2."""
    from ssl_split.algorithms.split.divergence import divergence

    trial = Trial(small(algorithm="mocosfl", cut=1, clients=2))
    online, momentum = trial.state.trees["cohort.online"], trial.state.trees["cohort.momentum"]
    for name in online:
        online[name][0] += 0.5
        online[name][1] -= 0.5
    measured = divergence(online, momentum, torch.tensor([0.5, 0.5], dtype=torch.float64))
    assert measured["online_to_mean"] == pytest.approx(0.25)
    assert measured["online_to_momentum"] == pytest.approx(0.25)
    assert measured["momentum_to_mean"] == pytest.approx(0.0)
    assert measured["online_to_mean_l2"] == pytest.approx(sum(0.5 * online[n][0].numel() ** 0.5 for n in online))
