"""Every configuration that ships is legal and runs two steps on the embedded images, or on generated sentences."""

import sys
from pathlib import Path

import pytest

from ssl_split import config as configuration
from ssl_split import fields, train

sys.path.append(str(Path(__file__).parents[1] / "data"))
import phrases

FILES = sorted(p for p in (Path(__file__).parents[2] / "configs").rglob("*.yaml") if p.parent.name != "sweeps")


def test_number_of_configurations() -> None:
    assert len(FILES) == 16


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_two_steps(path: Path, tmp_path: Path) -> None:
    config = configuration.load(path)
    header = path.read_text(encoding="utf-8").split("\n\n")[0]
    assert "Time:" in header
    assert "Command:" in header
    text = config.dataset == "tsv"
    data = {"data_dir": str(phrases.write(tmp_path / "data"))} if text else {"dataset": "digits", "width": 0.125}
    small = fields.merge(config.to_dict(), {**data, "max_steps": 2, "out": str(tmp_path), "threads": 1, "train_images": None,
                                            "clients": min(config.clients, 20), "batch_size": min(config.batch_size, 4),
                                            "clients_per_round": config.clients_per_round and min(config.clients_per_round, 20),
                                            "validate_every_rounds": 0, "image_size": 16})
    done = train.run(configuration.from_dict(small))
    assert done.result["steps"] == 2
