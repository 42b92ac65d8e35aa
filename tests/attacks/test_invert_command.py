"""The command on a checkpoint that the real training loop wrote."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from attacks import case as cases
from attacks import invert
from ssl_split import config, train
from ssl_split.data import images
from ssl_split.files import read_tensors
from ssl_split.run import open_checkpoint

KEYS = {"kind", "name", "preset", "mse", "psnr", "psnr_of_mean_mse", "ssim", "r2", "ssim_gain", "blind_mse", "blind_ssim", "untrained_mse",
        "untrained_ssim", "untrained_r2", "intervals", "validation_mse", "verdict", "targets", "aux", "seeds", "per_seed", "budget",
        "needs", "cut", "smashed_shape", "options", "checkpoint", "seconds", "environment", "command"}
"""What sweeps and reports read."""
SETTINGS = {"dataset": "digits", "image_size": 16, "width": 0.125, "clients": 3, "batch_size": 4, "rounds": 1, "syncs_per_round": 1,
            "queue_size": 64, "symmetric": "none", "validate_every_rounds": 0, "train_images": 60,
            "head": {"hidden": 16, "out": 8}}
SMALL = ["--targets", "8", "--aux", "40"]
DECODER = ["--decoder.steps", "6", "--decoder.blocks", "0", "--decoder.channels", "8", "--seeds", "2"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs")
    return train.run(config.from_dict({**SETTINGS, "cut": 5, "out": str(out)})).path


@pytest.fixture
def run_dir(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "runs" / trained.name))


def _read(run_dir: Path, name: str) -> dict[str, Any]:
    (file,) = run_dir.glob(f"attacks/{name}-*/result.json")
    values: dict[str, Any] = json.loads(file.read_text())
    return values


@pytest.mark.parametrize(("method", "extra", "needs"), [
    ("blind", [], ["aux_same"]), ("ridge", [], ["smashed", "query", "aux_same"]), ("decoder", DECODER, ["smashed", "query", "aux_same"]),
    ("oracle", DECODER, ["smashed", "query", "private_pairs"]),
    ("optimise", ["--optimise.steps", "8", "--budget", "quick"], ["smashed", "query", "weights", "aux_same"]),
    ("unsplit", ["--unsplit.rounds", "2", "--unsplit.steps", "4", "--seeds", "1"], ["smashed", "architecture"]),
    ("fora", ["--fora.iterations", "2", "--fora.width", "4", *DECODER],
     ["smashed", "aux_same", "server_training"]),
    ("twoview", ["--optimise.steps", "4", "--optimise.tv", "0.01", "--budget", "quick"],
     ["smashed", "query", "weights", "momentum_view", "second_view", "aux_same", "momentum_weights"]),
    ("sdar", ["--sdar.iterations", "2", "--sdar.batch-size", "8", "--sdar.width", "4", *DECODER],
     ["smashed", "architecture", "server_model", "server_training", "aux_same"]),
    pytest.param("pcat", ["--pcat.iterations", "2", "--pcat.batch-size", "8", *DECODER],
                 ["smashed", "architecture", "server_model", "aux_same"], marks=pytest.mark.slow),
])
def test_course(run_dir: Path, capsys: pytest.CaptureFixture[str], method: str, extra: list[str], needs: list[str]) -> None:
    """Result file, picture, tensors, cached ruler and table; the second time nothing is computed."""
    words = ["--checkpoint", str(run_dir), "--method", method, *SMALL, *extra]
    invert.main(words)
    shown = capsys.readouterr().out
    result = _read(run_dir, method)
    assert set(result) >= KEYS
    assert (result["kind"], result["name"], result["cut"], result["targets"], result["aux"]) == ("attack", method, 5, 8, 40)
    assert result["needs"] == needs
    assert len(result["smashed_shape"]) == 3
    assert result["verdict"] in shown
    assert "blind guess" in shown
    folder = next(run_dir.glob(f"attacks/{method}-*"))
    assert Image.open(folder / "images.png").width > 500
    assert str(folder / "images.png") in shown
    assert shown.splitlines()[-1].startswith("next: python -m ")
    tensors = read_tensors(folder / "reconstructions.safetensors")
    assert tensors["targets"].shape == tensors["reconstructions"].shape == (8, 3, 16, 16)
    rulers = list((run_dir.parent / ".rulers").glob(f"invert-{method}-untrained-*.json"))
    assert len(rulers) == (0 if method == "blind" else 1)
    before = {p: p.stat().st_mtime_ns for p in run_dir.rglob("*")}
    invert.main(words)
    again = capsys.readouterr()
    assert "exists and is not computed again" in again.err
    assert again.out == shown
    assert {p: p.stat().st_mtime_ns for p in run_dir.rglob("*")} == before


def test_a_result_from_before_defences_and_identification_is_shown(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Results are kept over versions of the program: what an older one lacks is left out, not a traceback."""
    words = ["--checkpoint", str(run_dir), "--method", "ridge", *SMALL]
    invert.main(words)
    shown = capsys.readouterr().out
    (file,) = run_dir.glob("attacks/ridge-*/result.json")
    lacking = ("defence", "adaptive", "identification", "classification")
    file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k not in lacking}))
    invert.main(words)
    older = capsys.readouterr().out.splitlines()
    assert set(older) < set(shown.splitlines())


def test_numbers_are_those_of_the_tensors(run_dir: Path) -> None:
    """The error in the file equals the error of the stored reconstructions, up to their 16 bits; the headline is ridge's own."""
    invert.main(["--checkpoint", str(run_dir), "--method", "ridge", *SMALL])
    result = _read(run_dir, "ridge")
    tensors = read_tensors(next(run_dir.glob("attacks/ridge-*/reconstructions.safetensors")))
    truth = tensors["targets"].float() / 255
    error = (tensors["reconstructions"].float() - truth).square().mean().item()
    assert result["mse"] == pytest.approx(error, abs=1e-4)
    assert result["blind_mse"] == pytest.approx((tensors["blind"].float() - truth).square().mean().item(), abs=1e-4)
    assert result["r2"] == pytest.approx(1 - result["mse"] / result["blind_mse"])
    case = invert.Case(invert.Options(checkpoint=str(run_dir), method="ridge", targets=8, aux=40))
    before = invert.reconstruct(case.checkpoint.untrained().client, case.targets, images.to_float(case.sets.aux.images), method="ridge",
                                mean=case.checkpoint.dataset().mean, std=case.checkpoint.dataset().std)
    assert result["untrained_mse"] == pytest.approx(before.result["mse"], rel=1e-3)
    assert abs(result["untrained_mse"] - result["mse"]) > 0.05 * result["mse"]


def test_sets_follow_the_data_protocol(run_dir: Path) -> None:
    """Targets are members, the attacker's images are from the test split, and they share none."""
    case = invert.Case(invert.Options(checkpoint=str(run_dir), method="ridge", targets=20))
    data = images.load(case.checkpoint.config)
    assert set(case.sets.targets.digests()) <= set(data.train.digests())
    assert set(case.sets.aux.digests()) <= set(data.test.digests())
    assert not set(case.sets.aux.digests()) & set(data.train.digests())
    assert sorted(set(case.sets.clients.tolist())) == [0, 1, 2]
    assert len(case.own.fit) + len(case.own.validation) == len(case.sets.aux)


def test_attacked_client_is_the_averaged_one_of_the_checkpoint(run_dir: Path) -> None:
    """What the victim releases is the checkpoint's client half in eval mode on normalised targets; the ruler's differs."""
    case = invert.Case(invert.Options(checkpoint=str(run_dir), method="ridge", targets=4))
    network = open_checkpoint(str(run_dir)).network()
    data = case.checkpoint.dataset()
    x = (case.targets - torch.tensor(data.mean).view(3, 1, 1)) / torch.tensor(data.std).view(3, 1, 1)
    with torch.no_grad():
        expected = network.client.eval()(x)
    torch.testing.assert_close(case.victim(case.checkpoint.network()).release(case.targets), expected, atol=1e-5, rtol=1e-4)
    untrained = case.victim(case.checkpoint.untrained()).release(case.targets)
    assert (untrained - expected).abs().max() > 1e-3


def test_ruler_is_shared_by_runs_of_one_network(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run of the same network on the same images reads it; another option does not."""
    invert.main(["--checkpoint", str(run_dir), "--method", "ridge", *SMALL])
    twin = shutil.copytree(run_dir, run_dir.with_name("twin"))
    shutil.rmtree(twin / "attacks")
    calls = []
    monkeypatch.setattr(cases, "same_attack", lambda *a, **k: calls.append(1) or invert.judge.score(k["own"].fit[:8], k["own"].fit[:8]))
    invert.main(["--checkpoint", str(twin), "--method", "ridge", *SMALL])
    assert calls == []
    invert.main(["--checkpoint", str(twin), "--method", "ridge", "--targets", "8", "--aux", "30"])
    assert calls == [1]


def test_options_that_change_nothing_share_a_result() -> None:
    """A decoder option does not name a ridge result; every option of the decoder names a decoder result."""
    ridge = [invert.Options(method="ridge", budget=b).identity(invert.METHODS["ridge"].options) for b in ("quick", "paper")]
    assert ridge[0] == ridge[1] == {"method": "ridge", "aux": None, "targets": 128}
    decoder = [invert.Options(budget=b).identity(invert.METHODS["decoder"].options) for b in ("quick", "paper")]
    assert decoder[0] != decoder[1]
    assert set(decoder[0]) == {"method", "aux", "targets", "preset", "budget", "seeds", "seed", "precision", "decoder"}


def test_clipped_budget_is_printed_and_recorded(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    invert.main(["--checkpoint", str(run_dir), "--method", "blind", "--aux", "100000"])
    err = capsys.readouterr().err
    result = _read(run_dir, "blind")
    assert "of the 100000 images for the attacker exist" in err
    assert "only 60 of the 128 targets exist" in err
    assert result["sets"]["aux_wanted"] == 100000
    assert result["aux"] == result["sets"]["aux"] < 400
    assert result["targets"] == 60
    assert len(result["notices"]) == 2


def test_checkpoint_without_a_value_is_the_newest_run(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    invert.main(["--checkpoint", "--out", str(run_dir.parent), "--method", "blind", "--targets", "4"])
    assert "using the newest finished run" in capsys.readouterr().err
    assert _read(run_dir, "blind")["targets"] == 4


@pytest.mark.parametrize(("words", "message"), [
    (["--method", "ridg"], "method = 'ridg' does not exist: did you mean ridge"),
    (["--aux", "1"], "aux = 1 is impossible"),
    (["--tragets", "3"], "unknown flag --tragets"),
    (["--checkpoint", "nowhere.safetensors"], "there is no checkpoint nowhere.safetensors"),
    (["--device", "tpu7"], "device = 'tpu7' does not exist"),
    (["--out", "empty-folder"], "there is no finished run in empty-folder"),
])
def test_bad_input_is_one_sentence(words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError)) as raised:
        invert.main(words)
    assert message in str(raised.value)


def test_cut_0_sends_the_image_itself(tmp_path: Path) -> None:
    """The client is the identity: everything is given away, and training changes nothing."""
    path = train.run(config.from_dict({**SETTINGS, "cut": 0, "out": str(tmp_path)})).path
    invert.main(["--checkpoint", str(path), "--method", "ridge", "--targets", "8"])
    result = _read(path, "ridge")
    assert result["smashed_shape"] == [3, 16, 16]
    assert result["r2"] > 0.99
    assert "an untrained client gives away about as much as this one" in result["verdict"]
