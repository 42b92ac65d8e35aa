"""Every configuration that ships is legal and runs two steps on the embedded images."""

from pathlib import Path

import pytest

from ssl_split import config as configuration
from ssl_split import fields, train

FILES = sorted(p for p in (Path(__file__).parents[2] / "configs").rglob("*.yaml") if p.parent.name != "sweeps")


def test_number_of_configurations() -> None:
    assert len(FILES) == 12


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_two_steps(path: Path, tmp_path: Path) -> None:
    config = configuration.load(path)
    header = path.read_text(encoding="utf-8").split("\n\n")[0]
    assert "Time:" in header
    assert "Command:" in header
    small = fields.merge(config.to_dict(), {"dataset": "digits", "max_steps": 2, "width": 0.125, "out": str(tmp_path), "threads": 1,
                                            "train_images": None, "clients": min(config.clients, 20),
                                            "batch_size": min(config.batch_size, 4),
                                            "clients_per_round": config.clients_per_round and min(config.clients_per_round, 20),
                                            "validate_every_rounds": 0, "image_size": 16})
    done = train.run(configuration.from_dict(small))
    assert done.result["steps"] == 2
