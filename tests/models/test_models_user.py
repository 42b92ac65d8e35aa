"""`--arch FILE.py:build`: what a user's function may return, and one sentence for everything else."""

from pathlib import Path

import pytest
import torch
from tiny_networks import images, options

from ssl_split.models.split import Network, build, build_units

LIST = """
import torch
from torch import nn

def build():
    return [nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU()), nn.BatchNorm2d(6), nn.Sequential(nn.Conv2d(6, 9, 3), nn.ReLU())]
"""


def _build(tmp_path: Path, text: str, *, cut: int | str = 1, name: str = "build", seed: int = 0) -> Network:
    (tmp_path / "mine.py").write_text(text)
    return build(options(f"{tmp_path / 'mine.py'}:{name}", cut, seed=seed), image_size=16)


def test_plain_modules_can_be_cut_after_each(tmp_path: Path) -> None:
    network = _build(tmp_path, LIST, cut=2)
    assert network.legal_cuts == (0, 1, 2, 3, "full")
    assert network.smashed_shape == (6, 16, 16)
    assert network.feature_dim == 9
    x = images().float()
    assert network(x).shape == (2, 8)
    assert torch.equal(network.server(network.client(x)), network(x))
    assert list(network.client.state_dict()) == [name for name in network.state_dict() if name.startswith(("units.0", "units.1"))]


def test_finding_shapes_leaves_running_statistics(tmp_path: Path) -> None:
    network = _build(tmp_path, LIST)
    assert not network.units["1"].running_mean.any()
    assert network.units["1"].num_batches_tracked == 0


def test_units_carry_their_own_labels_and_the_function_gets_what_it_names(tmp_path: Path) -> None:
    network = _build(tmp_path, """
from dataclasses import dataclass
from torch import nn
from ssl_split.models.split import Unit
from ssl_split.models.layers import channels

@dataclass
class Shape:
    width: "int"

def build(image_size, *, config):
    w = Shape(channels(64, config.width)).width
    return [Unit("stem", nn.Conv2d(3, w, 3, padding=1), 2), Unit("middle", nn.ReLU(), None),
            Unit("end", nn.Sequential(nn.Flatten(), nn.Linear(w * image_size ** 2, 5)), 7)]
""", cut=7)
    assert network.legal_cuts == (0, 2, 7, "full")
    assert network.unit_names == ("stem", "middle", "end")
    assert network.smashed_shape == (5,)
    assert network.feature_dim == 5
    assert network.units["0"].weight.shape == (8, 3, 3, 3)


def test_weights_follow_the_seed_and_the_global_generator_is_put_back(tmp_path: Path) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = _build(tmp_path, LIST)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(1)
    second, other, deeper = _build(tmp_path, LIST), _build(tmp_path, LIST, seed=1), _build(tmp_path, LIST, cut=3)
    for network, same in ((second, True), (deeper, True), (other, False)):
        assert torch.equal(network.units["0"][0].weight, first.units["0"][0].weight) is same
        assert torch.equal(network.head.layers[0].weight, first.head.layers[0].weight) is same


def test_an_illegal_cut_names_the_legal_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cut 4 does not exist in .*mine.py:build: legal cuts are 0, 1, 2, 3, full"):
        _build(tmp_path, LIST, cut=4)


HEAD = "from torch import nn\nfrom ssl_split.models.split import Unit\n"


@pytest.mark.parametrize(("text", "message"), [
    ("def build(:\n", r"mine.py, line 1: loading it fails with SyntaxError"),
    ("import nothing_like_this\n", r"mine.py, line 1: loading it fails with ModuleNotFoundError: No module named 'nothing_like_this'"),
    ("raise SystemExit(3)\n", r"loading it fails with SystemExit: 3"),
    ("x = 1\n", r"mine.py has no function 'build'"),
    ("build = 1\n", r"mine.py has no function 'build'"),
    ("def build():\n    return 1 / 0\n", r"mine.py, line 2: calling build fails with ZeroDivisionError: division by zero"),
    ("def build(depth):\n    return []\n", r"calling build fails with TypeError: .*depth"),
    ("def build():\n    return []\n", r"at least one entry, not an empty list"),
    ("def build():\n    return 3\n", r"must return a list of nn.Module or Unit with at least one entry, not int"),
    (HEAD + "def build():\n    return nn.Sequential(nn.ReLU())\n", r"not Sequential; list\(model\) makes one"),
    (HEAD + "def build():\n    return [nn.ReLU(), 'relu']\n", r"entry 2 of the list .* must be an nn.Module or a Unit, not str"),
    (HEAD + "def build():\n    return [Unit('a', nn.ReLU(), 2), nn.ReLU(), Unit('b', nn.ReLU(), 2)]\n",
     r"must be positive integers that rise from unit to unit, not \[2, 2, 2\]"),
    (HEAD + "def build():\n    return [Unit('a', nn.ReLU(), 0)]\n", r"must be positive integers that rise from unit to unit, not \[0\]"),
    (HEAD + "def build():\n    a = nn.Conv2d(3, 3, 1)\n    return [a, nn.ReLU(), a]\n", r"units 1 and 3 .* share weights"),
    (HEAD + "def build():\n    return [nn.Conv2d(3, 8, 3), nn.Conv2d(9, 8, 3)]\n",
     r"unit 2 \(2: Conv2d\) does not run on \(8, 14, 14\), which it gets for images of 16 pixels: "),
    (HEAD + "class Two(nn.Module):\n    def forward(self, x):\n        return x, x\ndef build():\n    return [Two()]\n",
     r"unit 1 \(1: Two\) returns tuple: it must return"),
    (HEAD + "class Flat(nn.Module):\n    def forward(self, x):\n        return x.flatten()\ndef build():\n    return [Flat()]\n",
     r"returns shape \(1536,\) for a batch of 2"),
])
def test_mistakes_are_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        _build(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_a_missing_file_or_function(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no file"):
        build_units(options(f"{tmp_path / 'none.py'}:build"), 16)
    with pytest.raises(ValueError, match="has no function 'nets'"):
        _build(tmp_path, LIST, name="nets")
