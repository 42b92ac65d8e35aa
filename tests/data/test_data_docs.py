"""The commands of docs/data.md: every flag parses, and every recipe makes a folder that loads, from archives of the real layout."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from ssl_split import config, fields, train
from ssl_split.data import images

TEXT = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    python -m ssl_split\.train (.*)$", TEXT, re.MULTILINE)

needs_shell = pytest.mark.skipif(shutil.which("bash") is None or sys.platform == "win32", reason="needs a POSIX shell")


def parsed(command: str) -> config.Config:
    words = shlex.split(command)
    return train.parse(words)[0] if "--config" in words else fields.parse(config.Config, words, "train", "")


def recipe(title: str) -> tuple[str, list[config.Config]]:
    """The shell blocks below a heading as one script, and the training commands there."""
    section = re.search(rf"^### {re.escape(title)}$(.*?)^##", TEXT, re.MULTILINE | re.DOTALL)
    assert section is not None
    commands = [command for command in COMMANDS if command in section[1]]
    return "\n".join(re.findall(r"```bash\n(.*?)```", section[1], re.DOTALL)), [parsed(command) for command in commands]


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 16), (len(str(path)), 0, 0)).save(path)


def run(script: str, where: Path) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-e", "-c", script], cwd=where, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def load(made: config.Config, where: Path) -> images.Dataset:
    assert made.data_dir is not None
    return images.load(made.replace(data_dir=str(where / made.data_dir), image_size=8, validation_fraction=0.0))


def zipped(folder: Path, archive: Path) -> None:
    with zipfile.ZipFile(archive, "w") as target:
        for file in sorted(folder.rglob("*")):
            target.write(file, file.relative_to(folder))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_SPLIT_CACHE", str(tmp_path / "cache"))


def test_every_training_command_parses() -> None:
    assert len(COMMANDS) == 14
    for command in COMMANDS:
        assert f"--dataset {parsed(command).dataset} " in command or "--config " in command


def test_the_table_names_every_data_set_and_every_partition() -> None:
    for name in config.DATASETS:
        assert f"\n| `{name}` |" in TEXT
    kinds = config.Partition.__dataclass_fields__["kind"].metadata["choices"]
    assert len(kinds) == 8
    for kind in kinds:
        assert re.search(rf"\n\| `{kind}`( \(default\))? \|", TEXT)


@needs_shell
def test_tiny_imagenet(tmp_path: Path) -> None:
    root = tmp_path / "archive" / "tiny-imagenet-200"
    lines = []
    for c, name in enumerate(("n01443537", "n01629819")):
        for i in range(5):
            picture(root / "train" / name / "images" / f"{name}_{i}.JPEG")
        (root / "train" / name / f"{name}_boxes.txt").write_text("n01443537_0.JPEG\t0\t0\t63\t63\n")
        picture(root / "val" / "images" / f"val_{c}.JPEG")
        picture(root / "test" / "images" / f"test_{c}.JPEG")
        lines.append(f"val_{c}.JPEG\t{name}\t0\t32\t44\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    zipped(root.parent, tmp_path / "tiny-imagenet-200.zip")
    script, (made,) = recipe("Tiny-ImageNet")
    run(script, tmp_path)
    data = load(made, tmp_path)
    assert made.image_size == 64
    assert (len(data.train), len(data.test), data.classes) == (10, 2, ("n01443537", "n01629819"))
    assert data.test.labels is not None
    assert data.test.labels.tolist() == [0, 1]


@needs_shell
def test_cinic10(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        for name in ("airplane", "bird"):
            picture(tmp_path / "archive" / split / name / f"cifar10-{split}-1.png")
    with tarfile.open(tmp_path / "CINIC-10.tar.gz", "w:gz") as target:
        for split in ("train", "valid", "test"):
            target.add(tmp_path / "archive" / split, split)
    script, (made,) = recipe("CINIC-10")
    run(script, tmp_path)
    data = load(made, tmp_path)
    assert (len(data.train), len(data.test), data.classes) == (2, 2, ("airplane", "bird"))
    assert data.mean == (0.4789, 0.4723, 0.4305)


@needs_shell
def test_officehome(tmp_path: Path) -> None:
    root = tmp_path / "archive" / "OfficeHomeDataset_10072016"
    for domain in ("Art", "Clipart", "Product", "Real World"):
        for name in ("Alarm_Clock", "Backpack"):
            for i in range(5):
                picture(root / domain / name / f"{i:05d}.jpg")
    (root / "ImageInfo.csv").write_text("Art,1,1,Alarm_Clock\n")
    zipped(root.parent, tmp_path / "OfficeHomeDataset_10072016.zip")
    script, (one, every) = recipe("OfficeHome")
    run(script, tmp_path)
    single, whole = load(one, tmp_path), load(every, tmp_path)
    assert (len(single.train), len(single.test), single.classes) == (8, 2, ("Alarm_Clock", "Backpack"))
    assert (len(whole.train), len(whole.test), whole.classes) == (32, 8, ("Alarm_Clock", "Backpack"))


@needs_shell
@pytest.mark.parametrize(("separator", "ending"), [(",", ".csv"), ("\t", ".tab"), (",", "")])
def test_ham10000_keeps_the_images_of_a_lesion_together(tmp_path: Path, separator: str, ending: str) -> None:
    rows = [("lesion_id", "image_id", "dx", "dx_type")]
    for k in range(20):
        rows += [(f"HAM_{k:07d}", f"ISIC_{2 * k + i:07d}", "nv" if k < 15 else "mel", "histo") for i in range(2)]
    for part, some in ((1, rows[1:20]), (2, rows[20:])):
        for row in some:
            picture(tmp_path / f"part{part}" / f"{row[1]}.jpg")
        zipped(tmp_path / f"part{part}", tmp_path / f"HAM10000_images_part_{part}.zip")
    (tmp_path / f"HAM10000_metadata{ending}").write_text("\n".join(separator.join(row) for row in rows) + "\n")
    script, (made,) = recipe("HAM10000")
    run(script, tmp_path)
    data = load(made, tmp_path)
    assert (len(data.train), len(data.test), data.classes) == (32, 8, ("mel", "nv"))
    assert data.test.labels is not None
    assert data.test.labels.tolist() == [0] * 2 + [1] * 6
    lesions = {row[1]: row[0] for row in rows}
    split = {s: {lesions[p.stem] for p in (tmp_path / "data" / "ham10000" / s).rglob("*.jpg")} for s in ("train", "test")}
    assert not split["train"] & split["test"]


@needs_shell
def test_imagenet12(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name in ("n01440764", "n01443537", "n01484850"):
            picture(tmp_path / "ILSVRC2012" / split / name / f"{name}.JPEG")
    (tmp_path / "classes.txt").write_text("n01440764\nn01484850\n")
    script, (made,) = recipe("ImageNet-12")
    run(script, tmp_path)
    data = load(made, tmp_path)
    assert (len(data.train), len(data.test), data.classes) == (2, 2, ("n01440764", "n01484850"))
