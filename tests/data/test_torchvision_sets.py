"""Public sets, read by torchvision itself from small files in their real formats."""

from __future__ import annotations

import errno
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from torchvision import datasets

from ssl_split.config import DATASETS, Config
from ssl_split.data import images, torchvision_sets

TRAIN, TEST = 20, 10


def pixels(count: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, *shape), dtype=np.uint8)


def write_idx(path: Path, array: np.ndarray) -> None:
    """MNIST's file format: 0, 0, type 8, dimensions, sizes, bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(header + array.tobytes())


def write_mnist(root: Path, name: str) -> None:
    for split, count in (("train", TRAIN), ("t10k", TEST)):
        write_idx(root / name / "raw" / f"{split}-images-idx3-ubyte", pixels(count, 28, 28))
        write_idx(root / name / "raw" / f"{split}-labels-idx1-ubyte", (np.arange(count) % 10).astype(np.uint8))


def write_cifar(root: Path, kind: str) -> None:
    """Pickled batches of flat rows, as the archives hold them."""
    base, labels = ("cifar-10-batches-py", "labels") if kind == "cifar10" else ("cifar-100-python", "fine_labels")
    (root / base).mkdir(parents=True)
    batches = [f"data_batch_{i}" for i in range(1, 6)] if kind == "cifar10" else ["train"]
    rows = pixels(TRAIN, 3072)
    for part, batch in zip(np.split(np.arange(TRAIN), len(batches)), batches, strict=True):
        (root / base / batch).write_bytes(pickle.dumps({"data": rows[part], labels: (part % 10).tolist()}))
    test = "test_batch" if kind == "cifar10" else "test"
    (root / base / test).write_bytes(pickle.dumps({"data": pixels(TEST, 3072), labels: (np.arange(TEST) % 10).tolist()}))
    names = {"label_names": [f"c{i}" for i in range(10)], "fine_label_names": [f"c{i}" for i in range(100)]}
    (root / base / ("batches.meta" if kind == "cifar10" else "meta")).write_bytes(pickle.dumps(names))


def write_svhn(root: Path) -> None:
    """MATLAB files (H, W, C, n) in which the digit 0 has the label 10."""
    for split, count in (("train", TRAIN), ("test", TEST)):
        labels = np.arange(count) % 10
        labels[labels == 0] = 10
        scipy.io.savemat(root / f"{split}_32x32.mat", {"X": pixels(count, 3, 32, 32).transpose(2, 3, 1, 0), "y": labels[:, None]})


def write_stl10(root: Path) -> None:
    """Column-major bytes and labels from 1."""
    (root / "stl10_binary").mkdir()
    for split, count in (("train", TRAIN), ("test", TEST)):
        (root / "stl10_binary" / f"{split}_X.bin").write_bytes(pixels(count, 3, 96, 96).transpose(0, 1, 3, 2).tobytes())
        (root / "stl10_binary" / f"{split}_y.bin").write_bytes((np.arange(count) % 10 + 1).astype(np.uint8).tobytes())
    (root / "stl10_binary" / "class_names.txt").write_text("\n".join(f"c{i}" for i in range(10)))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All six sets; only the checksums of the real files are left out."""
    for kind in ("cifar10", "cifar100"):
        write_cifar(tmp_path, kind)
    for name in ("MNIST", "FashionMNIST"):
        write_mnist(tmp_path, name)
    write_svhn(tmp_path)
    write_stl10(tmp_path)
    for module in (datasets.cifar, datasets.svhn):
        monkeypatch.setattr(module, "check_integrity", lambda path, md5=None: Path(path).is_file())
    monkeypatch.setattr(datasets.STL10, "_check_integrity", lambda self: True)
    return tmp_path


def load(dataset: str, root: Path, **changes: object) -> images.Dataset:
    options: dict = {"dataset": dataset, "data_dir": str(root), "validation_fraction": 0.0, **changes}
    return images.load(Config(**options))


def test_all_public_sets_of_the_configuration_are_covered() -> None:
    assert set(torchvision_sets.SETS) == set(DATASETS) - {"digits", "photos", "imagefolder", "tsv"}
    assert len(torchvision_sets.SETS) == 6


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100", "svhn", "stl10"])
def test_colour_sets_arrive_pixel_by_pixel(root: Path, dataset: str) -> None:
    data = load(dataset, root)
    side = 96 if dataset == "stl10" else 32
    for part, count in ((data.train, TRAIN), (data.test, TEST)):
        assert torch.equal(part.images, torch.from_numpy(pixels(count, 3, side, side)))
        assert part.labels is not None
        assert part.labels.tolist() == [i % 10 for i in range(count)]
    assert len(data.classes) == (100 if dataset == "cifar100" else 10)
    assert data.classes[3] == ("3" if dataset == "svhn" else "c3")


@pytest.mark.parametrize("dataset", ["mnist", "fashion_mnist"])
def test_grey_sets_are_padded_to_32_and_get_three_channels(root: Path, dataset: str) -> None:
    data = load(dataset, root)
    grey = torch.from_numpy(pixels(TRAIN, 28, 28))
    for channel in range(3):
        assert torch.equal(data.train.images[:, channel, 2:30, 2:30], grey)
    assert int(data.train.images.long().sum()) == 3 * int(grey.long().sum())
    assert data.test.images.shape == (TEST, 3, 32, 32)
    assert data.test.labels is not None
    assert data.test.labels.tolist() == list(range(10))
    assert len(data.classes) == 10
    assert torch.equal(load(dataset, root, image_size=28).train.images[:, 0], grey)


def test_other_sizes_are_resized(root: Path) -> None:
    assert load("stl10", root, image_size=32).train.images.shape == (TRAIN, 3, 32, 32)
    small = load("cifar10", root, image_size=16).train.images
    whole = torch.from_numpy(pixels(TRAIN, 3, 32, 32)).float()
    wanted = torch.nn.functional.interpolate(whole, size=16, mode="bilinear", antialias=True)
    assert (small - wanted).abs().max() <= 0.51


def test_constants_of_the_published_scripts() -> None:
    """Section 8 of the MocoSFL facts."""
    assert torchvision_sets.SETS["cifar10"].mean == (0.4914, 0.4822, 0.4465)
    assert torchvision_sets.SETS["cifar10"].std == (0.2023, 0.1994, 0.2010)
    assert torchvision_sets.SETS["cifar100"].mean == (0.5071, 0.4865, 0.4409)
    assert torchvision_sets.SETS["cifar100"].std == (0.2673, 0.2564, 0.2762)


@pytest.mark.parametrize("dataset", list(torchvision_sets.SETS))
def test_a_missing_set_names_both_ways_and_the_embedded_one(tmp_path: Path, dataset: str) -> None:
    cases = ((Config(dataset=dataset), ValueError), (Config(dataset=dataset, data_dir=str(tmp_path)), FileNotFoundError),
             (Config(dataset=dataset, data_dir=str(tmp_path / "nowhere")), FileNotFoundError))  # fmt: skip
    for config, kind in cases:
        with pytest.raises(kind) as error:
            images.load(config)
        text = str(error.value)
        assert all(word in text for word in (dataset, "--data-dir", "--download", "--dataset digits"))
        assert "\n" not in text
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("dataset", list(torchvision_sets.SETS))
def test_a_failed_download_is_one_sentence(tmp_path: Path, dataset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: object, **kwargs: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    with pytest.raises(FileNotFoundError, match=rf"{dataset} could not be fetched into .*--data-dir.*--dataset digits") as error:
        images.load(Config(dataset=dataset, data_dir=str(tmp_path / "new"), download=True))
    assert "\n" not in str(error.value)


def test_a_full_disk_is_not_mistaken_for_a_failed_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("urllib.request.urlopen", full)
    with pytest.raises(OSError, match="No space left") as error:
        images.load(Config(dataset="cifar10", data_dir=str(tmp_path), download=True))
    assert error.value.errno == errno.ENOSPC


@pytest.mark.parametrize(("dataset", "file"), [
    ("svhn", "train_32x32.mat"), ("mnist", "MNIST/raw/train-images-idx3-ubyte"), ("cifar10", "cifar-10-batches-py/data_batch_3"),
    ("cifar100", "cifar-100-python/meta"),
])  # fmt: skip
@pytest.mark.parametrize("keep", [0, 30, None], ids=["empty", "cut", "gone"])
def test_a_damaged_set_is_as_good_as_missing(root: Path, dataset: str, file: str, keep: int | None) -> None:
    path = root / file
    if keep is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(FileNotFoundError, match=f"{dataset} is not in .* or is damaged"):
        load(dataset, root)
