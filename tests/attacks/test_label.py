"""Labels from smashed data: where they show and where they cannot."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attacks import fewshot, label, label_text
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


def _row(accuracy: float, validation: float | None, shots: int | None = None) -> dict[str, object]:
    return {"features": "flat", "classifier": "linear", "shots": shots, "accuracy": accuracy, "low": accuracy - 0.1, "high": accuracy + 0.1,
            "validation": validation}


def test_the_headline_is_chosen_without_the_targets() -> None:
    """By own images, among equals by how many of them were learnt from; a best on the targets is an upper envelope, and is said to be."""
    rows = [_row(0.9, 0.5, 5), _row(0.6, 0.7, 50), _row(0.5, 0.7), _row(0.95, None, 1)]
    assert fewshot.headline(rows) == (2, True)
    assert fewshot.headline([_row(row["accuracy"], None) for row in rows]) == (3, False)  # type: ignore[arg-type]
    assert fewshot.headline([_row(0.9, None)]) == (0, True)  # nothing was chosen
    for best, own, said in ((0.5, rows, False), (0.95, [row | {"validation": None} for row in rows], True)):
        result = {"name": "label-fewshot", "rows": own, "untrained": [_row(0.4, 0.1), _row(0.3, 0.2)], "pixels": [_row(0.2, 0.3)],
                  "chance": 0.1}
        result |= label_text.counted(result)
        assert (result["untrained_accuracy"], result["pixels_accuracy"]) == (0.3, 0.2)
        sentence = label_text.verdict(result)
        assert sentence.startswith(f"The smashed data tell {best:.0%} of the labels")
        assert ("upper envelope: the best of 4 ways" in sentence) is said


def test_own_images_say_how_well_a_way_does() -> None:
    """Own labels that cannot be told leave the choice where it was; the targets' labels have no say in it."""
    rows = guess_labels(nn.Identity(), TARGETS, TRUTH, AUX, LABELS)
    wrong = guess_labels(nn.Identity(), TARGETS, (TRUTH + 1) % 3, AUX, LABELS)
    assert [row["validation"] for row in rows] == [row["validation"] for row in wrong]
    assert fewshot.headline(rows) == fewshot.headline(wrong)
    assert all(abs(row["validation"] - row["accuracy"]) < 0.25 for row in rows if row["shots"] != 1)
    few = guess_labels(nn.Identity(), TARGETS, TRUTH, AUX[:2], LABELS[:2])  # one image is left to learn from: no way can be tried
    assert [row["validation"] for row in few] == [None] * len(few)


def test_many_images_choose_with_those_that_choose_the_penalty(monkeypatch: pytest.MonkeyPatch) -> None:
    """The share of held-out images that the classifier tells is that of a fit without them at the chosen penalty."""
    monkeypatch.setattr(fewshot, "ENOUGH", 100)
    own, labels = AUX.flatten(1).numpy(), LABELS.numpy()
    held = np.arange(len(own)) % 10 == 9
    told, share = fewshot.all_images(own, labels, own[held], held=held)
    assert share == (told == labels[held]).mean()
    assert (fewshot.held_out(labels) == held).all()


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
    with pytest.raises(ValueError, match=r"auxiliary images have shape \(240, 3, 4, 4\): .* all of the size of the targets \(3, 8, 8\)"):
        guess_labels(nn.Identity(), TARGETS, TRUTH, AUX[:, :, :4, :4], LABELS)
    with pytest.raises(ValueError, match=r"targets have shape \(60, 8, 8\): at least two images \(n, 3, S, S\)"):
        guess_labels(nn.Identity(), TARGETS[:, 0], TRUTH, AUX, LABELS)
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
    assert result["headline_from"] == "the attacker's own images"
    assert result["options"]["headline"] == "own images"
    assert result["headline"] == fewshot.headline(result["rows"])[0]
    (marked,) = [line for line in shown.splitlines() if line.startswith("> ")]
    assert f"{result['rows'][result['headline']]['accuracy']:.3f}" in marked
    assert "  > chosen on the attacker's own images" in shown.splitlines()
    assert len(list((tmp_path / ".rulers").glob("label-fewshot*.json"))) == 2
    label.main(words)
    again = capsys.readouterr()
    assert "exists and is not computed again" in again.err
    assert again.out == shown
