"""Features that are kept for the next probe: the same numbers bit by bit, few bytes, and never a failure."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from probes import finetune, kept, knn, linear, subject
from probes.kept import Shelf
from tests.probes.test_probe_commands import _config, _never, _write

ROWS = torch.arange(256.0).reshape(64, 4)
SIZE = ROWS.numel() * 4 + 80
"""Bytes of `ROWS` in a file, its header included, or a little less."""


def probes(run: Path) -> list[dict[str, Any]]:
    """What three probes say of a run, without what differs from call to call."""
    at = str(run)
    found = [linear.run(linear.Options(checkpoint=at, epochs=3)), knn.run(knn.Options(checkpoint=at)),
             *finetune.run(finetune.Options(checkpoint=at, epochs=2, fractions=(0.2,)))]
    return [{k: v for k, v in one.items() if k not in ("seconds", "path", "command", "environment")} for one in found]


def test_probes_share_what_one_extracted_and_say_the_same_bit_by_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linear extracts two splits of two networks; kNN nothing; fine-tuning only its few images of either network."""
    plain = probes(_write(_config(tmp_path / "plain"), noise=0.05))
    monkeypatch.setenv(kept.FOLDER, str(tmp_path / "kept"))
    calls: list[int] = []
    real = subject.extract

    def counted(network: Any, images: Tensor, **options: Any) -> Tensor:
        calls.append(len(images))
        return real(network, images, **options)

    monkeypatch.setattr(subject, "extract", counted)
    run = _write(_config(tmp_path / "shared"), noise=0.05)
    assert probes(run) == plain
    tests = plain[0]["test_images"]
    assert calls == [100, tests, 100, tests, 20, 20]
    assert len(list((tmp_path / "kept" / run.name).glob("*.safetensors"))) == 4
    assert {p.suffix for p in (tmp_path / "kept" / run.name).iterdir()} == {".safetensors"}


@pytest.mark.parametrize("changes", [{"features": "projector"}, {"precision": "bf16"}, {"extract_batch_size": 7}, {"features": "smashed"}])
def test_other_options_are_other_features(changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(kept.FOLDER, str(tmp_path / "kept"))
    run = _write(_config(tmp_path), noise=0.05)
    linear.run(linear.Options(checkpoint=str(run), epochs=1))
    before = knn.run(knn.Options(checkpoint=str(run), k=3, **changes))
    monkeypatch.delenv(kept.FOLDER)
    Path(before["path"]).unlink()
    for ruler in (tmp_path / ".rulers").iterdir():
        ruler.unlink()
    after = knn.run(knn.Options(checkpoint=str(run), k=3, **changes))
    assert [after[k] for k in ("accuracy", "untrained", "raw_pixels")] == [before[k] for k in ("accuracy", "untrained", "raw_pixels")]
    assert len(list((tmp_path / "kept" / run.name).iterdir())) == 8


def test_other_weights_of_the_same_name_are_other_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(kept.FOLDER, str(tmp_path / "kept"))
    made = _config(tmp_path)
    first = knn.run(knn.Options(checkpoint=str(_write(made))))
    Path(first["path"]).unlink()
    assert first["accuracy"] == first["untrained"]["accuracy"]
    assert knn.run(knn.Options(checkpoint=str(_write(made, noise=0.05))))["accuracy"] != first["accuracy"]
    assert len(list((tmp_path / "kept").glob("*/*"))) == 4  # train and test images of two: the first run is at its initial weights


def test_none_are_kept_unless_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(kept.FOLDER, raising=False)
    assert kept.shelf("a") is None
    monkeypatch.setenv(kept.FOLDER, str(tmp_path))
    monkeypatch.setenv(kept.LIMIT, "0")
    assert kept.shelf("a") is None
    monkeypatch.setenv(kept.LIMIT, "0.5")
    assert kept.shelf("a") == Shelf(tmp_path, "a", 2**29)
    for wrong in ("much", "-1", "nan", "inf"):
        monkeypatch.setenv(kept.LIMIT, wrong)
        with pytest.raises(ValueError, match=f"SSL_SPLIT_FEATURES_GIB = '{wrong}' is impossible"):
            kept.shelf("a")


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    """Aligned as PyTorch aligns its own; a damaged or truncated file is written anew."""
    shelf, odd = Shelf(tmp_path, "a", 10**6), torch.randn(7, 3)
    assert shelf.rows({"k": 1}, lambda: odd) is odd
    (file,) = (tmp_path / "a").iterdir()
    found = shelf.rows({"k": 1}, _never)
    assert torch.equal(found, odd)
    assert found.data_ptr() % 64 == 0
    whole = file.read_bytes()
    for damage in (b"", b"{", whole[:-5], whole[:20]):
        file.write_bytes(damage)
        assert shelf.rows({"k": 1}, lambda: odd) is odd
        assert file.read_bytes() == whole
    assert shelf.rows({"k": 2}, lambda: ROWS) is ROWS


def test_the_folder_stays_below_its_limit(tmp_path: Path) -> None:
    """Room for three: the fourth pushes out what was not used for longest, of any run; what is larger than all is not kept."""
    shelf = {run: Shelf(tmp_path, run, 3 * SIZE + 64) for run in "abcd"}
    for age, run in enumerate("abc"):
        shelf[run].rows({}, lambda: ROWS)
        (file,) = (tmp_path / run).iterdir()
        os.utime(file, (1000 + age, 1000 + age))
    shelf["a"].rows({}, _never)  # used just now
    shelf["d"].rows({}, lambda: ROWS)
    assert [len(list((tmp_path / run).iterdir())) for run in "abcd"] == [1, 0, 1, 1]
    large = torch.zeros(10, 1000)
    assert shelf["a"].rows({"large": 1}, lambda: large) is large
    assert sum(f.stat().st_size for f in tmp_path.glob("*/*")) <= 3 * SIZE + 64
    assert [len(list((tmp_path / run).iterdir())) for run in "abcd"] == [1, 0, 1, 1]


def test_a_nearly_full_disk_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = kept.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(kept.shutil, "disk_usage", lambda path: usage._replace(free=kept.FREE + 100))
    shelf = Shelf(tmp_path, "a", 10**9)
    assert shelf.rows({}, lambda: ROWS) is ROWS
    assert list(tmp_path.glob("a/*")) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.ENOENT])
def test_what_cannot_be_written_is_a_note(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
                                          ) -> None:
    def fails(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(kept, "write_tensors", fails)
    assert Shelf(tmp_path, "a", 10**9).rows({}, lambda: ROWS) is ROWS
    assert f"note: features are not kept for the next probe ([Errno {number}]" in capsys.readouterr().err


def child(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A process that keeps a million numbers after `code`."""
    text = f"import pathlib, torch\nfrom probes import kept\n{code}\n" \
           f"rows = torch.ones(1000, 1000)\nassert kept.Shelf(pathlib.Path({str(folder)!r}), 'a', 10**9).rows({{}}, lambda: rows) is rows"
    return subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)


@pytest.mark.skipif(sys.platform == "win32", reason="limits of the size of files are POSIX")
def test_a_disk_that_fills_in_the_middle_of_a_file_fails_nothing(tmp_path: Path) -> None:
    """The system lets the file grow to 1 MB and no further."""
    done = child("import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
                 "resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "note: features are not kept" in done.stderr
    assert list(tmp_path.glob("a/*")) == []


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
def test_a_process_killed_while_it_writes_leaves_nothing_to_read(tmp_path: Path) -> None:
    """Killed when all is written and not yet named: the next process computes anew, and the remains count, and go, like all others."""
    done = child("import os, signal; os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)", tmp_path)
    assert done.returncode == -9
    (remains,) = tmp_path.glob("a/.*.tmp")
    assert remains.stat().st_size > 4 * 10**6
    assert torch.equal(Shelf(tmp_path, "a", 10**9).rows({}, lambda: ROWS), ROWS)
    assert torch.equal(Shelf(tmp_path, "a", 10**9).rows({}, _never), ROWS)
    assert remains.exists()
    Shelf(tmp_path, "b", 10**5).rows({}, lambda: ROWS)
    assert not remains.exists()
