"""What is released: against slow references, in bytes, through every algorithm, and resumed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import harness
import pytest
import supervised
import torch
from test_resume import Killed, _assert_same_end, _die_at
from tiny import tiny

from ssl_split import config as configuration
from ssl_split import train
from ssl_split.channel import KINDS, Channel, Ledger
from ssl_split.config import DEFENCES as NAMES
from ssl_split.config import SUPERVISED, Config, Wire
from ssl_split.defences.api import Place
from ssl_split.defences.compression import Quantise, TopK, kept, pack, unpack
from ssl_split.defences.noise import Dropout, Gaussian, Laplace
from ssl_split.defences.release import Release
from ssl_split.defences.shuffle import Shuffle
from ssl_split.defences.table import DEFENCES, build

Z = torch.randn(3, 4, 5, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)  # (P, B, C, H, W)
WHO = torch.tensor([0, 2, 7])
OWN_WAY = ("sfl_v1", "mu_splitfed", "gas", "mocosfl", "fedsam", "fedmoco")
"""Algorithms that send in ways of their own; the others inherit theirs."""
NEEDED: dict[str, dict[str, Any]] = {
    "shredder": {"client_from": "a", "server_from": "b", "freeze_client": True, "server_lr": 0.0},
    "adversarial": {"client_from": "a"},
}
"""Fields without which a defence is refused."""
OTHERS = tuple(a for a in (*SUPERVISED, "monacosfl", "fedbyol", "fedavg") if a not in (*OWN_WAY, "centralised"))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_table_has_a_row_and_a_section_for_every_name() -> None:
    assert tuple(DEFENCES) == NAMES
    for name in NAMES[1:]:
        assert dataclasses.is_dataclass(getattr(Config(), name))
        made = build(configuration.from_dict({"defence": name, **NEEDED.get(name, {})}))
        assert made.changes_release or made.has_loss or made.changes_update
    assert not build(Config()).changes_release


# --- noise and order ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("defence", "deviation"), [(Gaussian(0.5), 0.5), (Laplace(0.1), 0.1 * 2**0.5)])
def test_noise_is_centred_and_as_wide_as_said(defence: Any, deviation: float) -> None:
    z = torch.zeros(2, 50_000, dtype=torch.float64)
    noise = defence.on_activation(z, z, generator())
    assert noise.mean().abs() < 5 * deviation / 100_000**0.5
    assert noise.std().item() == pytest.approx(deviation, rel=0.02)
    assert not torch.equal(noise, defence.on_activation(z, z, generator(1)))


def test_dropout_zeroes_its_share_without_rescaling() -> None:
    z = torch.ones(2, 50_000, dtype=torch.float64)
    sent = Dropout(0.25).on_activation(z, z, generator())
    assert set(sent.unique().tolist()) == {0.0, 1.0}
    assert sent.mean().item() == pytest.approx(Dropout(0.25).expected(z).mean().item(), abs=0.01)


@pytest.mark.parametrize(("shape", "cell"), [((5, 6, 6), 1), ((5, 6, 6), 3), ((9, 4), 1)])
def test_shuffling_moves_whole_parts(shape: tuple[int, ...], cell: int) -> None:
    """Every part of an image is there once, in an order of its own; gradients find back to where they came from."""
    z = torch.randn(4, *shape, generator=generator(), dtype=torch.float64).requires_grad_()
    defence = Shuffle(cell)
    defence.refuse(shape)
    sent = defence.on_activation(z, z, generator(1))

    def parts(x: torch.Tensor) -> list[list[float]]:
        if x.dim() == 2:
            return sorted(x.tolist())
        cells = x.unfold(1, cell, cell).unfold(2, cell, cell).permute(1, 2, 0, 3, 4).flatten(2).flatten(0, 1)
        return sorted(cells.tolist())

    for before, after in zip(z.detach(), sent.detach(), strict=True):
        assert parts(before) == parts(after)
        assert not torch.equal(before, after)
    sent.square().sum().backward()
    torch.testing.assert_close(z.grad, 2 * z.detach())
    orders = [defence.on_activation(z, z, generator(s)).detach() for s in range(300)]
    torch.testing.assert_close(torch.stack(orders).mean(0), defence.expected(z).detach(), atol=0.35, rtol=0)


@pytest.mark.parametrize(("shape", "message"), [((7,), "tokens or a map"), ((5, 6, 6), "does not divide")])
def test_shuffling_needs_parts(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Shuffle(4).refuse(shape)


# --- encodings -----------------------------------------------------------------------------------------------------------------------


def sent_through(defence: Any, z: torch.Tensor = Z) -> tuple[torch.Tensor, int]:
    """What arrives of what the defence makes of z, and the bytes of a message."""
    ledger = Ledger(8)
    made = torch.stack([defence.on_activation(rows, rows, generator()) for rows in z])
    arrived = Channel(Wire(), ledger).send("act_up", made, WHO, codec=defence.codec)
    messages, raw, encoded = ledger.current[KINDS.index("act_up"), 2].tolist()
    assert (messages, raw) == (1, 4 * z[0].numel())
    return arrived, encoded


@pytest.mark.parametrize("drop", [0.5, 0.6, 0.7, 0.99])
def test_top_k_keeps_an_images_largest_numbers(drop: float) -> None:
    """Slow reference; bytes: four for each value, and one bit for each of the 180 places, or four bytes for each kept one (0.99)."""
    arrived, size = sent_through(TopK(drop))
    k = kept(180, drop)
    assert k == 180 - int(drop * 180)
    for got, image in zip(arrived.flatten(0, 1).flatten(1), Z.flatten(0, 1).flatten(1), strict=True):
        threshold = image.abs().sort(descending=True).values[k - 1]
        torch.testing.assert_close(got, torch.where(image.abs() >= threshold, image, 0.0), rtol=0, atol=0)
    assert size == 4 * (4 * k + (4 * k if 32 * k < 180 else 23))


@pytest.mark.parametrize("bits", [8, 4, 2, 1])
def test_quantisation_errs_by_half_a_step(bits: int) -> None:
    """Bytes of four images: 180 codes packed, and 8 for range."""
    arrived, size = sent_through(Quantise(bits))
    over = (2, 3, 4)
    half = (Z.amax(over, keepdim=True) - Z.amin(over, keepdim=True)) / (2**bits - 1) / 2
    assert ((arrived - Z).abs() <= half * (1 + 1e-5)).all()
    assert (arrived - Z).abs().max() > 0.9 * half.min()
    assert size == 4 * (-(-180 * bits // 8) + 8)
    alone, _ = sent_through(Quantise(bits), Z[:, :1])
    assert torch.equal(alone, arrived[:, :1])  # an image's codes do not depend on its neighbours


@pytest.mark.parametrize("bits", [8, 4, 2, 1])
def test_packing_is_reversible(bits: int) -> None:
    codes = torch.randint(0, 2**bits, (2, 3, 13), generator=generator(), dtype=torch.uint8)
    packed = pack(codes, bits=bits)
    assert packed.shape == (2, 3, -(-13 * bits // 8))
    assert torch.equal(unpack(packed, bits=bits, size=13), codes)


# --- through the algorithms ----------------------------------------------------------------------------------------------------------


SMALL_HEAD = {"hidden": 16, "out": 8}


def run(algorithm: str, rounds: int = 1, **fields: object) -> Any:
    """A trial after its rounds of few steps in float64."""
    if algorithm in ("mocosfl", "monacosfl"):
        made = harness.Trial(harness.small(algorithm=algorithm, **{"cut": 3, **fields}), steps=2)
        made.run(2 * rounds)
        return made
    rate = {"momentum": 0.0, "client_lr": 0.01, "server_lr": 0.01} if algorithm == "mu_splitfed" else {}
    trial = supervised.Trial(supervised.small(algorithm=algorithm, **{"cut": 3, "queue_size": 24, "head": SMALL_HEAD, **rate, **fields}),
                             sizes=[4, 2, 4])
    trial.rounds(rounds)
    return trial


def acts(made: Any) -> int:
    """Bytes of smashed data of all kinds."""
    return sum(v for k, v in made.state.ledger.bytes()["up"].items() if "act_up" in k)


@pytest.mark.parametrize("algorithm", [*OWN_WAY, *(pytest.param(a, marks=pytest.mark.slow) for a in OTHERS)])
def test_every_algorithm_releases_through_the_defence(algorithm: str) -> None:
    """Two bits a number: 2 / 32 of the bytes and 8 for each image, in all kinds of smashed data; and training goes another way."""
    assert len(OTHERS) == 7
    plain, made = run(algorithm), run(algorithm, defence="quantise", quantise={"bits": 2})
    h = torch.Size(made.setup.network.smashed_shape).numel()
    assert acts(made) * 4 * h == acts(plain) * (h // 4 + 8)
    assert any(not torch.equal(v, plain.weights()[k]) for k, v in made.weights().items())
    assert all(bool(torch.isfinite(v).all()) for v in made.weights().values())


@pytest.mark.parametrize("algorithm", ["sfl_v1", "mocosfl"])
def test_a_defence_that_does_nothing_changes_nothing(algorithm: str) -> None:
    """Noise of deviation 1e-300: the defended path in float64, bit for bit."""
    plain, made = run(algorithm), run(algorithm, defence="gaussian", gaussian={"sigma": 1e-300})
    supervised.same(made.weights(), plain.weights(), atol=0)


def test_both_engines_release_the_same() -> None:
    fused, loop = (run("mocosfl", defence="dropout", engine=engine, cut=3) for engine in ("fused", "loop"))
    supervised.same(fused.weights(), loop.weights())


def test_noise_differs_between_clients_kinds_and_steps() -> None:
    place = Place((5,), 4, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 0, torch.float64, torch.device("cpu"))
    release = Release(Gaussian(1.0), place, rounds=1)
    zero = [torch.zeros(2, 5, dtype=torch.float64) for _ in range(2)]
    images = torch.zeros(2, 2, 3, 4, 4)

    def noise(client: int, kind: str = "act_up", step: int = 0) -> torch.Tensor:
        return release(zero, images, torch.tensor([client, 9]), kind=kind, step=step)[0]

    drawn = [noise(0), noise(1), noise(0, "key_act_up"), noise(0, step=1)]
    assert len({tuple(d.flatten().tolist()) for d in drawn}) == 4
    assert torch.equal(noise(0), drawn[0])


@pytest.mark.parametrize("name", ["topk", "dropout", "local_dp", "quantise", "gaussian"])
def test_gradients_pass_as_they_should(name: str) -> None:
    """One client of SFL-V1 for one step against plain PyTorch: z = f(x), what is sent s(z) with gradient ds/dz by autograd of the defence's
    own formula, an encoding as if it were not there, SGD on both halves."""
    fields: dict[str, Any] = {"defence": name, "clients": 1, "local_steps": 1, "momentum": 0.0, "weight_decay": 0.0}
    trial = supervised.Trial(supervised.small(**fields), sizes=[2])
    network = supervised.build(trial.config, image_size=16, classes=supervised.CLASSES).double()
    defence = build(trial.config)
    trial.rounds(1)
    x, y = supervised.draw(0, 0, 2)
    z = network.client(x)
    made = defence.on_activation(z, x, supervised_generator(trial.config.seed))
    if defence.codec is not None:
        decoded = defence.codec.decode(defence.codec.encode(made.detach()[None], 2), torch.float64)[0]
        made = made + (decoded - made).detach()
    torch.nn.functional.cross_entropy(network.server(made), y).backward()
    expected = {k: p.detach() - 0.05 * p.grad for k, p in network.named_parameters()}  # type: ignore[operator]
    supervised.same({k: v for k, v in trial.weights().items() if k in expected}, expected)


def supervised_generator(seed: int) -> torch.Generator:
    from ssl_split.rng import generator as keyed

    return keyed(seed, "defence act_up", 0, 0, 0)


# --- from configuration to result ----------------------------------------------------------------------------------------------------


def test_noise_resumes_bitwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the result says what may be claimed: two rounds are two passes over the images, one tensor each."""
    fields = {"algorithm": "sfl_v1", "defence": "local_dp", "local_dp": {"clip": 30.0}, "validate_every_rounds": 0, "cut": 3,
              "train_images": 48, "checkpoint_every_seconds": 0}
    whole = train.run(tiny(tmp_path / "whole", **fields))
    with monkeypatch.context() as patch:
        _die_at(patch, "sfl_v1", 4)
        with pytest.raises(Killed):
            train.run(tiny(tmp_path / "killed", **fields))
    resumed = train.run(tiny(tmp_path / "killed", **fields), resume=True)
    _assert_same_end(whole.path, resumed.path)
    claim = whole.result["privacy"]
    assert (claim["passes"], claim["tensors_per_pass"], claim["releases"]) == (2, 1, 2)
    assert claim["epsilon_rdp"] > claim["epsilon_exact"] > claim["epsilon_of_one_release"] == 8
    assert whole.result["defence"] == "local_dp"


def test_fingerprints_without_a_defence_are_what_they_were() -> None:
    """Of the version before there were defences."""
    assert Config().fingerprint == "dcaced8b24"
    prints = {configuration.from_dict({"defence": name, **NEEDED.get(name, {})}).fingerprint for name in NAMES}
    assert len(prints) == len(NAMES)
    assert configuration.from_dict({"defence": "topk", "topk": {"drop": 0.5}}).fingerprint not in prints


@pytest.mark.parametrize(("fields", "message"), [
    ({"gaussian": {"sigma": 1.0}}, "gaussian.* is read with --defence gaussian alone, not with none"),
    ({"defence": "laplace", "topk": {"drop": 0.5}}, "topk.* is read with --defence topk alone"),
    ({"defence": "gausian"}, "did you mean gaussian?"),
    ({"defence": "quantise", "quantise": {"bits": 3}}, "legal: 1, 2, 4, 8"),
    ({"defence": "quantise", "wire": {"activations": "int8"}}, "leave wire.activations at fp32"),
    ({"defence": "dropout", "algorithm": "moco"}, "sends no smashed data"),
    ({"defence": "dropout", "algorithm": "fedavg"}, "fedavg at cut full sends no smashed data"),
    ({"defence": "local_dp", "norm": "batch"}, "use --norm group"),
    ({"defence": "nopeek", "cut": 0}, "no weights at cut 0"),
    ({"defence": "nopeek", "batch_size": 1}, "set --batch-size to 2"),
    ({"defence": "nopeek", "algorithm": "mu_splitfed"}, "first_order"),
])
def test_senseless_settings_are_one_sentence(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=None) as caught:
        configuration.from_dict(fields)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
