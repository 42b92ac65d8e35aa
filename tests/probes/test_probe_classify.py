"""The linear and the fine-tune probe on features whose answer is known."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from probes import classify
from probes.finetune import Options as FinetuneOptions
from probes.finetune import classifier, labelled
from probes.linear import Options, linear_accuracy, standardise
from ssl_split import rng


def _separable(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Three classes around distant corners: linearly separable."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (count,), generator=generator)
    return 4 * nn.functional.one_hot(labels, 3) + 0.1 * torch.randn(count, 3, generator=generator), labels


def _noise(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Labels that have nothing to do with the features."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 8, generator=generator), torch.randint(4, (count,), generator=generator)


def test_separable_features_are_learned_completely() -> None:
    fit = linear_accuracy(*_separable(300, 0), *_separable(200, 1), options=Options(lr=0.05, epochs=30))
    assert fit.rate.correct == fit.rate.total == 200
    assert fit.epoch == 30


def test_random_labels_give_chance() -> None:
    """Accuracy is 1/4 within four standard errors of a binomial over 1000 test rows."""
    fit = linear_accuracy(*_noise(500, 0), *_noise(1000, 1), options=Options(epochs=10))
    assert abs(fit.rate.accuracy - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 1000)


def test_equal_seeds_give_equal_results_and_global_generators_are_not_used() -> None:
    options = Options(epochs=3)
    sets = (*_noise(130, 0), *_noise(500, 1))
    state = torch.random.get_rng_state()
    first = linear_accuracy(*sets, options=options)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(123)
    assert linear_accuracy(*sets, options=options) == first
    other = linear_accuracy(*sets, options=dataclasses.replace(options, seed=1))
    assert other.train_loss != first.train_loss


def test_published_protocol_is_the_maximum_over_epochs() -> None:
    """The best test epoch is never below the last one; on noise, where training longer only overfits, it is an earlier one."""
    sets = (*_noise(200, 0), *_noise(300, 1))
    published = linear_accuracy(*sets, options=Options(epochs=12, lr=0.05, protocol="published"))
    last = linear_accuracy(*sets, options=Options(epochs=12, lr=0.05))
    assert published.last == last.rate
    assert published.rate.correct > last.rate.correct
    assert published.epoch < last.epoch == 12
    with pytest.raises(ValueError, match="legal: last, published"):
        linear_accuracy(*sets, options=Options(protocol="best"))


def test_the_test_labels_are_read_once() -> None:
    """Under the protocol `last` other test labels change the count and nothing else."""
    rows, labels = _noise(200, 0)
    test_rows, test_labels = _noise(300, 1)
    a = linear_accuracy(rows, labels, test_rows, test_labels, options=Options(epochs=2))
    b = linear_accuracy(rows, labels, test_rows, (test_labels + 1) % 4, options=Options(epochs=2))
    assert a.train_loss == b.train_loss
    assert a.rate != b.rate


def test_one_step_is_adam_with_a_cosine() -> None:
    """With one row and one step an epoch the gradient keeps its sign and nearly its size: Adam moves by the rate each time.

    The whole path of the bias is then the sum of the rates lr (1 + cos(pi t / n)) / 2, t = 0 ... n - 1.
    """
    model = nn.Linear(1, 2).double()
    with torch.no_grad():
        model.weight.zero_()
        model.bias.zero_()
    epochs, lr = 4, 1e-6
    row = torch.zeros(1, 1, dtype=torch.float64)
    list(classify.train(model, row, labels=torch.tensor([0]), epochs=epochs, lr=lr, batch_size=8, seed=0))
    wanted = sum(lr * 0.5 * (1 + math.cos(math.pi * t / epochs)) for t in range(epochs))
    assert model.bias.tolist() == pytest.approx([wanted, -wanted], rel=1e-4)


@pytest.mark.parametrize(("count", "size", "sizes"), [
    (10, 4, [4, 4, 2]), (9, 4, [4, 5]), (1, 4, [1]), (5, 4, [5]), (8, 4, [4, 4]),
])
def test_batches_cover_all_rows_and_none_has_one(count: int, size: int, sizes: list[int]) -> None:
    made = classify.batches(count, size, torch.arange(count))
    assert [len(b) for b in made] == sizes
    assert torch.equal(torch.cat(made), torch.arange(count))


def test_rate_keeps_the_mode_and_counts() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3)).train()
    rows, labels = _separable(50, 0)
    before = model[0].running_mean.clone()
    assert classify.rate(model, rows, labels=labels, batch_size=7).correct == 50
    assert model.training
    assert torch.equal(model[0].running_mean, before)


def test_standardise() -> None:
    rows = torch.tensor([[1.0, 5.0, 2.0], [3.0, 5.0, 4.0]], dtype=torch.float64)
    made, test = standardise(rows, torch.tensor([[2.0, 6.0, 7.0]], dtype=torch.float64))
    torch.testing.assert_close(made, torch.tensor([[-1.0, 0, -1], [1, 0, 1]], dtype=torch.float64))
    torch.testing.assert_close(test, torch.tensor([[0.0, 1, 4]], dtype=torch.float64))


def test_linear_layer_has_the_default_distribution() -> None:
    layer = classify.linear(100, 50, rng.generator(0, "test"))
    bound = 1 / math.sqrt(100)
    for tensor in (layer.weight, layer.bias):
        assert tensor.abs().max() <= bound
    assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03)
    assert torch.equal(layer.weight, classify.linear(100, 50, rng.generator(0, "test")).weight)


def test_few_labels_are_stratified_and_nested() -> None:
    order = torch.randperm(330, generator=rng.generator(0, "test"))
    labels = torch.tensor([0] * 200 + [1] * 100 + [2] * 30)[order]
    few, more = labelled(labels, 0.01, seed=0), labelled(labels, 0.1, seed=0)
    assert torch.bincount(labels[few]).tolist() == [2, 1, 1]
    assert torch.bincount(labels[more]).tolist() == [20, 10, 3]
    assert set(few.tolist()) < set(more.tolist())
    assert torch.equal(labelled(labels, 1.0, seed=0), torch.arange(330))
    assert not torch.equal(labelled(labels, 0.1, seed=1), more)


def test_few_label_classifier_learns() -> None:
    rows, labels = _separable(60, 0)
    test, test_labels = _separable(100, 1)
    model = classifier(3, 3, seed=0)
    losses = [loss for _, loss in classify.train(model, rows, labels=labels, epochs=20, lr=1e-3, batch_size=59, seed=0)]
    assert losses[-1] < 0.5 * losses[0]
    assert classify.rate(model, test, labels=test_labels).correct == 100
    assert [type(m).__name__ for m in model] == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert model[0].out_features == 512


def test_finetune_epochs_depend_on_the_mode() -> None:
    assert [FinetuneOptions(mode=mode).passes for mode in ("frozen", "full")] == [100, 30]
    assert FinetuneOptions(mode="full", epochs=2).passes == 2
