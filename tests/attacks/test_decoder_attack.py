"""The decoder attack: presets, budgets, selection, stopping, seeds, and clients where it must succeed or fail."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from attacks import decoder
from attacks.api import BUDGETS as BUDGET_NAMES
from attacks.api import PRESETS as PRESET_NAMES
from attacks.api import AttackOptions, DecoderOptions
from attacks.decoder import BUDGETS, PRESETS, Budget, Pairs, Recipe, Training, batches, plan, recipe, train
from attacks.features import Features
from attacks.reconstruct import reconstruct
from ssl_split.models.layers import BatchNorm

TINY = {"blocks": 0, "channels": 16}


def _photos(count: int, seed: int, side: int = 12) -> Tensor:
    """Smooth random images, as correlated as pictures are."""
    small = torch.rand(count, 3, 3, 3, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(small, size=(side, side), mode="bilinear").clamp(0, 1)


def _pairs(count: int, seed: int) -> Pairs:
    x = _photos(count, seed)
    return Pairs(Features(lambda images: images, x), x)


def test_presets_are_those_of_the_papers_and_of_the_table() -> None:
    """N4C64, batch 32, 1e-3, MSE in both; Adam, 50 epochs and single-batch selection as published, or AdamW and the whole set."""
    assert set(PRESETS) == set(PRESET_NAMES) == {"strong", "published", "mocosfl_published"}
    assert set(BUDGETS) == set(BUDGET_NAMES) == {"quick", "standard", "paper"}
    assert PRESETS["published"] == PRESETS["mocosfl_published"] == Recipe(4, 64, "mse", 1e-3, 32, "adam", 50, "published")
    assert PRESETS["strong"] == Recipe(4, 64, "mse", 1e-3, 32, "adamw", None, "validation")
    assert [b.steps for b in BUDGETS.values()] == [500, 2000, 5000]


def test_published_preset_is_750_steps_on_450_images() -> None:
    """500 images, a tenth for validation: 50 epochs of 15 batches, one seed; --aux and --seeds overrule it."""
    options = AttackOptions(preset="published")
    assert options.aux_images == 500
    assert plan(options, 450) == Budget(750)
    assert options.attacker_seeds(seeded=True) == (0,)
    assert AttackOptions(preset="published", aux=1000).aux_images == 1000
    assert AttackOptions(preset="published", seeds=2, seed=5).attacker_seeds(seeded=True) == (5, 6)


@pytest.mark.parametrize(("budget", "steps", "seeds"), [("quick", 500, 1), ("standard", 2000, 3), ("paper", 5000, 3)])
def test_budgets(budget: str, steps: int, seeds: int) -> None:
    options = AttackOptions(budget=budget)
    assert plan(options, 4500).steps == steps
    assert len(options.attacker_seeds(seeded=True)) == seeds
    assert options.attacker_seeds(seeded=False) == (0,)
    assert options.aux_images == 5000


def test_single_values_replace_the_presets() -> None:
    options = AttackOptions(decoder=DecoderOptions(blocks=0, channels=16, loss="mse_ssim", lr=0.1, batch_size=8, steps=7))
    assert recipe(options) == Recipe(0, 16, "mse_ssim", 0.1, 8)
    assert plan(options, 100) == Budget(7)


def test_every_epoch_visits_every_image_once_in_a_new_order() -> None:
    """33 images in batches of 16: 16, 16 and a batch of one, which is left out (no statistics from one image)."""
    source = batches(20, 8, seed=0)
    epochs = [torch.cat(list(itertools.islice(source, 3))) for _ in range(2)]
    assert all(sorted(e.tolist()) == list(range(20)) for e in epochs)
    assert not torch.equal(epochs[0], epochs[1])
    assert [len(b) for b in itertools.islice(batches(33, 16, seed=0), 4)] == [16, 16, 16, 16]
    assert [len(b) for b in itertools.islice(batches(1, 16, seed=0), 2)] == [1, 1]


def _trained(chosen: Recipe, steps: int, *, seed: int = 0, cosines: int = 1) -> Training:
    return train(_pairs(40, 0), _pairs(20, 1), chosen=chosen, budget=Budget(steps, cosines), seed=seed, image_size=12)


def test_selection_keeps_the_best_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """With scripted scores 5, 2, 3, 4 the weights of the second validation are loaded in the end."""
    scores, weights = iter([5.0, 2.0, 3.0, 4.0]), []

    def error(self: Training, pairs: Pairs) -> float:
        weights.append(next(self.model.parameters()).detach().clone())
        return next(scores)

    monkeypatch.setattr(Training, "error", error)
    monkeypatch.setattr(decoder, "CHECKS", 4)
    training = _trained(Recipe(0, 8, batch_size=8, lr=1e-2), 8)
    assert training.history == [(2, 5.0), (4, 2.0), (6, 3.0), (8, 4.0)]
    assert (training.best_step, training.best_score) == (4, 2.0)
    assert torch.equal(next(training.model.parameters()), weights[1])
    assert not torch.equal(weights[1], weights[3])


def test_validation_is_the_whole_set_in_eval_mode() -> None:
    """Its error is the mean over all images, each decoded by itself: no image's reconstruction depends on the others."""
    training = _trained(Recipe(0, 8, batch_size=8, lr=1e-2), 60)
    z, x = _pairs(20, 1).batch(slice(0, 20))
    alone = torch.cat([training.reconstruct(z[i : i + 1]) for i in range(20)])
    torch.testing.assert_close(alone, training.reconstruct(z), atol=1e-5, rtol=1e-4)
    assert training.error(_pairs(20, 1)) == pytest.approx((alone - x).square().mean().item(), rel=1e-4)
    assert training.model.training


def test_published_selection_is_optimistic_and_in_training_mode() -> None:
    """It scores the luckiest batch by the batch's own statistics, so it differs from the whole set's error, and validation images move the
    running statistics."""
    chosen = Recipe(0, 8, batch_size=8, optimiser="adam", epochs=1, selection="published")
    training = _trained(chosen, 15)
    assert [step for step, _ in training.history] == [5, 10, 15]
    norm = next(m for m in training.model.modules() if isinstance(m, BatchNorm))
    before = norm.running_mean.clone()
    training.model.train()
    lowest = decoder.single_batch(training, _pairs(20, 1))
    assert not torch.equal(norm.running_mean, before)
    losses = [training.loss(*_pairs(20, 1).batch(slice(i, i + 8))).item() for i in (0, 8, 16)]
    assert lowest == pytest.approx(min(losses), rel=1e-4)
    assert lowest < sum(losses) / 3


def test_a_plateau_ends_the_training() -> None:
    """At a learning rate of almost nothing validation stands still; the constant published recipe goes on regardless."""
    stuck = Recipe(0, 8, batch_size=8, lr=1e-12)
    training = _trained(stuck, 400)
    assert training.stopped_early
    assert training.steps < 400
    published = _trained(Recipe(0, 8, batch_size=8, lr=1e-12, optimiser="adam", epochs=1, selection="published"), 60)
    assert not published.stopped_early
    assert published.steps == 60


@pytest.mark.parametrize(("scores", "cosines"), [([0.5, 0.4, 0.3, 0.2, 0.1], 4), ([0.5, 0.4, 0.399, 0.1], 3), ([0.5, 0.5, 0.1], 2)])
def test_paper_budget_repeats_while_it_helps(scores: list[float], cosines: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cosine that gains less than one percent is the last one; there are four at most."""
    left = iter(scores)
    calls = []

    def cosine(training: Training, fit: Pairs, **others: object) -> None:
        calls.append(1)
        training.best, training.best_score = training.model.state_dict(), next(left)

    monkeypatch.setattr(decoder, "run_cosine", cosine)
    train(_pairs(4, 0), _pairs(4, 1), chosen=Recipe(0, 8), budget=BUDGETS["paper"], seed=0, image_size=12)
    assert len(calls) == cosines


@pytest.mark.parametrize(("scores", "improving"), [
    ([1.0, 0.5, 0.4, 0.3], True), ([1.0, 0.5, 0.3, 0.3], False), ([1.0, 0.3, 0.31, 0.2999], False), ([1.0], False),
])
def test_still_improving(scores: list[float], improving: bool) -> None:
    """More than one percent of gain in the last tenth of the steps."""
    steps = 10 * len(scores)
    training = Training(nn.Identity(), Recipe(), "fp32", {}, [(10 * (i + 1), s) for i, s in enumerate(scores)], min(scores), steps=steps)
    assert training.still_improving is improving


def test_seeds_decide_everything() -> None:
    """The same seed gives the same weights; another one others; the global generator is not touched."""
    state = torch.random.get_rng_state()
    runs = [_trained(Recipe(0, 8, batch_size=8), 10, seed=seed).model.state_dict() for seed in (0, 0, 1)]
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(runs[0][k], runs[1][k]) for k in runs[0])
    assert not all(torch.equal(runs[0][k], runs[2][k]) for k in runs[0])


def test_ssim_enters_the_loss() -> None:
    """mse_ssim = MSE + 0.1 (1 - SSIM)."""
    from ssl_split import quality

    pairs = _pairs(6, 0)
    training = _trained(Recipe(0, 8, batch_size=8), 5)
    both = Training(training.model.eval(), Recipe(loss="mse_ssim"), "fp32", {}, [])
    z, x = pairs.batch(slice(0, 6))
    out = training.model(z)
    expected = quality.mse(out, x).mean() + 0.1 * (1 - quality.ssim(out, x).mean())
    assert both.loss(z, x).item() == pytest.approx(expected.item(), rel=1e-5)


def test_divergence_is_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"diverged at step \d+: set a lower --decoder.lr than 1e\+30"):
        _trained(Recipe(0, 8, batch_size=8, lr=1e30), 20)


def test_long_training_is_announced() -> None:
    class Bar:
        said = ""

        def note(self, text: str) -> None:
            self.said = text

    for seconds, announced in ((0.001, False), (60.0, True)):
        bar = Bar()
        training = Training(nn.Identity(), Recipe(), "fp32", {}, [], clock=[0.0, seconds])
        training.warn(100, bar)  # type: ignore[arg-type]
        assert ("minutes" in bar.said) is announced
    assert "about 10 minutes" in bar.said


def test_bf16_stays_near_fp32() -> None:
    made = [train(_pairs(40, 0), _pairs(20, 1), chosen=Recipe(0, 8, batch_size=8, lr=1e-2), budget=Budget(60), seed=0, image_size=12,
                  precision=precision).best_score for precision in ("fp32", "bf16")]
    assert made[0] != made[1]
    assert made[1] == pytest.approx(made[0], rel=0.3)


def test_identity_client_is_read() -> None:
    """z = x: R2 > .9."""
    decoder = {**TINY, "steps": 200, "lr": 3e-3, "batch_size": 16}
    found = reconstruct(nn.Identity(), _photos(16, 0), _photos(200, 1), seeds=1, decoder=decoder)
    assert found.result["r2"] > 0.9
    assert found.result["intervals"]["r2"][0] > 0.85


def test_constant_client_gives_nothing_away() -> None:
    """z = 0: the best decoder says the mean image, R2 <= 0 within noise."""
    found = reconstruct(lambda x: torch.zeros(len(x), 4, 6, 6), _photos(64, 0), _photos(200, 1), seeds=1, decoder={**TINY, "steps": 100})
    assert found.result["r2"] < 0.02
    assert found.result["intervals"]["r2"][0] <= 0
    assert math.isfinite(found.result["r2"])


@pytest.mark.slow
def test_full_size_decoder_reads_an_identity_client() -> None:
    """The strong preset as it is, quick budget."""
    found = reconstruct(nn.Identity(), _photos(32, 0, 16), _photos(1000, 1, 16), budget="quick")
    assert found.result["r2"] > 0.97
