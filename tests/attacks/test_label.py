"""Labels from smashed data: where they show and where they cannot."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attacks import fewshot, label
from attacks.label import guess_labels
from attacks.view import CapabilityError, OwnImages, View
from ssl_split import config, train


def _coloured(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images whose class is their colour, in noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    images = 0.5 * torch.rand(count, 3, 8, 8, generator=generator)
    images[torch.arange(count), labels] += 0.3
    return images, labels


TARGETS, TRUTH = _coloured(60, 0)
AUX, LABELS = _coloured(240, 1)


def _accuracy(rows: list[dict[str, object]], features: str, shots: int | None, classifier: str = "linear") -> float:
    (found,) = [r["accuracy"] for r in rows if (r["features"], r["shots"], r["classifier"]) == (features, shots, classifier)]
    assert isinstance(found, float)
    return found


def test_the_identity_tells_all_labels_and_more_images_tell_more() -> None:
    rows = guess_labels(nn.Identity(), TARGETS, TRUTH, AUX, LABELS)
    assert _accuracy(rows, "pooled", None) == 1
    assert _accuracy(rows, "flat", None) > 0.9
    assert _accuracy(rows, "pooled", None, "neighbours") == 1
    assert _accuracy(rows, "flat", 1) < _accuracy(rows, "flat", 5) <= _accuracy(rows, "flat", 50) <= 1
    assert {len(row["draws"]) for row in rows if row["shots"]} == {fewshot.DRAWS}
    assert all(row["low"] <= row["accuracy"] <= row["high"] for row in rows)


@pytest.mark.parametrize("client", [lambda x: 0 * x, lambda x: torch.randn(len(x), 20, generator=torch.Generator().manual_seed(len(x)))],
                         ids=["constant", "noise"])
def test_a_client_that_says_nothing_tells_no_labels(client: nn.Module) -> None:
    rows = guess_labels(client, TARGETS, TRUTH, AUX, LABELS)
    assert all(row["low"] <= 1 / 3 + 0.08 for row in rows)


def test_random_labels_cannot_be_told() -> None:
    shuffled = TRUTH[torch.randperm(len(TRUTH), generator=torch.Generator().manual_seed(3))]
    rows = guess_labels(nn.Identity(), TARGETS, shuffled, AUX, LABELS)
    assert all(row["low"] <= 1 / 3 for row in rows)


def test_few_images_are_drawn_evenly_and_never_more_than_there_are() -> None:
    labels = np.array([0] * 6 + [1] * 4)
    chosen = fewshot.draw(labels, 4, seed=0, number=0)
    assert chosen is not None
    assert np.bincount(labels[chosen]).tolist() == [4, 4]
    assert len(set(chosen.tolist())) == 8
    assert fewshot.draw(labels, 5, seed=0, number=0) is None
    again = fewshot.draw(labels, 4, seed=0, number=0)
    assert again is not None
    assert (again == chosen).all()
    assert (fewshot.draw(labels, 1, seed=0, number=1) != fewshot.draw(labels, 1, seed=0, number=2)).any()


def test_scaling_the_smashed_data_changes_nothing() -> None:
    one, other = (guess_labels(client, TARGETS, TRUTH, AUX, LABELS) for client in (lambda x: x, lambda x: 1000 * x - 3))
    assert [r["accuracy"] for r in one if r["classifier"] == "linear"] == pytest.approx(
        [r["accuracy"] for r in other if r["classifier"] == "linear"], abs=0.02)


def test_tokens_and_vectors_have_features_too() -> None:
    assert {k: v.shape for k, v in fewshot.kinds(torch.rand(4, 9, 16)).items()} == {"flat": (4, 144), "pooled": (4, 16)}
    assert {k: v.shape for k, v in fewshot.kinds(torch.rand(4, 7)).items()} == {"flat": (4, 7)}
    assert fewshot.kinds(torch.rand(2, 64, 32, 32))["flat"].shape == (2, 4096)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="60 targets and 3 labels"):
        guess_labels(nn.Identity(), TARGETS, TRUTH[:3], AUX, LABELS)
    with pytest.raises(ValueError, match="auxiliary images are targets"):
        guess_labels(nn.Identity(), TARGETS, TRUTH, torch.cat([AUX, TARGETS[:1]]), torch.cat([LABELS, TRUTH[:1]]))
    with pytest.raises(CapabilityError, match="needs aux_labels"):
        View({"smashed": TARGETS, "query": lambda x: x, "aux_same": OwnImages(AUX, AUX[:0])}, fewshot.NEEDS, attack="fewshot")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Result file beside its rulers; the second time nothing is computed."""
    settings = {"dataset": "digits", "image_size": 16, "width": 0.125, "clients": 3, "batch_size": 4, "rounds": 1, "syncs_per_round": 1,
                "queue_size": 64, "symmetric": "none", "validate_every_rounds": 0, "train_images": 120, "cut": 5, "out": str(tmp_path)}
    run = train.run(config.from_dict(settings)).path
    words = ["--checkpoint", str(run), "--targets", "60", "--aux", "300"]
    label.main(words)
    shown = capsys.readouterr().out
    (file,) = run.glob("attacks/label-fewshot-*/result.json")
    result = json.loads(file.read_text())
    assert result["needs"] == ["smashed", "query", "aux_same", "aux_labels"]
    assert (result["targets"], result["aux"], result["cut"]) == (60, 300, 5)
    assert max(row["accuracy"] for row in result["rows"]) > 2 * result["chance"]
    assert len(result["untrained"]) == len(result["rows"])
    assert result["verdict"] in shown
    assert len(list((tmp_path / ".rulers").glob("label-fewshot*.json"))) == 2
    label.main(words)
    again = capsys.readouterr()
    assert "exists and is not computed again" in again.err
    assert again.out == shown
