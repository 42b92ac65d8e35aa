"""The whole course of each probe on a tiny checkpoint: result files, rulers, cache, refusals."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from probes import bench, finetune, knn, linear, rulers, subject
from probes.rulers import verdict
from probes.statistics import Rate
from ssl_split import config
from ssl_split.config import Config
from ssl_split.data import images
from ssl_split.data.images import Dataset, ImageSet
from ssl_split.files import write_tensors
from ssl_split.models.split import build
from ssl_split.run import open_checkpoint

KEYS = {"kind", "name", "features", "accuracy", "low", "high", "test_images", "raw_pixels", "untrained", "options", "checkpoint",
        "seconds", "environment", "command"}
"""What sweeps and reports read."""


def _config(folder: Path, **changes: Any) -> Config:
    return config.from_dict({"dataset": "digits", "image_size": 16, "width": 0.125, "cut": 5, "train_images": 100,
                             "head": {"hidden": 16, "out": 8}, "out": str(folder), **changes})


def _write(made: Config, *, step: int = 3, noise: float = 0.0) -> Path:
    """A run directory with one checkpoint of a network near its initial weights."""
    network = build(made, image_size=16)
    generator = torch.Generator().manual_seed(step)
    weights = {}
    for prefix, half in (("client.online/", network.client), ("server.online/", network.server)):
        for name, tensor in half.state_dict().items():
            weights[prefix + name] = tensor + noise * torch.randn(tensor.shape, generator=generator)
    header = {"format": 1, "config": made.to_dict(), "step": step, "finished": True, "image_size": 16,
              "data_digest": images.load(made).digest}
    write_tensors(made.run_dir / "checkpoints" / f"step-{step:08d}.safetensors", weights, header)
    return made.run_dir


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return _write(_config(tmp_path), noise=0.05)


def _read(path: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(p.read_text()) for p in sorted(path.glob(f"probes/{name}-*/result.json"))]


def test_knn_course(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """File, table and the numbers themselves: each row equals kNN done by hand on features done by hand."""
    knn.main(["--checkpoint", str(run_dir)])
    shown = capsys.readouterr().out
    (result,) = _read(run_dir, "knn")
    assert set(result) >= KEYS
    assert (result["kind"], result["name"], result["features"]) == ("probe", "knn", "backbone")
    assert result["checkpoint"] == {"file": "step-00000003.safetensors", "step": 3, "finished": True}
    checkpoint = open_checkpoint(str(run_dir))
    data = checkpoint.dataset()
    assert result["test_images"] == len(data.test)
    assert result["train_images"] == len(data.train) == 100
    for network, row in ((checkpoint.network(), result), (checkpoint.untrained(), result["untrained"])):
        rows = []
        for part in (data.train, data.test):
            with torch.no_grad():
                rows.append(network.features(images.normalise(images.to_float(part.images), data.mean, data.std)))
        assert data.train.labels is not None
        assert data.test.labels is not None
        wanted = knn.knn_accuracy(rows[0], data.train.labels, rows[1], data.test.labels, k=20)
        assert row["accuracy"] == pytest.approx(wanted.accuracy, abs=2 / len(data.test))  # near ties may fall either way
        assert row["low"] < row["accuracy"] < row["high"]
    assert result["raw_pixels"]["accuracy"] > 0.5
    for word in ("this run", "raw pixels", "untrained network", result["verdict"], "Digits only show"):
        assert word in shown
    assert shown.strip().splitlines()[-1] == f"next: python -m probes.linear --checkpoint {run_dir}"


@pytest.mark.parametrize(("module", "argv"), [
    (knn, []), (linear, ["--epochs", "2"]), (finetune, ["--epochs", "2", "--fractions", "0.2"]),
])
def test_a_result_that_exists_is_printed_not_computed(
    module: Any, argv: list[str], run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module.main(["--checkpoint", str(run_dir), *argv])
    first = capsys.readouterr().out
    monkeypatch.setattr(subject, "extract", _never)
    module.main(["--checkpoint", str(run_dir), *argv, "--extract-batch-size", "7", "--device", "cpu"])
    assert capsys.readouterr().out == first


def test_a_damaged_result_is_written_anew(run_dir: Path) -> None:
    first = knn.run(knn.Options(checkpoint=str(run_dir)))
    Path(first["path"]).write_text("{")
    again = knn.run(knn.Options(checkpoint=str(run_dir)))
    assert json.loads(Path(first["path"]).read_text())["accuracy"] == again["accuracy"] == first["accuracy"]


def _never(*_: Any, **__: Any) -> Any:
    raise AssertionError("computed again")


def test_rulers_are_computed_once_for_all_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs at two cuts share both rulers; another seed has an untrained network of its own but the same pixels."""
    calls: list[str] = []
    real = bench.Subject.features

    def counted(self: bench.Subject, split: str, indices: Any = None) -> Any:
        if split == "test":
            calls.append(self.title)
        return real(self, split, indices)

    monkeypatch.setattr(bench.Subject, "features", counted)
    found = [knn.run(knn.Options(checkpoint=str(_write(_config(tmp_path, **changes), noise=0.05))))
             for changes in ({}, {"cut": 9}, {"cut": 9, "seed": 1})]
    assert calls == ["this run", "raw pixels", "untrained network", "this run", "this run", "untrained network"]
    assert found[0]["raw_pixels"] == found[1]["raw_pixels"] == found[2]["raw_pixels"]
    assert found[0]["untrained"] == found[1]["untrained"]
    assert len(list((tmp_path / ".rulers").iterdir())) == 3


def test_ruler_cache(tmp_path: Path) -> None:
    """A second call does not compute; another key and a damaged file do."""
    key = {"probe": "knn", "ruler": "raw-pixels", "data": "abc"}
    assert rulers.cached(tmp_path, key, lambda: Rate(3, 10)) == Rate(3, 10)
    assert rulers.cached(tmp_path, key, _never) == Rate(3, 10)
    assert rulers.cached(tmp_path, {**key, "data": "abd"}, lambda: Rate(4, 10)) == Rate(4, 10)
    files = list(tmp_path.iterdir())
    assert len(files) == 2
    for file in files:
        file.write_text("{")
    assert rulers.cached(tmp_path, key, lambda: Rate(5, 10)) == Rate(5, 10)
    assert rulers.cached(tmp_path, key, _never) == Rate(5, 10)


def test_untrained_key_follows_what_changes_the_number(tmp_path: Path) -> None:
    def key(*, at_cut: bool = False, **changes: Any) -> str:
        made = _config(tmp_path, **changes)
        return json.dumps(rulers.network_key(made, build(made, image_size=16), at_cut=at_cut))

    assert key() == key(cut=9) == key(batch_size=7)
    bottleneck = {"channels": 4, "stride": 2}
    different = [key(), key(seed=1), key(width=0.25), key(norm="batch"), key(at_cut=True), key(at_cut=True, cut=9),
                 key(bottleneck=bottleneck), key(bottleneck=bottleneck, cut=9)]
    assert len(set(different)) == 8


@pytest.mark.parametrize(("module", "options"), [
    (knn, knn.Options()), (linear, linear.Options(epochs=3)), 
    (finetune, finetune.Options(epochs=2, fractions=(0.3,), mode="full")),
])
def test_equal_options_give_equal_numbers(module: Any, options: Any, tmp_path: Path) -> None:
    results = []
    for name in ("a", "b"):
        run_dir = _write(_config(tmp_path / name), noise=0.05)
        made = module.run(type(options)(**{**vars(options), "checkpoint": str(run_dir)}))
        results.append(made[0] if isinstance(made, list) else made)
    a, b = [{k: v for k, v in r.items() if k not in ("seconds", "path")} for r in results]
    assert a == b
    assert len(a) > len(KEYS) - 2


def test_linear_smashed_course(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    linear.main(["--checkpoint", str(run_dir), "--features", "smashed", "--epochs", "2", "--smashed-limit", "200"])
    shown = capsys.readouterr().out
    (result,) = _read(run_dir, "linear")
    assert (result["smashed_shape"], result["features_shape"], result["dimensions"]) == ([8, 16, 16], [8, 5, 5], 200)
    assert "smashed (8x5x5, averaged from 8x16x16) features" in shown
    assert "is leakage" in shown
    assert shown.strip().splitlines()[-1] == f"next: python -m attacks.invert --checkpoint {run_dir}"


def test_protocol_is_named(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for protocol in ("last", "published"):
        linear.main(["--checkpoint", str(run_dir), "--epochs", "3", "--protocol", protocol])
    shown = capsys.readouterr().out
    results = {r["protocol"]: r for r in _read(run_dir, "linear")}
    assert len(results) == 2
    assert results["published"]["accuracy"] >= results["last"]["accuracy"] == results["published"]["accuracy_last_epoch"]
    assert shown.count("published protocol: best epoch on the test images, too high") == 1


def test_finetune_gives_one_result_for_each_share(run_dir: Path) -> None:
    found = finetune.run(finetune.Options(checkpoint=str(run_dir), epochs=2))
    assert [r["fraction"] for r in found] == [0.01, 0.1]
    assert [r["train_images"] for r in found] == [10, 10]  # of 100 images; at least one of each class
    assert len(_read(run_dir, "finetune")) == 2
    assert all(r["options"]["fractions"] == [0.01, 0.1] for r in found)
    assert all(set(r) >= KEYS for r in found)


def test_a_stopped_command_leaves_no_result(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped at the second share of labels: neither is written, so that nobody takes the command for done."""
    real = finetune._measure

    def stop(subject: bench.Subject, *, options: finetune.Options, fraction: float) -> bench.Outcome:
        if fraction == 0.1:
            raise KeyboardInterrupt
        return real(subject, options=options, fraction=fraction)

    monkeypatch.setattr(finetune, "_measure", stop)
    with pytest.raises(KeyboardInterrupt):
        finetune.run(finetune.Options(checkpoint=str(run_dir), epochs=2))
    assert not (run_dir / "probes").exists()


def test_full_finetuning_moves_a_copy_of_the_network(run_dir: Path) -> None:
    options = finetune.Options(checkpoint=str(run_dir), mode="full", epochs=2, fractions=(0.5,), lr=1e-2)
    subject = bench.Bench(options).trained
    assert subject.network is not None
    before = {k: v.clone() for k, v in subject.network.state_dict().items()}
    full = finetune._measure(subject, options=options, fraction=0.5)
    assert all(torch.equal(before[k], v) for k, v in subject.network.state_dict().items())
    frozen = finetune._measure(subject, options=finetune.Options(checkpoint=str(run_dir), epochs=2, lr=1e-2), fraction=0.5)
    assert full.notes["train_loss"] != pytest.approx(frozen.notes["train_loss"], rel=1e-3)
    course = bench.Bench(options)
    pixels = [finetune._measure(course.pixels, options=finetune.Options(mode=mode), fraction=0.1) for mode in ("full", "frozen")]
    assert pixels[0] == pixels[1]
    with pytest.raises(ValueError, match="cannot be combined"):
        finetune.run(finetune.Options(checkpoint=str(run_dir), mode="full", features="smashed"))


def test_tuned_gradients_reach_the_first_layer(run_dir: Path) -> None:
    options = finetune.Options(checkpoint=str(run_dir))
    course = bench.Bench(options)
    network = course.trained.network
    assert network is not None
    top = finetune.classifier(network.feature_dim, 10, seed=0)
    model = finetune.Tuned(network, top, dataset=course.dataset, precision="fp32")
    model(course.dataset.train.images[:4]).sum().backward()
    touched = {name.split(".")[0] for name, p in model.network.named_parameters() if p.grad is not None}
    assert touched == {"units"}
    assert next(iter(model.network.units.parameters())).grad is not None


@pytest.mark.parametrize("run", [
    lambda o: knn.run(knn.Options(checkpoint=o)), lambda o: linear.run(linear.Options(checkpoint=o)),
    lambda o: finetune.run(finetune.Options(checkpoint=o)),
])
def test_unlabelled_data_are_refused_in_one_sentence(run: Callable[[str], object], tmp_path: Path) -> None:
    made = _config(tmp_path, dataset="photos", train_images=50)
    with pytest.raises(ValueError, match="probes need labels, and photos has none"):
        run(str(_write(made)))


def test_missing_test_images_are_named() -> None:
    part = ImageSet(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0, 1]))
    none = ImageSet(torch.zeros(0, 3, 8, 8, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64))
    data = Dataset("mine", part, none, none, ("a", "b"), (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    with pytest.raises(ValueError, match="put some into test/<class>/"):
        bench.labelled(data)


def test_checkpoint_without_a_value_is_the_newest_run(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run_dir / "result.json").write_text("{}")
    knn.main(["--checkpoint", "--out", str(run_dir.parent)])
    assert f"using the newest finished run: {run_dir}" in capsys.readouterr().err
    assert len(_read(run_dir, "knn")) == 1


def test_bad_options_are_refused(run_dir: Path) -> None:
    with pytest.raises(ValueError, match="did you mean backbone"):
        knn.main(["--checkpoint", str(run_dir), "--features", "bakbone"])
    with pytest.raises(ValueError, match="epochs = 0 is impossible"):
        linear.run(linear.Options(checkpoint=str(run_dir), epochs=0))
    with pytest.raises(ValueError, match="device = 'cuda:99' does not exist here"):
        knn.main(["--checkpoint", str(run_dir), "--device", "cuda:99"])
    assert not (run_dir / "probes").exists()


def test_new_weights_get_a_new_result(run_dir: Path) -> None:
    """A run that went on has other weights under the same options: its result stands beside the old one."""
    first = knn.run(knn.Options(checkpoint=str(run_dir)))
    made = open_checkpoint(str(run_dir)).config
    _write(made, step=8, noise=0.2)
    second = knn.run(knn.Options(checkpoint=str(run_dir)))
    assert first["path"] != second["path"]
    assert (first["checkpoint"]["step"], second["checkpoint"]["step"]) == (3, 8)


def _row(accuracy: float) -> dict[str, float]:
    return {"accuracy": accuracy, "low": accuracy - 0.02, "high": accuracy + 0.02}


@pytest.mark.parametrize(("run", "wanted"), [
    (0.5, "This run (0.500) is clearly better than raw pixels (0.400) and the untrained network (0.350)."),
    (0.42, "This run (0.420) is above raw pixels (0.400) with overlapping 95 % intervals, and clearly better than the untrained "
           "network (0.350)."),
    (0.37, "This run (0.370) is not better than raw pixels (0.400), but above the untrained network (0.350) with overlapping 95 % "
           "intervals."),
    (0.39, "This run (0.390) is not better than raw pixels (0.400), but clearly better than the untrained network (0.340)."),
    (0.2, "This run (0.200) is clearly worse than raw pixels (0.400) and the untrained network (0.350)."),
])
def test_verdict(run: float, wanted: str) -> None:
    assert verdict(_row(run), {"raw_pixels": _row(0.4), "untrained": _row(0.34 if "0.340" in wanted else 0.35)}) == wanted
