"""Clients from elsewhere on the command line: any module, its weights from a file, pictures from folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torchvision.models import resnet18

from attacks import elsewhere, foreign, invert, label
from ssl_split import fields

BUILD = """
from collections import OrderedDict
from torch import nn
from torchvision.models import resnet18

def build():
    network = resnet18()
    return nn.Sequential(OrderedDict((name, part) for name, part in network.named_children() if name in ("conv1", "bn1", "relu")))
"""
CLASSES = ("dark", "light")


def _pictures(folder: Path, count: int, seed: int) -> Path:
    """Smooth pictures in two class folders that differ in brightness."""
    generator = torch.Generator().manual_seed(seed)
    for i in range(count):
        coarse = 0.5 * torch.rand(1, 3, 4, 4, generator=generator) + 0.5 * (i % 2)
        pixels = (255 * nn.functional.interpolate(coarse, size=32, mode="bilinear")[0]).byte().permute(1, 2, 0).numpy()
        inner = folder / CLASSES[i % 2]
        inner.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(inner / f"{i}.png")
    return folder


CUTS = """
import torch
from torch import nn

class Pooled(nn.Module):
    def __init__(self, stride):
        super().__init__()
        self.layer, self._stride = nn.Conv2d(3, 4, 3, bias=False), stride

    def forward(self, x):
        return nn.functional.avg_pool2d(self.layer(x), 2, stride=self._stride)

class Noisy(Pooled):
    def forward(self, x):
        return self.layer(x) + torch.randn(1)

def short(): return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
def deeper(): return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))
def smooth(): return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GELU())
def strided(): return nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU())
def bounded(): return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU6())
def fine(): return Pooled(1)
def coarse(): return Pooled(2)
def noisy(): return Noisy(1)
"""


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command of docs/attacks.md on a torchvision ResNet-18, with the weights of more than the client."""
    monkeypatch.chdir(tmp_path)
    Path("client.py").write_text(BUILD)
    torch.manual_seed(3)
    weights = resnet18().state_dict()
    torch.save({k: v for k, v in weights.items() if k.startswith(("conv1", "bn1", "layer1.0"))}, "resnet18.pth")
    _pictures(Path("victims"), 12, 0)
    _pictures(Path("own"), 60, 1)
    return ["--encoder", "client.py:build", "--weights", "resnet18.pth", "--targets", "victims", "--aux", "own",
            "--mean", "0.485", "0.456", "0.406", "--std", "0.229", "0.224", "0.225", "--out", "found"]


def _result(method: str) -> dict[str, Any]:
    (file,) = Path("found").glob(f"client-*/attacks/{method}-*/result.json")
    values: dict[str, Any] = json.loads(file.read_text())
    return values


def test_a_torchvision_network(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Result, picture and table beside the untrained client; the second time nothing is computed; the numbers are those of the API."""
    _pictures(Path("judge"), 40, 2)
    invert.main([*words, "--method", "ridge", "--gallery", "judge"])
    shown = capsys.readouterr()
    result = _result("ridge")
    assert result["r2"] > 0.5
    assert (result["targets"], result["aux"], result["smashed_shape"]) == (12, 60, [64, 16, 16])
    assert result["untrained_r2"] > 0.5
    assert result["identification"]["gallery"] == 52
    assert result["classification"]["true_targets"]["rate"] == 1
    assert "resnet18.pth holds" in result["notices"][0]
    assert "layer1" in shown.err
    assert len(list(Path("found").glob("client-*/attacks/ridge-*/images.png"))) == 1
    assert shown.out.splitlines()[-1].startswith("next: python -m attacks.invert --encoder client.py:build --weights resnet18.pth")
    invert.main([*words, "--method", "ridge", "--gallery", "judge"])
    assert "exists and is not computed again" in capsys.readouterr().err
    options = fields.parse(invert.Options, [*words, "--method", "ridge"], "invert", "")
    case = invert._case(options)
    assert isinstance(case, elsewhere.ForeignCase)
    aux = torch.cat([case.own.fit, case.own.validation])
    assert len(aux) == 60
    network = resnet18()
    network.load_state_dict(torch.load("resnet18.pth", weights_only=True), strict=False)
    client = nn.Sequential(network.conv1, network.bn1, network.relu).eval()
    x = (case.targets - torch.tensor(case.foreign.mean).view(3, 1, 1)) / torch.tensor(case.foreign.std).view(3, 1, 1)
    torch.testing.assert_close(case.attacked().release(case.targets), client(x).detach())


def test_labels_from_class_folders(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    label.main(words)
    result = _result("label-fewshot")
    assert max(row["accuracy"] for row in result["rows"]) == 1
    assert len(result["untrained"]) == len(result["rows"])
    assert (result["headline_from"], result["options"]["headline"]) == ("the attacker's own images", "own images")
    assert result["chance"] == 0.5
    assert result["verdict"] in capsys.readouterr().out
    Path("flat").mkdir()
    for file in Path("own/dark").iterdir():
        file.rename(Path("flat") / file.name)
    with pytest.raises(ValueError, match="one folder a class"):
        label.main([*words, "--aux", "flat"])
    Path("own/dark").rmdir()
    with pytest.raises(ValueError, match="--targets has classes that --aux lacks"):
        label.main([*words, "--aux", "own"])


def test_without_weights_there_is_no_untrained_ruler(words: list[str]) -> None:
    """What `build` makes is attacked as it is."""
    at = words.index("--weights")
    invert.main([*words[:at], *words[at + 2 :], "--method", "blind"])
    assert _result("blind")["checkpoint"]["file"] is None
    options = fields.parse(invert.Options, [*words[:at], *words[at + 2 :], "--method", "ridge"], "invert", "")
    assert invert._case(options).untrained is None


def _client(words: list[str], function: str) -> elsewhere.ForeignClient:
    """A client of `CUTS` with weights from a file."""
    Path("cuts.py").write_text(CUTS)
    options = fields.parse(invert.Options, [*words, "--encoder", f"cuts.py:{function}", "--weights", "cuts.pth"], "invert", "")
    return elsewhere.ForeignClient(options, "victims", "own", device=torch.device("cpu"))


def test_clients_with_equal_weights_that_compute_otherwise_have_names_of_their_own(words: list[str]) -> None:
    """Another end, stride or activation leaves all tensors as they are; where `forward` pools by a function, the structure too."""
    torch.manual_seed(0)
    torch.save({f"{i}.{k}": v for i, layer in enumerate((nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))) for k, v in layer.state_dict().items()}
               | {"layer.weight": torch.randn(4, 3, 3, 3)}, "cuts.pth")
    names = ("short", "deeper", "smooth", "strided", "bounded", "fine", "coarse", "noisy")
    made = {name: _client(words, name) for name in names}
    assert len({client.name for client in made.values()}) == len({client.key["client"] for client in made.values()}) == 8
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    torch.manual_seed(1)
    try:
        again = {name: _client(words, name).name for name in names}
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
    assert again == {name: client.name for name, client in made.items()}


def test_the_untrained_ruler_is_that_of_the_clients_own_cut(words: list[str]) -> None:
    """Two cuts, one after the other, with the same weights: each has a result and a ruler of its own."""
    Path("longer.py").write_text(BUILD.replace('"relu")', '"relu", "maxpool")'))
    for encoder in ("client.py", "longer.py"):
        Path("encoder.py").write_text(Path(encoder).read_text())
        invert.main([*words, "--encoder", "encoder.py:build", "--method", "ridge"])
    results = [json.loads(p.read_text()) for p in Path("found").glob("encoder-*/attacks/ridge-*/result.json")]
    assert sorted(r["smashed_shape"] for r in results) == [[64, 8, 8], [64, 16, 16]]
    assert results[0]["untrained_mse"] != results[1]["untrained_mse"]
    assert len(list(Path("found/.rulers").glob("invert-ridge-*.json"))) == 2


def test_weights_as_safetensors(words: list[str]) -> None:
    found = torch.load("resnet18.pth", weights_only=True)
    save_file({k: v.contiguous() for k, v in found.items()}, "w.safetensors")
    assert all(torch.equal(v, found[k]) for k, v in foreign.read_weights("w.safetensors").items())
    torch.save({"state_dict": found, "epoch": 3}, "nested.pth")
    assert set(foreign.read_weights("nested.pth")) == set(found)


def _truncated() -> list[str]:
    whole = Path("resnet18.pth").read_bytes()
    Path("half.pth").write_bytes(whole[: len(whole) // 2])
    return ["--weights", "half.pth"]


def _truncated_safetensors() -> list[str]:
    save_file({"a": torch.zeros(100)}, "a.safetensors")
    Path("half.safetensors").write_bytes(Path("a.safetensors").read_bytes()[:200])
    return ["--weights", "half.safetensors"]


def _pickle() -> list[str]:
    torch.save(nn.Linear(2, 2), "module.pth")
    return ["--weights", "module.pth"]


def _other_network() -> list[str]:
    torch.save(nn.Linear(2, 2).state_dict(), "other.pth")
    return ["--weights", "other.pth"]


def _other_shape() -> list[str]:
    weights = torch.load("resnet18.pth", weights_only=True)
    torch.save({**weights, "conv1.weight": torch.zeros(64, 1, 7, 7)}, "grey.pth")
    return ["--weights", "grey.pth"]


def _shared() -> list[str]:
    Path("own/dark/copy.png").write_bytes(Path("victims/dark/0.png").read_bytes())
    return []


def _linear() -> list[str]:
    Path("vector.py").write_text("from torch import nn\ndef build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(7, 2))\n")
    return ["--encoder", "vector.py:build", "--weights", "none"]


def _transformer() -> list[str]:
    Path("vit.py").write_text("from torchvision.models import VisionTransformer\ndef build():\n"
                              "    return VisionTransformer(64, 16, 1, 1, 8, 8)\n")
    return ["--encoder", "vit.py:build", "--weights", "none"]


def _no_module() -> list[str]:
    Path("list.py").write_text("def build():\n    return [1]\n")
    return ["--encoder", "list.py:build"]


@pytest.mark.parametrize(("change", "message"), [
    (_truncated, "half.pth is truncated or no file of weights"),
    (_truncated_safetensors, "half.safetensors is truncated or damaged"),
    (_pickle, "module.pth is damaged or holds more than tensors"),
    (_other_network, "does not fit what client.py:build returns: it lacks 6 of 6 tensors"),
    (_other_shape, "conv1.weight has shape (64, 1, 7, 7) instead of (64, 3, 7, 7)"),
    (_shared, "1 of the 61 auxiliary images are targets"),
    (_linear, "the client fails on images of 3x32x32 (RuntimeError"),
    (_transformer, "the client fails on images of 3x32x32 (AssertionError: Wrong image height!"),
    (_no_module, "list.py:build must return an nn.Module, not list"),
    (lambda: ["--weights", "nowhere.pth"], "there is no file of weights nowhere.pth"),
    (lambda: ["--encoder", "nowhere.py:build"], "there is no file nowhere.py"),
    (lambda: ["--encoder", "client.py:make"], "has no function 'make', which should return the client half"),
    (lambda: ["--aux", "nowhere"], "--aux nowhere: there is no such folder"),
    (lambda: ["--aux", "50"], "needs folders of pictures"),
    (lambda: ["--checkpoint", "runs/a"], "name two clients"),
    (lambda: ["--encoder", "none"], "--weights belongs to a client from elsewhere"),
    (lambda: ["--method", "oracle"], "oracle needs private_pairs"),
    (lambda: ["--image-size", "4"], "image_size = 4 is impossible"),
])
def test_bad_input_is_one_sentence(words: list[str], change: Callable[[], list[str]], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError)) as raised:
        invert.main([*words, "--method", "ridge", *change()])
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_folder_needs_an_encoder() -> None:
    with pytest.raises(ValueError, match="--targets photos is no number: a folder goes with --encoder"):
        invert.main(["--targets", "photos"])
