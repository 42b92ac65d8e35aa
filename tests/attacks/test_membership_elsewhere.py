"""Membership attacks on encoders from elsewhere: weights from a file, pictures in folders."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from attacks import membership
from attacks.members import elsewhere, memoriser
from attacks.members.api import METHODS
from attacks.members.infer import Inference, OwnEncoder, infer
from ssl_split import fields
from ssl_split.files import read_tensors

BUILD = """
from attacks.members.memoriser import Memoriser

def build():
    return Memoriser()
"""
VECTORS = """
from torch import nn

def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(768, 8))
"""
AS_TRAINED = ("--augment.crop-scale", "1", "--augment.jitter", "0.2", "--augment.hue", "0", "--augment.grayscale-probability", "0",
              "--augment.blur-probability", "0")
"""`memoriser.MILD` in words."""
SMALL = ("--views", "4", "--crops", "8")
LEAST = {"norm": 0.95, "alignment": 0.85, "encodermi": 0.85, "partcrop": 0.85, "lira": 0.9}
"""AUC at which an attack, with so few views and crops, has caught the encoder."""


@dataclass(frozen=True)
class Made:
    """An encoder that knows its members by heart and two of the attacker's own: in memory, and as files under `root`."""

    root: Path
    members: Tensor
    others: Tensor
    own: Tensor
    client: memoriser.Memoriser
    encoders: list[OwnEncoder]


def _pictures(folder: Path, images: Tensor) -> None:
    folder.mkdir(parents=True)
    for i, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{i:03d}.png")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    root = tmp_path_factory.mktemp("elsewhere")
    asked, own = memoriser.random_images(80, seed=0), memoriser.random_images(120, seed=1)
    (root / "client.py").write_text(BUILD)
    (root / "vectors.py").write_text(VECTORS)
    client, encoders = memoriser.memorise(asked[:40], seed=0), memoriser.own_encoders(own)
    save_file(client.state_dict(), str(root / "client.safetensors"))
    for k, encoder in enumerate(encoders):
        assert isinstance(encoder.client, memoriser.Memoriser)
        save_file(encoder.client.state_dict(), str(root / f"own{k}.safetensors"))
        _pictures(root / f"half{k}", own[encoder.seen])
    for name, images in (("in", asked[:40]), ("out", asked[40:]), ("own", own)):
        _pictures(root / name, images)
    return Made(root, asked[:40], asked[40:], own, client, encoders)


def _words(made: Made, out: Path, method: str) -> list[str]:
    root, half = str(made.root), ("0.5",) * 3
    return ["--encoder", f"{root}/client.py:build", "--weights", f"{root}/client.safetensors", "--members", f"{root}/in", "--nonmembers",
            f"{root}/out", "--aux", f"{root}/own", "--own-weights", f"{root}/own0.safetensors", f"{root}/own1.safetensors", "--own-members",
            f"{root}/half0", f"{root}/half1", "--image-size", "16", "--mean", *half, "--std", *half, "--out", str(out), "--device", "cpu",
            "--method", method, *SMALL, *AS_TRAINED]


def _result(out: Path, method: str) -> tuple[dict[str, Any], Path]:
    (file,) = out.glob(f"client-*/attacks/membership-{method}-*/result.json")
    values: dict[str, Any] = json.loads(file.read_text())
    return values, file.parent


def _from_python(made: Made, words: list[str], method: str) -> Inference:
    """`infer` on the pictures as they were before they became files; the attacker's in the order of the command."""
    case = elsewhere.ForeignCase(fields.parse(membership.Options, words, "", ""), device=torch.device("cpu"))
    ordered = case.pictures["aux"].images
    place = {x.numpy().tobytes(): i for i, x in enumerate(made.own)}
    order = torch.tensor([place[x.numpy().tobytes()] for x in ordered])
    assert sorted(order.tolist()) == list(range(len(made.own)))
    encoders = [OwnEncoder(e.client, e.seen[order]) for e in made.encoders]
    return infer(made.client, made.members, made.others, ordered, method=method, shadows=encoders, untrained=case.foreign.make(0),
                 augment=memoriser.MILD, mean=memoriser.HALF, std=memoriser.HALF, **memoriser.SMALL)


@pytest.mark.parametrize("method", memoriser.METHODS)
def test_an_encoder_that_knows_its_images_by_heart_is_caught(made: Made, tmp_path: Path, method: str) -> None:
    """Every possible attack finds the members and nothing on the untrained encoder, with the scores that `infer` gives from Python."""
    words = _words(made, tmp_path, method)
    membership.main(words)
    result, folder = _result(tmp_path, method)
    assert result["low"] > 0.7
    assert result["auc"] > LEAST[method]
    assert result["rows"][result["headline"]]["untrained"]["low"] < 0.5 < result["rows"][result["headline"]]["untrained"]["high"]
    expected = _from_python(made, words, method)
    scores = read_tensors(folder / "scores.safetensors")
    assert torch.equal(scores["members"], expected.truth)
    torch.testing.assert_close(scores["scores"], expected.scores, rtol=1e-5, atol=1e-5)
    keys = ("place", "score", "needs", "auc", "low", "high", "tpr", "validation_auc", "untrained")
    assert json.loads(json.dumps([{k: row[k] for k in keys} for row in expected.rows])) == [{k: r[k] for k in keys} for r in result["rows"]]
    assert (result["members"], result["nonmembers"]) == (40, 40)
    assert result["encoders"] == (2 if METHODS.index(method) > 1 else 0)
    assert (folder / "roc.png").is_file()


def test_an_untrained_encoder_is_not_caught_and_has_no_ruler(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What `build` makes, attacked as it is."""
    for method in ("norm", "alignment"):
        membership.main([*_words(made, tmp_path, method), "--weights", "none"])
        result, _ = _result(tmp_path, method)
        assert result["low"] < 0.5 < result["high"]
        assert result["untrained_auc"] is None
        shown = capsys.readouterr().out
        assert "weights as build makes them" in shown
        assert "balanced  untrained" not in shown
    assert not (tmp_path / ".rulers").exists()


def test_a_picture_that_comes_twice_in_a_folder_is_asked_about_once(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The scores are those without the copies, which are named."""
    plain, words = _words(made, tmp_path / "plain", "norm"), _words(made, tmp_path / "twice", "norm")
    shutil.copytree(made.root / "in", tmp_path / "in")
    for name in ("000", "007"):
        shutil.copy(tmp_path / "in" / f"{name}.png", tmp_path / "in" / f"{name}copy.png")
    membership.main(plain)
    capsys.readouterr()
    membership.main([*words, "--members", str(tmp_path / "in")])
    shown = " ".join(capsys.readouterr().out.split())
    assert f"Note: 2 pictures come a second time and were left out of --members {tmp_path / 'in'}." in shown
    result, folder = _result(tmp_path / "twice", "norm")
    assert result["members"] == result["sets"]["members"] == 40
    one, other = (read_tensors(where / "scores.safetensors")["scores"] for where in (folder, _result(tmp_path / "plain", "norm")[1]))
    assert torch.equal(one, other)
    (tmp_path / "same").mkdir()
    for name in ("a", "b"):
        shutil.copy(made.root / "in" / "000.png", tmp_path / "same" / f"{name}.png")
    with pytest.raises(ValueError, match="are one and the same: at least two are needed"):
        membership.main([*words, "--members", str(tmp_path / "same")])


def test_names_follow_what_is_read(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A second time nothing is computed; what an attack does not read changes no name, views and pictures do; one ruler serves again."""
    words = _words(made, tmp_path, "alignment")
    membership.main(words)
    first = capsys.readouterr()
    at = words.index("--aux")
    membership.main([*words[:at], *words[at + 2 :]])
    again = capsys.readouterr()
    assert "exists and is not computed again" in again.err
    assert again.out == first.out
    assert _result(tmp_path, "alignment")[0]["needs"] == ["query"]
    membership.main([*words, "--augment.kind", "mocov2"])  # what auto means here
    assert len(list(tmp_path.glob("client-*/attacks/*"))) == 1
    membership.main([*words, "--augment.kind", "standard"])
    membership.main([*words[:at], *words[at + 2 :], "--members", str(made.root / "half0")])
    assert len(list(tmp_path.glob("client-*/attacks/*"))) == 3
    assert len(list((tmp_path / ".rulers").glob("membership-alignment-*.json"))) == 3


def test_members_and_others_are_treated_alike(made: Made, tmp_path: Path) -> None:
    """With the folders changed over, every image has the score that it had: the AUC is one minus what it was."""
    words = _words(made, tmp_path / "a", "norm")
    membership.main(words)
    membership.main([*_words(made, tmp_path / "b", "norm"), "--members", str(made.root / "out"), "--nonmembers", str(made.root / "in")])
    one, two = (_result(tmp_path / name, "norm")[0]["rows"] for name in "ab")
    assert [r["auc"] for r in two] == pytest.approx([1 - r["auc"] for r in one])


def _lossy(made: Made, out: Path) -> list[str]:
    """A folder with one of the members among others."""
    images = torch.cat([made.others[:5], made.members[:1]])
    _pictures(out / "mixed", images)
    return ["--nonmembers", str(out / "mixed")]


def _known(made: Made, out: Path) -> list[str]:
    _pictures(out / "own", torch.cat([made.own, made.others[3:5]]))
    return ["--aux", str(out / "own")]


def _strange(made: Made, out: Path) -> list[str]:
    _pictures(out / "strange", torch.cat([made.own[:5], memoriser.random_images(2, seed=9)]))
    return ["--own-members", str(out / "strange"), str(out / "strange")]


def _single(made: Made, out: Path) -> list[str]:
    _pictures(out / "single", made.others[:1])
    return ["--nonmembers", str(out / "single")]


def _alone(*words: str) -> Callable[[Made, Path], list[str]]:
    return lambda made, out: list(words)


@pytest.mark.parametrize(("method", "change", "message"), [
    ("norm", _lossy, "1 image is both among the pictures of --members"),
    ("norm", _known, "2 images are both among the pictures of --nonmembers"),
    ("alignment", _known, "2 images are both among the pictures of --nonmembers"),
    ("norm", _single, "holds one picture: at least two are needed"),
    ("lira", _strange, "2 of the 7 pictures of --own-members"),
    ("norm", _alone("--aux", "none"), "norm needs aux_same (has images of the same distribution"),
    ("lira", _alone("--own-weights", "none"), "two or more (--own-weights A B), and for each the folder"),
    ("partcrop", _alone("--own-members", "."), "here are 2 and 1"),
    ("lira", _alone("--online", "true"), "--online belongs to a run"),
    ("lira", _alone("--encoders", "4"), "--encoders belongs to a run"),
    ("lira", _alone("--score", "infonce"), "lira --score infonce needs server_model"),
    ("infonce", _alone(), "infonce needs server_model (knows the server's half of the network and its queue)"),
    ("momentum-gap", _alone(), "momentum-gap needs momentum_weights"),
    ("loss", _alone(), "loss needs server_model"),
    ("confidence", _alone(), "confidence needs server_model"),
    ("rmia", _alone(), "rmia needs server_model"),
    ("alignment", _alone("--augment.kind", "none", *(w for name in AS_TRAINED[::2] for w in (name, "none"))), "makes all views of an"),
    ("norm", _alone("--members", "40"), "needs folders of pictures: --members DIR (it was trained on them) and --nonmembers DIR"),
    ("norm", _alone("--nonmembers", "none"), "needs folders of pictures: --members DIR"),
    ("norm", _alone("--nonmembers", "nowhere"), "--nonmembers nowhere: there is no such folder"),
    ("lira", _alone("--own-members", "nowhere", "nowhere"), "--own-members nowhere: there is no such folder"),
    ("lira", _alone("--own-weights", "no.safetensors", "no.safetensors"), "there is no file of weights no.safetensors"),
    ("norm", _alone("--image-size", "20"), "the client fails on images of 3x20x20"),
    ("norm", _alone("--checkpoint", "runs/a"), "name two clients"),
    ("norm", _alone("--encoder", "none"), "--weights belongs to a client from elsewhere"),
])
def test_bad_input_is_one_sentence(made: Made, tmp_path: Path, method: str, change: Callable[[Made, Path], list[str]], message: str,
                                   monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["membership", *_words(made, tmp_path, method), *change(made, tmp_path)])
    assert fields.command(membership.main) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert message in said
    assert not list(tmp_path.glob("client-*"))


def test_vectors_have_no_parts(made: Made, tmp_path: Path) -> None:
    words = [*_words(made, tmp_path, "partcrop"), "--encoder", f"{made.root}/vectors.py:build", "--weights", "none"]
    torch.manual_seed(0)
    for k in range(2):
        torch.save({"1.weight": torch.randn(8, 768), "1.bias": torch.zeros(8)}, tmp_path / f"own{k}.pth")
    with pytest.raises(ValueError, match="this network has none: its activations are vectors"):
        membership.main([*words, "--own-weights", *(str(tmp_path / f"own{k}.pth") for k in range(2))])


@pytest.mark.parametrize(("words", "message"), [
    (("--members", "photos"), "--members photos is no number: a folder goes with --encoder"),
    (("--nonmembers", "photos"), "--nonmembers photos is no number"),
    (("--aux", "photos"), "--aux belongs to a client from elsewhere: give --encoder"),
    (("--own-weights", "a", "b"), "--own-weights belongs to a client from elsewhere"),
    (("--own-members", "a", "b"), "--own-members belongs to a client from elsewhere"),
    (("--augment.kind", "mocov1"), "--augment belongs to a client from elsewhere"),
    (("--image-size", "32"), "--image-size belongs to a client from elsewhere"),
    (("--members", "5"), "members = 5 is impossible"),
])
def test_runs_have_no_folders(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError) as raised:
        membership.main(words)
    assert message in str(raised.value)
