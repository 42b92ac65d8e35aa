"""Which weights `best.safetensors` holds: the best by validation images, and by test images only under the published switch."""

import json
from pathlib import Path

import pytest
from tiny import tiny

from probes import knn
from ssl_split import run as runs
from ssl_split import train
from ssl_split.data import images


@pytest.mark.parametrize(("published", "fraction"), [(False, 0.1), (True, 0.1), (True, 0.0)])
def test_best_by_validation_or_as_published_by_test(published: bool, fraction: float, tmp_path: Path) -> None:
    """The published choice needs no validation images: the papers' settings keep none."""
    config = tiny(tmp_path, algorithm="monacosfl", rounds=3, published_selection=published, validation_fraction=fraction)
    done = train.run(config)
    lines = [json.loads(line) for line in (done.path / "metrics.jsonl").read_text().splitlines()]
    judged = "published_test_knn" if published else "validation_knn"
    seen = [line[judged] for line in lines if judged in line]
    assert len(seen) == 3
    assert any("published_test_knn" in line for line in lines) == published
    best = runs.open_checkpoint(str(done.path), which="best")
    assert runs.read_header(done.path / "checkpoints" / "best.safetensors")["selected_by_accuracy"] == max(seen)
    dataset, network = images.load(config), best.network()
    rate = knn.validate(network, dataset, published_selection=published)
    assert rate is not None
    assert rate.accuracy == pytest.approx(max(seen))
    assert rate.total == len(dataset.test if published else dataset.validation)
