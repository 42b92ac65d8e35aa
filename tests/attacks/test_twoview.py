"""The two-view attack: crops against those of training, what it finds where it must, and what it is given of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attacks import crops, invert, momentum, pairs, selftest
from attacks.reconstruct import Inversion, reconstruct
from attacks.register import register
from attacks.view import CapabilityError
from ssl_split import rng, train
from ssl_split.config import Augment
from ssl_split.data import augment
from ssl_split.data.images import normalise
from tests.train.tiny import tiny

CROPS = Augment("mocov2", jitter=0.0, hue=0.0, grayscale_probability=0.0, blur_probability=0.0)
SIZE = 16


def _images(count: int, seed: int = 0) -> Tensor:
    return (selftest.images(count, seed)[0] * 255).round().byte()


def _pair(count: int, options: Augment = CROPS) -> tuple[Tensor, pairs.Pair]:
    images = _images(count)
    return images.float() / 255, pairs.drawn(images, options)


def test_at_the_true_boxes_the_model_of_a_view_is_the_view() -> None:
    """Crop, resize and mirroring are those of training, in float64."""
    images = _images(40)
    draws = augment.draw(40, rng.generator(0, "test"))
    boxes, mirrored = augment.crops(draws, CROPS, size=SIZE)
    truth = augment.views(images, draws, CROPS, mean=(0, 0, 0), std=(1, 1, 1), dtype=torch.float64)
    assert mirrored.any()
    torch.testing.assert_close(crops.show(images.double() / 255, boxes, mirrored), truth, atol=1e-12, rtol=0)


@pytest.mark.parametrize("place", [20, 21, 22])
def test_at_the_true_factors_the_model_of_the_colours_is_the_view(place: int) -> None:
    """One factor away from 1 at a time, so that the drawn order does not matter: a draw of 1/2 is the factor 1."""
    draws = torch.full((8, augment.DRAWS), 0.5)
    draws[:, augment._BRIGHTNESS + place - 20] = torch.linspace(0, 0.9, 8)
    options = Augment("mocov2", crop_scale=1.0, hue=0.0, jitter_probability=1.0, grayscale_probability=0.0, blur_probability=0.0,
                      flip_probability=0.0)
    images, factors = _images(8), torch.ones(8, 3, dtype=torch.float64)
    factors[:, place - 20] = 0.6 + 0.8 * draws[:, augment._BRIGHTNESS + place - 20].double()
    truth = augment.views(images, draws, options, mean=(0, 0, 0), std=(1, 1, 1), dtype=torch.float64)
    mine = crops.coloured(images.double() / 255, factors, torch.zeros(8, dtype=torch.bool))
    torch.testing.assert_close(mine, truth, atol=1e-6, rtol=0)


def test_drawn_boxes_are_legal_and_have_coordinates() -> None:
    """Sides are rounded to pixels in training, so areas and ratios at the very edge of the family are met within that."""
    boxes, _ = augment.crops(augment.draw(200, rng.generator(0, "test")), CROPS, size=SIZE)
    family = augment.ranges(CROPS, size=SIZE)
    again = crops.legal(crops.coordinates(boxes, family, size=SIZE), family, size=SIZE)
    assert crops.overlap(again, boxes).quantile(0.1) > 0.95
    extreme = crops.legal(torch.tensor([[-9.0, 9, 9, 9], [9, -9, 9, -9], [0, 0, -9, 9]]).double(), family, size=SIZE)
    assert (extreme[:, :2] >= 0).all()
    assert (extreme[:, :2] + extreme[:, 2:] <= SIZE).all()
    assert (extreme[:, 2:].prod(1) >= 0.99 * family.smallest * SIZE**2).all()


def test_one_box_is_put_where_it_most_likely_lies() -> None:
    """With areas a^2..1 of the frame equally likely the mean side is the integral of s 2 s ds / (1 - a^2) = 2/3 (1 - a^3) / (1 - a^2)."""
    family = augment.ranges(CROPS, size=SIZE)
    found = crops.centred(torch.tensor([[[0.0, 0, SIZE, SIZE]]]).double(), family, size=SIZE)[0, 0]
    a = family.smallest**0.5
    assert found[2].item() == pytest.approx(SIZE * 2 / 3 * (1 - a**3) / (1 - a**2), rel=5e-3)
    torch.testing.assert_close(found[:2] + found[2:] / 2, torch.full((2,), SIZE / 2).double())


def test_centring_changes_no_box_in_the_frame_of_another() -> None:
    boxes, _ = augment.crops(augment.draw(40, rng.generator(1, "test")), CROPS, size=SIZE)
    boxes = boxes.unflatten(0, (2, 20))
    found = crops.centred(boxes, augment.ranges(CROPS, size=SIZE), size=SIZE)
    for axis in (0, 1):
        before, after = ((b[1, :, axis] - b[0, :, axis]) / b[0, :, axis + 2] for b in (boxes, found))
        torch.testing.assert_close(before, after)
    assert (found[..., :2] > -1e-9).all()
    assert (found[..., :2] + found[..., 2:] < SIZE + 1e-9).all()


def test_moving_is_undone_and_pasting_puts_a_view_where_it_was() -> None:
    x, shown = _pair(6)
    boxes = shown.boxes[0].round()
    same = crops.moved(x, boxes, boxes, torch.zeros(6, dtype=torch.bool))
    torch.testing.assert_close(same, x, atol=1e-4, rtol=0)
    whole = torch.tensor([0.0, 0, SIZE, SIZE]).expand(6, 4)
    both = torch.ones(6, dtype=torch.bool)
    torch.testing.assert_close(crops.moved(x, whole, whole, both), x.flip(3), atol=1e-4, rtol=0)
    pasted, inside = crops.paste(shown.views[0], shown.boxes[0], shown.mirrored[0])
    assert inside.mean((1, 2, 3)).tolist() == pytest.approx((shown.boxes[0, :, 2:].prod(1) / SIZE**2).tolist(), abs=1e-6)
    assert ((pasted - x).abs() * inside).max() < 0.1


def test_boxes_are_found_from_the_views_alone() -> None:
    """Where crops share at least a third, the second lies where it should and the way of mirroring is right, mostly."""
    _, shown = _pair(24)
    found = [register(*shown.views, shown.ranges, mirrored=way, generator=rng.generator(0, "test")) for way in (False, True)]
    truth = shown.mirrored[0] ^ shown.mirrored[1]
    enough = crops.overlap(*shown.boxes) > 1 / 3
    said = found[1][1] > found[0][1]
    assert (said == truth)[enough].double().mean() > 0.85
    boxes = torch.where(truth[None, :, None], found[1][0], found[0][0])
    overlap = pairs.relative_overlap(boxes, torch.zeros(24, dtype=torch.bool), shown, size=SIZE)
    assert overlap[enough].median() > 0.7


def _attacked(client: nn.Module, **options: Any) -> Inversion:
    targets, own = selftest.images(8, 0)[0], selftest.images(60, 1)[0]
    return reconstruct(client, targets, own, method="twoview", budget="quick", augment=selftest.GENTLE, optimise={"steps": 40, "tv": 0.01},
                       **options)


def test_two_views_say_more_than_one_where_both_are_known() -> None:
    client = nn.Identity()
    found = _attacked(client, momentum=client).result
    said = found["two_views"]
    assert found["r2"] == pytest.approx(said["joint"]["r2"])
    assert said["joint"]["aligned"]["mse"] < 0.5 * said["one_view"]["aligned"]["mse"]
    assert said["joint"]["aligned"]["r2"] > 0.95
    assert said["joint"]["relative_box_iou"] > 0.8
    assert said["plain"]["view"]["r2"] > 0.99
    assert 0 < said["query_coverage"] < said["coverage"] <= 1
    assert found["per_seed"][0]["momentum"] == "known"
    assert found["validation_mse"] is None


def test_it_needs_the_second_view() -> None:
    with pytest.raises(CapabilityError, match="twoview needs momentum_view, second_view"):
        _attacked(nn.Identity())


def _case(path: Path, *, wire: bool) -> invert.Case:
    return invert.Case(invert.Options(checkpoint=str(path), method="twoview", targets=8, aux=40, wire=wire))


@pytest.mark.parametrize("symmetric", ["none", "stacked"])
def test_it_is_given_what_a_run_recorded_and_the_judge_remakes_the_views(symmetric: str, tmp_path: Path) -> None:
    """Of one recorded step after a sync with ema 0 all encoders are the averaged client, so that every tensor is f(its view)."""
    run = train.run(tiny(tmp_path, algorithm="monacosfl", syncs_per_round=10, record_wire=1, symmetric=symmetric, ema=0.0, rounds=1,
                         validate_every_rounds=0))
    case = _case(run.path, wire=True)
    sent, victim = case.recording, case.attacked()
    assert sent is not None
    assert isinstance(victim, pairs.TwoViews)
    torch.testing.assert_close(case.pair.views[0], sent["images"], atol=1e-5, rtol=0)
    torch.testing.assert_close(case.pair.views[1], sent["key_images"], atol=1e-5, rtol=0)
    assert len(victim.sent) == (4 if symmetric == "stacked" else 2)
    data = case.checkpoint.dataset()
    for z, view in zip(victim.sent, (0, 1, 1, 0), strict=False):
        with torch.no_grad():
            expected = case.network.client(normalise(case.pair.views[view], data.mean, data.std))
        torch.testing.assert_close(z, expected, atol=1e-3, rtol=1e-3)
    assert victim.averaged is not None
    assert case.targets.equal(case.sets.targets.images.float() / 255)
    if symmetric == "stacked":
        _run_command(run.path, tensors=4)


def _run_command(path: Path, *, tensors: int) -> None:
    words = ["--checkpoint", str(path), "--wire", "--method", "twoview", "--targets", "8", "--aux", "40", "--budget", "quick"]
    invert.main([*words, "--optimise.steps", "4", "--optimise.tv", "0.01"])
    (file,) = path.glob("attacks/twoview-*/result.json")
    result = json.loads(file.read_text())
    assert "momentum_weights" in result["needs"]
    assert result["wire"]["truth"] == "image behind two views"
    assert result["per_seed"][0]["tensors"] == tensors


def test_of_a_checkpoint_each_client_sends_through_its_own_momentum_encoder_and_the_server_guesses(tmp_path: Path) -> None:
    """MocoSFL's momentum encoders are private; with ema 0.5 the guess from initial and last client is not the last one itself."""
    run = train.run(tiny(tmp_path, algorithm="mocosfl", ema=0.5, client_lr=0.5, rounds=1, validate_every_rounds=0))
    case = _case(run.path, wire=False)
    victim = case.attacked()
    assert isinstance(victim, pairs.TwoViews)
    assert victim.averaged is None
    assert victim.guess is not None
    assert "momentum_weights" not in victim.offers(case.targets, case.own)
    last, guessed = case.network.client.state_dict(), victim.guess.state_dict()
    assert any(not guessed[k].equal(v) for k, v in last.items())
    first = case.sets.clients == case.sets.clients[0]
    encoder = momentum._momentum_client(case.checkpoint, case.network.client, int(case.sets.clients[0]))
    data = case.checkpoint.dataset()
    with torch.no_grad():
        expected = encoder(normalise(case.pair.views[1][first], data.mean, data.std))
    torch.testing.assert_close(victim.sent[1][first], expected, atol=1e-4, rtol=1e-4)


def test_runs_without_two_views_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CapabilityError, match="clients of sfl_v1 send neither"):
        momentum.refuse_one_view(tiny(tmp_path, algorithm="sfl_v1"))
