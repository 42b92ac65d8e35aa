"""Runs on sentences: the algorithms, their identities, probes and report, with a tiny transformer."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from attacks import invert
from probes import classifier, knn
from ssl_split import config as configuration
from ssl_split import train
from ssl_split.config import SUPERVISED, Config
from ssl_split.report import build

sys.path.append(str(Path(__file__).parents[1] / "data"))
import phrases

BASE = {"algorithm": "sfl_v1", "dataset": "tsv", "arch": "opt", "cut": 2, "clients": 3, "batch_size": 8, "rounds": 2, "threads": 1,
        "client_lr": 0.002, "server_lr": 0.002, "optimiser": "adam", "schedule": "constant", "partition": {"kind": "iid"},
        "validate_every_rounds": 1, "text": {"tokens": 10, "vocabulary": 40, "hidden": 16, "layers": 2, "heads": 2, "feed_forward": 24}}


def options(tmp_path: Path, **changes: object) -> Config:
    data = phrases.write(tmp_path / "data", train=150, dev=40)
    return configuration.from_dict(configuration.fields.merge(BASE, {"data_dir": str(data), "out": str(tmp_path / "runs"), **changes}))


@pytest.mark.parametrize("algorithm", SUPERVISED)
def test_every_supervised_algorithm_learns_from_sentences(algorithm: str, tmp_path: Path) -> None:
    done = train.run(options(tmp_path, algorithm=algorithm, gas={"generate": False}))
    result = done.result
    assert result["mib_per_client"] == pytest.approx(result["mib_per_client_closed_form"])
    assert result["smashed_shape"] == [10, 16]
    if algorithm not in ("centralised", "mu_splitfed"):
        labels = result["bytes"]["up"]["label_up"]
        assert result["bytes"]["up"]["act_up"] == result["bytes"]["down"]["grad_down"] == 10 * 16 * 4 // 8 * labels


def test_sfl_v1_is_one_result_at_every_cut(tmp_path: Path) -> None:
    weights = []
    for cut in (0, 1, 3, "full"):
        done = train.run(options(tmp_path, cut=cut, precision="fp64", optimiser="sgd", client_lr=0.1, server_lr=0.1))
        weights.append(done.checkpoint().network().state_dict())
    for other in weights[1:]:
        for name, value in weights[0].items():
            torch.testing.assert_close(other[name], value, rtol=1e-6, atol=1e-7)


def test_it_learns_and_its_probes_have_rulers(tmp_path: Path) -> None:
    done = train.run(options(tmp_path, rounds=12, clients=2, local_epochs=2, client_lr=0.01, server_lr=0.01, optimiser_state="keep"))
    own = classifier.run(classifier.Options(checkpoint=str(done.path)))
    assert own["accuracy"] > 0.9
    assert own["raw_pixels"]["title"] == "the bag of words"
    assert "the bag of words" in own["verdict"]
    assert knn.run(knn.Options(checkpoint=str(done.path), features="smashed"))["accuracy"] > 0.5
    assert "of sentences, on the bag of words" in build.write(done.path.parent).read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="rebuilds images"):
        invert.run(invert.Options(checkpoint=str(done.path), method="ridge"))


def test_what_goes_wrong_on_the_command_line_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train", "--config", "sentences.yaml", "--data-dir", str(tmp_path / "nowhere")])
    assert configuration.fields.command(train.main) != 0
    assert "does not exist" in capsys.readouterr().err
