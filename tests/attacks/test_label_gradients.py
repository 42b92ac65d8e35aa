"""Labels from returned gradients and from a completed model: where they show and where they cannot."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from attacks import completion, label, label_text
from attacks.label import complete, gradient_direction, gradient_norm
from attacks.returned import auc, returned
from attacks.server import Supervised
from attacks.view import CapabilityError
from ssl_split import config, train

LABELS = torch.arange(60) % 3


def _rows(seed: int = 0) -> Tensor:
    return torch.randn(60, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_auc_is_that_of_scikit_learn_and_its_interval_holds_half_for_noise() -> None:
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(100):
        scores, positive = generator.integers(0, 9, 40).astype(float), generator.random(40) < 0.4  # with ties
        area, low, high = auc(scores, positive)
        assert area == pytest.approx(roc_auc_score(positive, scores))
        held += low <= 0.5 <= high
    assert held >= 88  # 95 % of 100, give or take three deviations
    assert auc(np.arange(6.0), np.arange(6) > 2) == (1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="0 positives and 6 negatives"):
        auc(np.arange(6.0), np.arange(6) > 6)


def test_norms_tell_a_class_that_is_longer() -> None:
    rows = gradient_norm(_rows() * (1 + 20.0 * (LABELS == 1))[:, None], LABELS)
    assert [row["class"] for row in rows] == [0, 1, 2, None]
    assert rows[1]["auc"] > 0.98
    assert rows[1]["low"] > 0.5
    assert rows[0]["auc"] < 0.5
    assert rows[-1]["auc"] == pytest.approx(np.mean([row["auc"] for row in rows[:3]]))
    two = gradient_norm(_rows(), LABELS % 2)
    assert [row["class"] for row in two] == [1, None]


def test_directions_tell_classes_that_point_apart_whatever_the_length() -> None:
    apart = torch.eye(8, dtype=torch.float64)[LABELS] + 0.05 * _rows()
    rows = gradient_direction(apart * torch.rand(60, 1, generator=torch.Generator().manual_seed(1)), LABELS)
    assert all(row["auc"] > 0.99 for row in rows)
    assert {len(row["draws"]) for row in rows[:-1]} == {5}
    assert all(row["low"] <= 0.5 <= row["high"] for row in gradient_direction(_rows(2), LABELS)[-1:])


def test_random_labels_cannot_be_told() -> None:
    shuffled = LABELS[torch.randperm(60, generator=torch.Generator().manual_seed(5))]
    for rows in (gradient_norm(_rows(3), shuffled), gradient_direction(_rows(3), shuffled)):
        assert rows[-1]["low"] < 0.5 < rows[-1]["high"]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="all targets have one label"):
        gradient_norm(_rows(), LABELS * 0)
    with pytest.raises(ValueError, match="no class has two images"):
        gradient_direction(_rows()[:3], LABELS[:3])
    with pytest.raises(ValueError, match="60 targets and 3 labels"):
        complete(nn.Identity(), torch.rand(60, 3, 8, 8), LABELS[:3], torch.rand(5, 3, 8, 8), LABELS[:5])
    with pytest.raises(ValueError, match=r"auxiliary images have shape \(5, 3, 6, 6\)"):
        complete(nn.Identity(), torch.rand(60, 3, 8, 8), LABELS, torch.rand(5, 3, 6, 6), LABELS[:5])


def test_the_gradient_of_an_image_is_its_own_over_the_size_of_the_batch() -> None:
    """Without BatchNorm a batch of B gives each image 1 / B of what it gets alone, whoever fills the batch."""
    torch.manual_seed(0)
    server = Supervised(nn.Sequential(nn.Flatten(), nn.Linear(3 * 16, 3)).double(), LABELS, torch.zeros(60, dtype=torch.int64))
    images = torch.rand(7, 3, 4, 4, dtype=torch.float64)
    clients = torch.tensor([0, 1, 0, 0, 1, 0, 2])
    one, four = (returned(nn.Identity(), lambda x: x, lambda z, p: (z, server(z, p)), images, clients, batch=b) for b in (1, 4))
    torch.testing.assert_close(four, one / 4)


def _coloured(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images whose class is their colour, in noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    images = 0.5 * torch.rand(count, 3, 8, 8, generator=generator)
    images[torch.arange(count), labels] += 0.3
    return images, labels


class _Constant(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 0 * x


def test_a_completed_model_tells_labels_that_show_and_none_that_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completion, "EPOCHS", 12)
    (targets, truth), (aux, labels) = _coloured(60, 0), _coloured(180, 1)
    torch.manual_seed(0)
    client = nn.Conv2d(3, 4, 3, padding=1)
    before = client.weight.detach().clone()
    rows = complete(client, targets, truth, aux, labels)
    assert [row["shots"] for row in rows] == [5, 50]
    assert rows[1]["accuracy"] > 0.9
    assert rows[0]["labels_used"] == 3 * (5 + 5)
    assert all(abs(row["validation"] - row["accuracy"]) < 0.3 for row in rows)
    assert [row["validation"] for row in complete(client, targets, (truth + 1) % 3, aux, labels)] == [row["validation"] for row in rows]
    result = {"name": "label-completion", "rows": rows, "untrained": [row | {"accuracy": 0.4} for row in rows]}
    assert label_text.counted(result) == {"headline": 1, "headline_from": label_text.OWN, "untrained_accuracy": 0.4,
                                          "pixels_accuracy": None}
    assert torch.equal(client.weight, before)  # a copy is tuned
    assert all(row["low"] <= 1 / 3 + 0.01 for row in complete(_Constant(), targets, truth, aux, labels))


@pytest.mark.parametrize("method", ["norm", *(pytest.param(m, marks=pytest.mark.slow) for m in ("direction", "completion"))])
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str) -> None:
    """Result beside its ruler; the second time nothing is computed; a run without labels says what it lacks."""
    settings = {"dataset": "digits", "image_size": 16, "width": 0.125, "clients": 3, "batch_size": 4, "rounds": 1, "max_steps": 2,
                "validate_every_rounds": 0, "train_images": 120, "cut": 5, "out": str(tmp_path), "queue_size": 64, "threads": 1}
    run = train.run(config.from_dict({**settings, "algorithm": "sfl_v1"}), on_log=lambda line: None).path
    words = ["--checkpoint", str(run), "--targets", "60", "--aux", "400", "--method", method]
    label.main(words)
    shown = capsys.readouterr().out
    (file,) = run.glob(f"attacks/label-{method}-*/result.json")
    result = json.loads(file.read_text())
    assert result["needs"] == (["weights", "aux_same", "aux_labels"] if method == "completion" else ["gradient_view"])
    assert len(result["rows"]) == len(result["untrained"])
    assert result["verdict"] in shown
    label.main(words)
    assert capsys.readouterr().out == shown
    if method != "norm":
        return
    run = train.run(config.from_dict({**settings, "algorithm": "mocosfl", "symmetric": "none"}), on_log=lambda line: None).path
    with pytest.raises(CapabilityError, match="needs gradient_view of a loss on labels"):
        label.main(["--checkpoint", str(run), "--method", method])
