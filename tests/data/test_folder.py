"""Pictures in folders: layouts, bad input, parallel decoding and the cache."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_split.config import Config
from ssl_split.data import folder, images


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SSL_SPLIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def picture(path: Path, colour: int | tuple[int, ...] = 0, *, mode: str = "RGB", size: tuple[int, int] = (12, 12)) -> Path:
    """A picture of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)
    return path


def classes_in(root: Path, *, each: int = 5, names: tuple[str, ...] = ("ant", "bee", "cat")) -> Path:
    """Folders whose pictures have colours of their own: class in the red channel, number in the green one."""
    for c, name in enumerate(names):
        for i in range(each):
            picture(root / name / f"{i}.png", (50 * c, 10 * i, 7))
    return root


def load(root: Path, **changes: object) -> images.Dataset:
    options: dict = {"dataset": "imagefolder", "data_dir": str(root), "validation_fraction": 0.0, "image_size": 8, **changes}
    return images.load(Config(**options))


def test_class_folders_become_labels_and_the_test_split_is_kept(tmp_path: Path) -> None:
    classes_in(tmp_path / "data" / "train")
    classes_in(tmp_path / "data" / "test", each=2, names=("bee", "cat"))  # colours 0 and 50 are bee and cat here
    data = load(tmp_path / "data")
    assert data.classes == ("ant", "bee", "cat")
    assert data.train.labels is not None
    assert data.test.labels is not None
    assert data.train.labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert data.train.images[:, 0, 0, 0].tolist() == [0] * 5 + [50] * 5 + [100] * 5
    assert data.train.images[:5, 1, 3, 4].tolist() == [0, 10, 20, 30, 40]
    assert data.test.labels.tolist() == [1, 1, 2, 2]
    assert data.test.images[:, 0, 0, 0].tolist() == [0, 0, 50, 50]
    assert data.size == 8
    assert data.mean == (0.485, 0.456, 0.406)


@pytest.mark.parametrize("inner", ["train", "."])
def test_without_test_folder_a_fifth_of_every_class_is_set_aside(tmp_path: Path, inner: str) -> None:
    classes_in(tmp_path / "data" / inner)
    data, again = load(tmp_path / "data"), load(tmp_path / "data", seed=5)
    assert data.train.labels is not None
    assert data.test.labels is not None
    assert data.train.labels.bincount().tolist() == [4, 4, 4]
    assert data.test.labels.bincount().tolist() == [1, 1, 1]
    assert not set(data.train.digests()) & set(data.test.digests())
    assert torch.equal(data.test.images, again.test.images)


@pytest.mark.parametrize("inner", ["train", "."])
def test_a_flat_folder_has_no_labels(tmp_path: Path, inner: str) -> None:
    for i in range(10):
        picture(tmp_path / "data" / inner / f"{i}.png", (i, 0, 0))
    (tmp_path / "data" / inner / "notes.txt").write_text("no picture")
    data = load(tmp_path / "data")
    assert (data.train.labels, data.test.labels, data.classes) == (None, None, ())
    assert (len(data.train), len(data.test)) == (8, 2)
    found = data.train.images[:, 0, 0, 0].tolist() + data.test.images[:, 0, 0, 0].tolist()
    assert sorted(found) == list(range(10))


def test_flat_train_and_test_folders(tmp_path: Path) -> None:
    for split, count in (("train", 4), ("test", 3)):
        for i in range(count):
            picture(tmp_path / "data" / split / f"{i}.png", (i, count, 0))
    data = load(tmp_path / "data")
    assert (len(data.train), len(data.test), data.test.labels) == (4, 3, None)
    assert data.test.images[:, 1, 0, 0].tolist() == [3, 3, 3]


def test_hidden_files_are_passed_over_and_deeper_folders_belong_to_their_class(tmp_path: Path) -> None:
    root = classes_in(tmp_path / "data" / "train", each=2)
    picture(root / "ant" / "images" / "deep.png")
    picture(root / ".cache" / "thumb.png")
    picture(root / "ant" / ".hidden" / "thumb.png")
    picture(root / "bee" / "._0.png")
    (root / ".DS_Store").write_bytes(b"x")
    listing = folder.scan(root)
    assert listing.classes == ("ant", "bee", "cat")
    assert listing.labels == (0, 0, 0, 1, 1, 2, 2)
    assert "deep.png" in [file.name for file in listing.files]


def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    classes_in(tmp_path / "real", each=5)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train").symlink_to(tmp_path / "real", target_is_directory=True)
    assert len(load(tmp_path / "data").train) == 12


def test_missing_folder_and_missing_option(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"the data directory .*nowhere does not exist"):
        load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="imagefolder needs --data-dir DIR"):
        images.load(Config(dataset="imagefolder"))


def test_bad_layouts_are_named_with_their_path(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(FileNotFoundError, match=f"there are no pictures in {re.escape(str(empty))}"):
        load(empty)
    root = classes_in(tmp_path / "data" / "train")
    (root / "dog").mkdir()
    with pytest.raises(ValueError, match=f"the class folder {re.escape(str(root / 'dog'))} has no pictures"):
        load(tmp_path / "data")
    picture(root / "dog" / "0.png")
    picture(root / "stray.png")
    with pytest.raises(ValueError, match=r"has class folders and also pictures beside them, such as stray.png"):
        load(tmp_path / "data")
    (root / "stray.png").unlink()
    classes_in(tmp_path / "data" / "test", names=("ant", "eel", "fox"))
    with pytest.raises(ValueError, match="test has classes that train lacks: eel, fox"):
        load(tmp_path / "data")


def test_splits_of_different_layout_are_refused(tmp_path: Path) -> None:
    classes_in(tmp_path / "data" / "train")
    picture(tmp_path / "data" / "test" / "0.png")
    with pytest.raises(ValueError, match="train has class folders and test has none"):
        load(tmp_path / "data")


@pytest.mark.parametrize("content", [b"", b"not a picture", "cut"])
def test_unreadable_pictures_are_named(tmp_path: Path, content: bytes | str) -> None:
    root = classes_in(tmp_path / "data" / "train")
    bad = root / "bee" / "2.png"
    if isinstance(content, str):
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(bad)
        content = bad.read_bytes()[:2000]
    bad.write_bytes(content)
    with pytest.raises(ValueError, match=f"cannot read the image {re.escape(str(bad))}: ") as error:
        load(tmp_path / "data")
    assert "\n" not in str(error.value)


def test_threads_do_not_change_the_order(tmp_path: Path) -> None:
    files = [picture(tmp_path / f"{i:03d}.png", (i, 0, 0), size=(8, 8)) for i in range(200)]
    for threads in (1, 3):
        assert folder.decode_all(files, 8, threads=threads)[:, 0, 0, 0].tolist() == list(range(200))


def test_slow_decoding_shows_its_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [picture(tmp_path / f"{i:03d}.png") for i in range(150)]
    shown: list[int] = []

    @contextmanager
    def record(total: int, title: str) -> Iterator[SimpleNamespace]:
        shown.append(total)
        yield SimpleNamespace(advance=shown.append)

    monkeypatch.setattr(folder, "progress", record)
    folder.decode_all(files, 8)
    assert shown == []
    monkeypatch.setattr(folder, "_PATIENCE_SECONDS", 0.0)
    folder.decode_all(files, 8)
    assert shown[0] == 150
    assert sum(shown[1:]) == 150


class TestCache:
    """The second load reads the cache, and nothing stale is ever read."""

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        classes_in(tmp_path / "data" / "train")
        return tmp_path / "data"

    @pytest.fixture
    def decoded(self, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
        """The files decoded so far."""
        seen: list[Path] = []
        real = folder.decode
        monkeypatch.setattr(folder, "decode", lambda file, size: seen.append(file) or real(file, size))
        return seen

    def test_an_unchanged_folder_is_decoded_once(self, root: Path, decoded: list[Path], own_cache: Path) -> None:
        first = load(root)
        assert len(decoded) == 15
        second = load(root)
        assert len(decoded) == 15
        assert first.digest == second.digest
        assert [p.suffix for p in own_cache.iterdir()] == [".safetensors"]

    def test_a_moved_folder_keeps_its_cache(self, root: Path, decoded: list[Path]) -> None:
        load(root)
        root.rename(root.with_name("moved"))
        load(root.with_name("moved"))
        assert len(decoded) == 15

    @pytest.mark.parametrize("change", ["time", "content", "name", "removed", "added", "size", "moved between splits"])
    def test_any_change_decodes_again(self, root: Path, decoded: list[Path], change: str) -> None:
        load(root)
        file, options = root / "train" / "ant" / "3.png", {}
        if change == "time":
            os.utime(file, ns=(1, 1))
        elif change == "content":
            picture(file, (1, 2, 3), size=(13, 13))
        elif change == "name":
            file.rename(file.with_name("9.png"))
        elif change == "removed":
            file.unlink()
        elif change == "added":
            picture(file.with_name("7.png"))
        elif change == "size":
            options = {"image_size": 9}
        else:
            (root / "test" / "ant").mkdir(parents=True)
            file.rename(root / "test" / "ant" / "3.png")
        load(root, **options)
        assert len(decoded) == 15 + {"removed": 14, "added": 16}.get(change, 15)

    @pytest.mark.parametrize("keep", [0, 100, -1])
    def test_a_truncated_cache_is_rebuilt(self, root: Path, decoded: list[Path], own_cache: Path, keep: int) -> None:
        first = load(root)
        (file,) = own_cache.iterdir()
        whole = file.read_bytes()
        file.write_bytes(whole[:keep])
        assert load(root).digest == first.digest
        assert len(decoded) == 30
        assert file.read_bytes() == whole

    def test_a_cache_that_cannot_be_made_is_a_warning(self, root: Path, own_cache: Path) -> None:
        own_cache.write_text("a file where the folder should be")
        with pytest.warns(RuntimeWarning, match="decoded pictures cannot be kept in"):
            data = load(root)
        assert len(data.train) == 12

    def test_a_disk_that_fills_up_is_a_warning_and_leaves_no_part(self, root: Path, own_cache: Path,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
        def fill(tensors: dict, path: Path, header: dict) -> None:
            Path(path).write_bytes(b"part")
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("safetensors.torch.save_file", fill)
        with pytest.warns(RuntimeWarning, match="No space left on device"):
            data = load(root)
        assert len(data.train) == 12
        assert list(own_cache.iterdir()) == []

    @pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
    def test_a_real_write_error_is_a_warning(self, root: Path, own_cache: Path) -> None:
        """With files limited to 1 KiB the real writer fails half-way."""
        script = (
            "import resource, sys, warnings; from ssl_split.config import Config; from ssl_split.data import images\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024)); warnings.simplefilter('always')\n"
            f"data = images.load(Config(dataset='imagefolder', data_dir={str(root)!r}))\n"
            "print(len(data.train))"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == "11"
        assert "RuntimeWarning: decoded pictures cannot be kept in" in done.stderr
        assert list(own_cache.iterdir()) == []
