"""What is said of scores, and which images are asked about."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from attacks.members import metrics, partcrop, pool, roc
from ssl_split import rng
from ssl_split.config import Augment, Partition
from ssl_split.data.images import Dataset, ImageSet
from ssl_split.data.partition import partition


def _scores(members: int = 60, others: int = 90, shift: float = 0.8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    truth = torch.arange(members + others) < members
    return (torch.randn(len(truth), generator=generator, dtype=torch.float64) + shift * truth).round(decimals=1), truth


def test_true_positives_are_read_at_the_last_point_within_the_target() -> None:
    """Scores 5 4 3 2 1, members 5 3 2: points (0, 1/3), (1/2, 1/3), (1/2, 2/3), (1/2, 1), (1, 1)."""
    found = metrics.curve(torch.tensor([5.0, 4, 3, 2, 1]), torch.tensor([True, False, True, True, False]))
    assert [found.tpr_at(rate) for rate in (0, 0.49, 0.5, 1)] == pytest.approx([1 / 3, 1 / 3, 1, 1])
    assert found.best_threshold == 2


def test_auc_is_the_share_of_pairs_in_the_right_order() -> None:
    scores, truth = _scores()
    pairs = (scores[truth][:, None] - scores[~truth]).sign()
    assert metrics.auc(scores, truth) == pytest.approx(float((pairs + 1).mean() / 2))
    assert metrics.auc(-scores, truth) == pytest.approx(1 - metrics.auc(scores, truth))


def test_the_bootstrap_agrees_with_scikit_learn_on_the_same_draws() -> None:
    scores, truth = _scores()
    generator, draws, inside = rng.generator(0, "membership bootstrap"), 30, truth.numpy()
    weights = np.zeros((draws, len(scores)))
    for group in (inside, ~inside):
        places = np.flatnonzero(group)
        for row, chosen in zip(weights, torch.randint(len(places), (draws, len(places)), generator=generator).tolist(), strict=True):
            row[places] = np.bincount(chosen, minlength=len(places))
    slow = [roc_auc_score(inside, scores.numpy(), sample_weight=w) for w in weights]
    assert metrics.bootstrap(scores, truth, draws=draws)["auc"] == pytest.approx(tuple(np.percentile(slow, [2.5, 97.5])))


def test_perfect_constant_and_random_scores() -> None:
    truth = torch.arange(300) < 100
    perfect = metrics.measure(truth.double(), truth)
    assert (perfect["auc"], perfect["low"], perfect["high"], perfect["balanced_accuracy"], perfect["tpr"]["0"]["value"]) == (1, 1, 1, 1, 1)
    constant = metrics.measure(torch.zeros(300), truth)
    assert (constant["auc"], constant["low"], constant["high"], constant["tpr"]["0"]["value"]) == (0.5, 0.5, 0.5, 0)
    noise = metrics.measure(torch.rand(300, generator=torch.Generator().manual_seed(0)), truth)
    assert noise["low"] < 0.5 < noise["high"]
    assert "No better than guessing" in metrics.verdict(noise, None)
    assert "Members can be told" in metrics.verdict(perfect, {"auc": 0.5})
    assert "images differ" in metrics.verdict(perfect, {"auc": 1.0})
    assert "wrong way" in metrics.verdict(metrics.measure(-truth.double(), truth), None)


def test_small_rates_need_enough_non_members_and_own_thresholds_are_used() -> None:
    scores, truth = _scores(others=999)
    found = metrics.measure(scores, truth, threshold=100.0, draws=20)
    assert found["tpr"]["0.001"] == {"value": None, "reason": "needs 1000 non-members, and there are 999"}
    assert (found["balanced_accuracy"], found["threshold_from"]) == (0.5, "the attacker's own data")
    scores, truth = _scores(others=1000)
    found = metrics.measure(scores, truth, draws=20)
    assert found["tpr"]["0.001"]["value"] >= found["tpr"]["0"]["value"]
    assert "upper bound" in found["threshold_from"]
    with pytest.raises(ValueError, match="not finite"):
        metrics.auc(scores / 0, truth)
    assert roc.draw({"a": metrics.curve(scores, truth)}, title="t", smallest=1e-3).axes[0].get_xscale() == "log"


def _dataset(classes: int = 4, each: int = 60) -> Dataset:
    generator = torch.Generator().manual_seed(1)

    def part(count: int) -> ImageSet:
        return ImageSet(torch.randint(256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8), torch.arange(count) % classes)

    train, test = part(classes * each), part(classes * each)
    test.images[:7] = train.images[:7]  # also held by clients
    return Dataset("made", train, train.select(torch.arange(0)), test, tuple("abcd"), pool.ZERO, pool.ONE)


def test_sets_share_no_image_and_non_members_have_the_members_classes() -> None:
    dataset = _dataset()
    parts = partition(dataset.train.labels, Partition(kind="shards"), images=240, clients=2)
    for held in (parts, parts[:1]):  # one client has two classes
        found = pool.choose(dataset, held, members=50)
        assert found.candidates.labels is not None
        inside, outside = (found.candidates.select(which.nonzero().flatten()) for which in (found.truth, ~found.truth))
        assert inside.labels is not None
        assert outside.labels is not None
        for one, other in combinations((inside, outside, found.own), 2):
            assert not set(one.digests()) & set(other.digests())
        assert set(inside.digests()) <= set(dataset.train.digests())
        shares = [torch.bincount(s.labels, minlength=4).double() / len(s) for s in (inside, outside)]
        assert torch.allclose(*shares, atol=1 / len(outside))
        assert found.record["members"] == 50
        assert len(outside) > 20
        assert 0 < int(found.truth[:20].sum()) < 20  # mixed
    again = pool.choose(dataset, parts[:1], members=50)
    assert again.candidates.digests() == found.candidates.digests()
    few = pool.choose(dataset, parts, members=1000, nonmembers=10)
    assert (few.record["members"], few.record["nonmembers"]) == (240, 8)  # two of each class
    assert "only 240 of the 1000 members" in few.notices[0]


def test_shared_images_are_refused() -> None:
    images = _dataset().train
    with pytest.raises(ValueError, match="1 image is both among the a and among the b"):
        pool.refuse_shared({"a": images.select(torch.arange(5)), "b": images.select(torch.arange(4, 9))})


def test_views_depend_on_image_place_and_seed_alone() -> None:
    images, kind = _dataset().train.images[:5], Augment(kind="mocov2")
    whole = pool.views(images, kind, count=3, seed=0).unflatten(0, (5, 3))
    torch.testing.assert_close(pool.views(images[3:4], kind, count=3, seed=0, first=3), whole[3])
    assert not torch.equal(pool.views(images[3:4], kind, count=3, seed=0, first=2), whole[3])
    assert float(whole.min()) >= 0
    assert float(whole.max()) <= 1
    assert not torch.equal(whole[0, 0], whole[0, 1])


def test_crops_are_parts_of_the_right_size() -> None:
    """Of a ramp from 0 to 1 a crop of relative width w spans w: its area is that of the two ramps together."""
    size = 64
    ramp = torch.arange(size).mul(255 / (size - 1)).round().byte()
    x = torch.stack([ramp.expand(size, -1), ramp[:, None].expand(-1, size), torch.zeros(size, size).byte()])[None]
    made = partcrop.crops(x, count=200, seed=0)
    spans = made.flatten(2).max(2).values - made.flatten(2).min(2).values
    area = spans[:, 0] * spans[:, 1]
    assert 0.06 < float(area.min()) < 0.1
    assert 0.18 < float(area.max()) < 0.22
    assert 0.3 < float((made[:, 0, 0, 0] > made[:, 0, 0, -1]).double().mean()) < 0.7  # mirrored


def test_divergences_against_a_slow_reference() -> None:
    generator = torch.Generator().manual_seed(2)
    whole, parts = (torch.randn(2, n, 5, generator=generator, dtype=torch.float64) for n in (9, 4))
    found = partcrop.divergences(whole, parts)
    for b in range(2):
        for at, q in ((0, torch.full((9,), 1 / 9, dtype=torch.float64)), (4, partcrop.bell(9).double())):
            kl = [float((q * (q / (whole[b] @ c).softmax(0)).log()).sum()) for c in parts[b]]
            assert found[b, at : at + 4].tolist() == pytest.approx(sorted(kl, reverse=True))
    assert float(partcrop.bell(9).sum()) == pytest.approx(1)
    assert partcrop.positions(torch.rand(3, 7)) is None
