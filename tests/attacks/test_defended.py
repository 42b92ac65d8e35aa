"""Attacks and probes on runs with a defence: what is sent went through it, and the attacker knows it unless told otherwise."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from attacks import invert, label
from attacks.methods import METHODS
from attacks.reconstruct import reconstruct
from attacks.selftest import convolution, images
from attacks.served import Classifying
from attacks.victim import Victim, redrawn
from attacks.view import OwnImages, ServerModel
from probes.features import extract
from ssl_split import config, train
from ssl_split.defences.compression import Quantise
from ssl_split.defences.noise import Dropout, Gaussian

SETTINGS = {"dataset": "digits", "image_size": 16, "width": 0.125, "clients": 2, "batch_size": 4, "rounds": 1, "validate_every_rounds": 0,
            "train_images": 40, "algorithm": "sfl_v1", "cut": 3, "max_steps": 1, "threads": 1}
X = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_what_is_sent_went_through_the_defence() -> None:
    """Targets and queries get noise of their own; asked again, the same; without the knowledge, queries are clean."""
    client = convolution()
    clean = Victim(client).release(X)
    victim = Victim(client, defence=Gaussian(0.5))
    assert (victim.release(X) - clean).std().item() == pytest.approx(0.5, rel=0.05)
    assert torch.equal(victim.release(X), victim.release(X))
    assert (victim.query(X) - victim.release(X)).std().item() == pytest.approx(0.5 * 2**0.5, rel=0.05)
    assert torch.equal(Victim(client, defence=Gaussian(0.5), adaptive=False).query(X), clean)
    few = Victim(client, defence=Quantise(1)).release(X)
    assert all(len(image.unique()) == 2 for image in few)


def test_the_weights_come_with_the_defences_expectation() -> None:
    client = convolution()
    for adaptive, factor in ((True, 0.75), (False, 1.0)):
        offers = Victim(client, defence=Dropout(0.25), adaptive=adaptive).offers(X[:2], OwnImages(X, X))
        torch.testing.assert_close(offers["weights"]().smashed(X), factor * client(X))


@pytest.mark.parametrize("defence", [Gaussian(1.0), pytest.param(Dropout(0.5), marks=pytest.mark.slow)])
def test_whoever_knows_the_defence_sees_more(defence: Any) -> None:
    """Ridge on made images and one convolution, whose R2 without a defence is above 0.9 (selftest)."""
    (targets, _), (own, _) = images(6, 0), images(200, 1)
    found = reconstruct(convolution(), targets, own, method="ridge", defence=defence).result
    assert 0.9 > found["r2"] > found["unaware"]["r2"] + 0.05


SMALL: dict[str, Any] = {
    "decoder": {"blocks": 0, "channels": 4, "steps": 2}, "optimise": {"steps": 3, "starts": 1, "tv": 0.0},
    "unsplit": {"rounds": 1, "steps": 3}, "fora": {"iterations": 2, "starts": 1, "width": 4, "batch_size": 8},
    "pcat": {"iterations": 2, "batch_size": 8, "tune": 1}, "sdar": {"iterations": 2, "width": 4, "batch_size": 8}}


@pytest.mark.parametrize("method", [name for name in METHODS if name != "blind"])
def test_the_table_says_which_attacks_differ_for_who_knows_the_defence(method: str) -> None:
    """The same attack with and without the knowledge: other images where the table says so, else the same, and no second column."""
    (targets, _), (own, labels), (private, theirs) = images(4, 0), images(30, 1), images(30, 2)
    client, loss = convolution(), Classifying(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    known: dict[str, Any] = {"private": private, "fresh": redrawn(client), "momentum": client, "aux_labels": labels,
                             "private_labels": theirs, "server": ServerModel((lambda: loss,), supervised=True)}
    knowing, other = (reconstruct(client, targets, own, method=method, defence=Dropout(0.5), budget="quick", attacker=attacker,
                                  unaware=True, **known, **SMALL) for attacker in ("adaptive", "unaware"))
    assert torch.equal(knowing.images[0], other.images[0]) is not METHODS[method].adaptive
    assert ("unaware" in knowing.result) is METHODS[method].adaptive
    assert [name for name, m in METHODS.items() if not m.adaptive] == ["blind", "fora"]


def test_a_client_of_ones_own_sends_what_clients_send() -> None:
    """Through encodings too, whose gradient passes straight; who does not know the defence sends what the client half computes."""
    for adaptive in (True, False):
        victim = Victim(convolution(), defence=Quantise(1), adaptive=adaptive, fresh=redrawn(convolution()))
        z = victim.client(X).detach().requires_grad_()
        sent = victim.offers(X[:2], OwnImages(X, X))["architecture"].defended(z, X, torch.Generator())
        torch.testing.assert_close(sent, victim.release(X) if adaptive else z)
        (slope,) = torch.autograd.grad(sent.sum(), z)
        assert torch.equal(slope, torch.ones_like(z))


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs")
    return train.run(config.from_dict({**SETTINGS, "defence": "gaussian", "gaussian": {"sigma": 2.0}, "out": str(out)})).path


def test_commands_say_what_they_met(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--checkpoint", str(run_dir), "--method", "ridge", "--targets", "8", "--aux", "40"]
    invert.main(words)
    shown = capsys.readouterr().out
    (file,) = run_dir.glob("attacks/ridge-*/result.json")
    result = json.loads(file.read_text())
    assert result["defence"] == {"name": "gaussian", "sigma": 2.0}
    assert result["adaptive"] is True
    assert "defence: gaussian (sigma 2); the attacker knows it" in shown
    assert "not knowing the defence" in shown
    invert.main([*words, "--attacker", "unaware"])
    assert "this attacker does not know the defence" in capsys.readouterr().out
    other = next(json.loads(p.read_text()) for p in run_dir.glob("attacks/ridge-*/result.json") if p != file)
    assert other["adaptive"] is False
    assert other["mse"] == pytest.approx(result["unaware"]["mse"])
    (ruler, second) = (run_dir.parent / ".rulers").glob("invert-ridge-*.json")
    assert all(json.loads(p.read_text())["key"]["defence"]["sigma"] == 2.0 for p in (ruler, second))


def test_results_say_whether_the_defence_is_learned_through_and_are_named_by_it(run_dir: Path) -> None:
    """null where nothing can be; names of what earlier versions computed otherwise are new, others stay what they were."""
    cases = {name: invert.Case(invert.Options(checkpoint=str(run_dir), method=name, targets=8, aux=40))
             for name in METHODS if name != "twoview"}
    assert {name: case.facts()["adaptive"] for name, case in cases.items()} == {name: METHODS[name].adaptive or None for name in cases}
    assert not {"attacker", "unaware"} & cases["fora"].identity.keys()
    assert set(cases["ridge"].identity) == {"method", "aux", "targets", "attacker", "unaware", "ridge"}
    for name in ("unsplit", "pcat", "sdar"):
        marks = METHODS[name].marks
        assert marks
        assert cases[name].identity.items() >= marks.items()
    with pytest.raises(ValueError, match="or fora does the same whether it knows one or not"):
        invert.Case(invert.Options(checkpoint=str(run_dir), method="fora", attacker="unaware"))


def test_labels_through_a_defence(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    label.main(["--checkpoint", str(run_dir), "--targets", "20", "--aux", "60"])
    shown = capsys.readouterr().out
    (file,) = run_dir.glob("attacks/label-fewshot-*/result.json")
    result = json.loads(file.read_text())
    assert result["adaptive"] is True
    assert len(result["unaware"]) == len(result["rows"])
    assert "not knowing the defence" in shown


def test_probes_of_smashed_data_go_through_it_too(run_dir: Path) -> None:
    from ssl_split.run import open_checkpoint

    checkpoint = open_checkpoint(str(run_dir))
    data, network = checkpoint.dataset(), checkpoint.network()
    few = data.test.images[:6]
    clean, noisy = (extract(network, few, kind="smashed", mean=data.mean, std=data.std, defence=d) for d in (None, checkpoint.defence))
    assert (noisy - clean).std().item() == pytest.approx(2.0, rel=0.05)
    backbone = [extract(network, few, mean=data.mean, std=data.std, defence=d) for d in (None, checkpoint.defence)]
    assert torch.equal(*backbone)


def test_there_must_be_a_defence_not_to_know(run_dir: Path) -> None:
    with pytest.raises(ValueError, match="--attacker unaware has no meaning here"):
        invert.main(["--checkpoint", str(run_dir), "--method", "blind", "--attacker", "unaware"])


def test_without_a_defence_nothing_is_added() -> None:
    z = Victim(nn.Identity()).release(X)
    assert torch.equal(z, X)
