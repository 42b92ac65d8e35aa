"""Intervals against closed forms and published values."""

import math
import random

import pytest

from probes.statistics import Rate, summarise, wilson


@pytest.mark.parametrize(("correct", "total", "low", "high"), [
    # Newcombe 1998, Statistics in Medicine 17, Table I, method 3 (score interval without continuity correction)
    (81, 263, 0.2553, 0.3662),
    (15, 148, 0.0624, 0.1605),
    (0, 20, 0.0, 0.1611),
    (1, 29, 0.0061, 0.1718),
])
def test_wilson_published_values(correct: int, total: int, low: float, high: float) -> None:
    assert wilson(correct, total) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("correct", "total"), [(0, 7), (3, 7), (7, 7), (512, 1000)])
def test_wilson_ends_solve_the_score_equation(correct: int, total: int) -> None:
    """Each end p satisfies (p_hat - p)^2 = z^2 p (1 - p) / n, which defines the interval."""
    z = 1.959963984540054
    for end in wilson(correct, total):
        assert (correct / total - end) ** 2 == pytest.approx(z * z * end * (1 - end) / total, abs=1e-12)


def test_wilson_is_symmetric_and_inside() -> None:
    low, high = wilson(30, 100)
    mirrored = wilson(70, 100)
    assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high), abs=1e-12)
    for total in (1, 2, 1000):
        assert wilson(0, total)[0] == 0.0
        assert wilson(total, total)[1] == 1.0


def test_wilson_covers() -> None:
    """Coverage of the 95 % interval at p = 0.3, n = 200 over 2000 seeded experiments is 0.95 within four standard errors."""
    draw = random.Random(0)
    hits = 0
    for _ in range(2000):
        low, high = wilson(sum(draw.random() < 0.3 for _ in range(200)), 200)
        hits += low <= 0.3 <= high
    assert abs(hits / 2000 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 2000)


@pytest.mark.parametrize(("correct", "total"), [(1, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_impossible_counts(correct: int, total: int) -> None:
    with pytest.raises(ValueError, match="is no proportion"):
        wilson(correct, total)


def test_rate() -> None:
    rate = Rate(81, 263)
    assert rate.to_dict() == {"accuracy": 81 / 263, "low": wilson(81, 263)[0], "high": wilson(81, 263)[1]}
    assert rate.low < rate.accuracy < rate.high


def test_summary_closed_form() -> None:
    """1, 2, 3: mean 2, deviation 1, and t(0.975, 2 degrees) = 4.302653, so the interval is 2 ± 4.302653 / sqrt(3)."""
    made = summarise([1.0, 2.0, 3.0])
    half = 4.302652729911275 / math.sqrt(3)
    assert (made.n, made.mean, made.sd) == (3, 2.0, 1.0)
    assert (made.low, made.high) == pytest.approx((2 - half, 2 + half), abs=1e-9)


def test_summary_says_only_what_n_allows() -> None:
    one, two = summarise([0.5]), summarise([0.4, 0.6])
    assert (one.sd, one.low, one.high) == (None, None, None)
    assert two.sd == pytest.approx(math.sqrt(0.02))
    assert (two.low, two.high) == (None, None)
    assert str(one) == "0.500 (n = 1)"
    with pytest.raises(ValueError, match="no runs"):
        summarise([])
    with pytest.raises(ValueError, match="between 0 and 1"):
        summarise([1.0, 2.0, 3.0], confidence=1.0)
