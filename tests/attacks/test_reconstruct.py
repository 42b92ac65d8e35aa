"""Attacks on anybody's client, without a run directory: refusals, rulers, baselines."""

import math

import pytest
import torch
from torch import Tensor, nn

from attacks import blind
from attacks.api import AttackOptions
from attacks.reconstruct import reconstruct
from attacks.victim import Victim
from attacks.view import OwnImages, View
from ssl_split import quality


def _photos(count: int, seed: int, side: int = 12) -> Tensor:
    small = torch.rand(count, 3, 3, 3, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(small, size=(side, side), mode="bilinear").clamp(0, 1)


TARGETS, AUX = _photos(8, 0), _photos(60, 1)


def test_import_from_the_command() -> None:
    from attacks.invert import reconstruct as same

    assert same is reconstruct


@pytest.mark.parametrize(("change", "message"), [
    (lambda t, a: ((t * 255).byte(), a), "targets are uint8: give floats in"),
    (lambda t, a: (t, a * 255), "auxiliary images reach from .* 8-bit values: divide by 255"),
    (lambda t, a: ((t - 0.5) / 0.25, a), "targets reach from .* normalised or not clamped"),
    (lambda t, a: (t, a * float("nan")), "auxiliary images hold values that are not finite"),
    (lambda t, a: (t, torch.cat([a, t[3:5]])), "2 of the 62 auxiliary images are targets"),
    (lambda t, a: (t, _photos(20, 1, 16)), "auxiliary images have shape .* of the size of the targets"),
    (lambda t, a: (t[:1], a), "at least two images"),
    (lambda t, a: (t[:, :1], a[:, :1]), "at least two images"),
])
def test_bad_images_are_named(change: object, message: str) -> None:
    assert callable(change)
    targets, aux = change(TARGETS, AUX)
    with pytest.raises(ValueError, match=message):
        reconstruct(nn.Identity(), targets, aux, method="ridge")


@pytest.mark.parametrize(("options", "message"), [
    ({"method": "ridgge"}, "method = 'ridgge' does not exist: did you mean ridge"),
    ({"budgte": "quick"}, "unknown key 'budgte': did you mean budget"),
    ({"decoder": {"blocks": -1}}, "decoder.blocks = -1 is impossible"),
])
def test_bad_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        reconstruct(nn.Identity(), TARGETS, AUX, **options)  # type: ignore[arg-type]


def test_diverged_client_is_named() -> None:
    with pytest.raises(ValueError, match="activations are not finite"):
        reconstruct(lambda x: x / 0, TARGETS, AUX, method="ridge")


def test_blind_guess_is_the_mean_of_own_images() -> None:
    """Its R2 is 0 by definition, its error the targets' spread around that mean, and it needs nothing from the wire."""
    found = reconstruct(nn.Identity(), TARGETS, AUX, method="blind")
    fit = torch.stack([image for i, image in enumerate(AUX) if i % 10 != 9])
    torch.testing.assert_close(found.blind, fit.mean(0))
    expected = (TARGETS - fit.mean(0)).square().mean().item()
    result = found.result
    assert result["mse"] == result["blind_mse"] == result["untrained_mse"] == pytest.approx(expected, rel=1e-5)
    assert result["r2"] == 0
    assert result["needs"] == ["aux_same"]
    assert result["seeds"] == [0]
    assert len(found.images) == 1
    assert found.images[0].shape == TARGETS.shape


def test_yardsticks_stand_beside_the_blind_guess() -> None:
    """Closed forms: grey .5, own mean colour, and the nearest image by brute force in z."""
    client = nn.Conv2d(3, 4, 3, stride=2)
    nn.init.normal_(client.weight, generator=torch.Generator().manual_seed(1))
    rows = reconstruct(client, TARGETS, AUX, method="blind").result["yardsticks"]
    assert set(rows) == {"grey", "nearest_aux", "random_decoder", "mean_colour"}
    assert rows["grey"]["mse"] == pytest.approx((TARGETS - 0.5).square().mean().item(), rel=1e-5)
    colour = TARGETS - TARGETS.mean((2, 3), keepdim=True)
    assert rows["mean_colour"]["mse"] == pytest.approx(colour.square().mean().item(), rel=1e-5)
    fit = torch.stack([image for i, image in enumerate(AUX) if i % 10 != 9])
    with torch.no_grad():
        z, own = client(TARGETS).flatten(1), client(fit).flatten(1)
    nearest = fit[(z[:, None] - own[None]).square().sum(2).argmin(1)]
    assert rows["nearest_aux"]["mse"] == pytest.approx((TARGETS - nearest).square().mean().item(), rel=1e-5)
    assert rows["random_decoder"]["r2"] < 0.1


def test_nearest_image_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The best over several blocks is the best of all."""
    own = OwnImages(AUX[:50], AUX[50:])
    view = View(Victim(nn.Identity()).offers(TARGETS, own), ("smashed", "query", "aux"), attack="nearest")
    whole = blind.nearest(view, AttackOptions(), 0).images
    monkeypatch.setattr(blind, "Features", lambda query, images, held_bytes: _small(query, images))
    assert torch.equal(blind.nearest(view, AttackOptions(), 0).images, whole)


def _small(query: object, images: Tensor) -> object:
    from attacks.features import Features

    assert callable(query)
    made = Features(query, images, held_bytes=0, block_bytes=7 * 3 * 12 * 12 * 4)
    assert made.block == 7
    return made


def test_untrained_client_is_a_ruler() -> None:
    """A trained client that forgets half of what the untrained one shows: both scores are there, and the words say which is more."""
    trained = nn.AvgPool2d(6)
    found = reconstruct(trained, TARGETS, AUX, method="ridge", untrained=nn.Identity())
    alone = reconstruct(nn.Identity(), TARGETS, AUX, method="ridge")
    assert found.result["untrained_mse"] == pytest.approx(alone.result["mse"])
    assert found.result["untrained_r2"] > found.result["r2"]
    assert "an untrained client gives away more than this one" in found.verdict
    assert alone.result["untrained_mse"] is None
    assert alone.untrained_scores is None


def test_seeds_are_nested() -> None:
    """Two decoders: per-seed values in the file, their mean as the headline, reconstructions of both."""
    decoder = {"blocks": 0, "channels": 8, "steps": 20, "batch_size": 16}
    found = reconstruct(nn.Identity(), TARGETS, AUX, seeds=2, seed=3, decoder=decoder)
    result = found.result
    assert result["seeds"] == [3, 4]
    rows = result["per_seed"]
    assert [row["seed"] for row in rows] == [3, 4]
    assert rows[0]["mse"] != rows[1]["mse"]
    for key in ("mse", "psnr", "ssim", "r2", "validation_mse"):
        assert result[key] == pytest.approx(sum(row[key] for row in rows) / 2), key
    assert len(found.images) == 2
    for images, row in zip(found.images, rows, strict=True):
        assert quality.mse(images, TARGETS).mean().item() == pytest.approx(row["mse"], rel=1e-5)
        assert row["steps"] == 20


def test_numbers_are_plain_and_finite() -> None:
    import json

    result = reconstruct(nn.Identity(), TARGETS, AUX, method="ridge").result
    again = json.loads(json.dumps(result, allow_nan=False))
    assert math.isfinite(again["r2"])
    assert len(again["per_image"]["mse"]) == 8
    assert {"gmsd", "fsim", "vsi", "mdsi", "ssim_resfl", "psnr_of_mean_mse"} <= set(again)


def test_a_network_from_elsewhere() -> None:
    """torchvision's ResNet-18 up to its first stage, without weights: no code of ours but the attack."""
    from torchvision.models import resnet18

    network = resnet18()
    client = nn.Sequential(network.conv1, network.bn1, network.relu)
    client.train()
    found = reconstruct(client, _photos(4, 0, 32), _photos(40, 1, 32), method="ridge", mean=(0.485, 0.456, 0.406),
                        std=(0.229, 0.224, 0.225))
    assert found.result["r2"] > 0.5
    assert client[1].training
