"""Attacks on what a run really sent."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from attacks import invert, judge, ridge, sets, wire
from attacks.victim import Victim
from attacks.view import View
from ssl_split import record, rng, train
from ssl_split.data import augment
from ssl_split.data.images import normalise, to_float
from ssl_split.files import read_tensors
from ssl_split.run import open_checkpoint
from tests.train.tiny import tiny

SMALL = ["--targets", "8", "--aux", "300"]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MonAcoSFL, synchronised before the last two steps, which were recorded; at a cut shallow enough to be inverted."""
    out = tmp_path_factory.mktemp("runs")
    return train.run(tiny(out, algorithm="monacosfl", cut=1, syncs_per_round=10, record_wire=2)).path


@pytest.fixture
def run_dir(recorded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(recorded, tmp_path / "runs" / recorded.name))


def _result(run_dir: Path, *words: str) -> dict[str, Any]:
    invert.main(["--checkpoint", str(run_dir), "--wire", *SMALL, *words])
    (file,) = run_dir.glob("attacks/*/result.json")
    values: dict[str, Any] = json.loads(file.read_text())
    return values


def _case(run_dir: Path, method: str, *, wire: bool = True, targets: int = 8) -> invert.Case:
    return invert.Case(invert.Options(checkpoint=str(run_dir), method=method, targets=targets, aux=300, wire=wire))


def test_ridge_on_the_wire_is_ridge_on_a_victim_that_sends_what_was_recorded(run_dir: Path) -> None:
    """The same numbers by hand: weights, smashed data and views of the file, own images of the test split."""
    result = _result(run_dir, "--method", "ridge")
    case = invert.Case(invert.Options(checkpoint=str(run_dir), method="ridge", targets=8, aux=300, wire=True))
    sent = case.recording
    assert sent is not None
    client = open_checkpoint(str(run_dir)).network().client
    client.load_state_dict(read_tensors(run_dir / record.FILE, "weights/"))
    data = case.checkpoint.dataset()
    victim = Victim(client, data.mean, data.std)
    view = View({"smashed": sent["z"], "query": victim.query, "aux_same": case.own}, ("smashed", "query", "aux"), attack="ridge")
    scores = judge.score(ridge.attack(view, case.options, 0).images, sent["images"])
    assert result["mse"] == pytest.approx(scores.mse.mean().item(), rel=1e-5)
    assert result["ssim"] == pytest.approx(scores.ssim.mean().item(), rel=1e-5)
    assert result["r2"] > 0.2
    total = case.checkpoint.step
    assert result["wire"] == {"steps": [total - 2, total - 1], "clients": [0, 1, 2], "available": result["wire"]["available"],
                              "truth": "augmented view"}
    assert result["options"]["wire"] == [total - 2, total - 1]
    tensors = read_tensors(next(run_dir.glob("attacks/ridge-*/reconstructions.safetensors")))
    assert (tensors["targets"].float() / 255 - sent["images"]).abs().max() < 0.003


def test_a_result_on_the_wire_has_a_name_of_its_own(run_dir: Path) -> None:
    cases = [invert.Case(invert.Options(checkpoint=str(run_dir), method="blind", targets=8, wire=on)) for on in (False, True)]
    assert cases[0].directory != cases[1].directory
    assert "wire" not in cases[0].identity
    assert cases[0].facts()["wire"] is None


def test_nobody_else_has_a_source_of_the_targets(run_dir: Path) -> None:
    case = invert.Case(invert.Options(checkpoint=str(run_dir), method="oracle", targets=8, wire=True))
    sources = set(case.sets.targets.digests())
    assert len(sources) == 8
    assert not sources & (set(case.sets.private.digests()) | set(case.sets.gallery.digests()) | set(case.sets.aux.digests()))
    assert case.gallery.target_labels is not None
    truth = case.checkpoint.dataset().train
    assert case.recording is not None
    assert truth.labels is not None
    assert case.gallery.target_labels.equal(truth.labels[case.recording["sources"]])


def test_whatever_stands_beside_views_is_a_view_of_the_same_family(run_dir: Path) -> None:
    """The judge's distractors and the pairs of the bound, by hand; images where the one behind both views is rebuilt, and on a run."""
    case = _case(run_dir, "oracle")
    made = [augment.views(found.images, augment.draw(len(found), rng.generator(0, f"views of the {name}")),
                          case.checkpoint.config.augmentation, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)).clamp(0, 1)
            for found, name in ((case.sets.gallery, "gallery"), (case.sets.private, "bound"))]
    assert case.private is not None
    assert torch.equal(case.gallery.images, made[0])
    assert torch.equal(case.private.fit, sets.split(made[1]).fit)
    assert torch.equal(case.private.validation, sets.split(made[1]).validation)
    plain = to_float(case.sets.gallery.images)
    assert (case.gallery.images - plain).abs().mean() > 0.05
    assert torch.equal(_case(run_dir, "twoview").gallery.images, plain)
    bare = _case(run_dir, "oracle", wire=False)
    assert bare.private is not None
    assert torch.equal(bare.private.fit, sets.split(bare.sets.private.images).fit)
    assert [c.identity.get("others") for c in (case, _case(run_dir, "twoview"), bare)] == ["views", None, None]


@pytest.mark.parametrize("method", ["fora", "sdar"])
def test_a_server_has_collected_what_else_was_recorded(run_dir: Path, method: str) -> None:
    """Messages of all images but the targets as they arrived, one by one; the untrained client sends the views behind them."""
    case, file = _case(run_dir, method), read_tensors(run_dir / record.FILE)
    train_images, targets = case.checkpoint.dataset().train, set(case.sets.targets.digests())
    rest = [i for i, source in enumerate(file["sources"]) if train_images.select(source[None]).digests()[0] not in targets]
    assert 2 <= len(rest) <= len(file["z"]) - 8
    taken = case.attacked().offers(case.targets, case.own)["server_training"]
    assert taken.count == len(rest)
    assert torch.equal(taken.take(torch.arange(len(rest))), file["z"][rest])
    untrained, data = case.checkpoint.untrained(), case.checkpoint.dataset()
    before = case.victim(untrained, trained=False).offers(case.targets, case.own)["server_training"].take(torch.arange(len(rest)))
    with torch.no_grad():
        torch.testing.assert_close(before, untrained.client(normalise(file["images"][rest], data.mean, data.std)), atol=1e-5, rtol=1e-4)
    assert case.of_clients != _case(run_dir, method, wire=False).of_clients


def test_there_are_as_many_targets_as_images_were_recorded(run_dir: Path) -> None:
    case = _case(run_dir, "ridge", targets=100)
    assert case.recording is not None
    assert len(case.targets) == len(case.sets.targets) == len(case.sets.clients) == case.recording.available < 100
    assert case.gallery.target_labels is not None
    assert len(case.gallery.target_labels) == len(case.targets)
    assert case.sets.record["targets_wanted"] == 100
    assert case.notices[0].startswith(f"only {len(case.targets)} of the 100 targets exist: no more different images were recorded")


def test_targets_take_turns_over_clients_and_steps_and_no_image_comes_twice() -> None:
    """Three clients in two steps with four rows each, of which the second step repeats one image of the first."""
    clients, steps = torch.arange(24) // 4 % 3, torch.arange(24) // 12
    names = [str(i) for i in range(24)]
    names[13] = names[0]
    order = wire.spread(clients, steps, names)
    assert len(order) == 23
    first = order[:6].tolist()
    assert len({(int(clients[i]), int(steps[i])) for i in first}) == 6
    assert len({names[i] for i in order.tolist()}) == 23


def test_without_a_recording_or_with_a_damaged_one_it_says_so_in_a_sentence(run_dir: Path) -> None:
    words = ["--checkpoint", str(run_dir), "--wire", "--method", "ridge"]
    file = run_dir / record.FILE
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"truncated or damaged .*train the run again in another --out to record it$"):
        invert.main(words)
    file.unlink()
    with pytest.raises(FileNotFoundError, match="holds no recording of its wire"):
        invert.main(words)
    with pytest.raises(ValueError, match="--wire is what a run has sent"):
        invert.main(["--encoder", "a.py:build", "--wire", "--targets", str(run_dir), "--aux", str(run_dir)])
