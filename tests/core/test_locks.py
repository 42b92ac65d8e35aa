"""What several processes want at once is made by one of them; a lock ends with its process, however it ends."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from ssl_split.locks import alone, once, take

pytest.importorskip("fcntl")

MAKER = """
import pathlib, sys, time
from ssl_split.locks import once
folder, name = pathlib.Path(sys.argv[1]), sys.argv[2]
made = folder / "made"

def read():
    return made.read_text() if made.exists() else None

def make():
    (folder / f"{name} began").write_text("")
    while not (folder / "go").exists():
        time.sleep(0.02)
    made.write_text(f"by {name}")
    return read()

print(once(made, read, make))
"""


def maker(folder: Path, name: str) -> subprocess.Popen[str]:
    """A process that wants the file `made`, and makes it when `go` exists."""
    return subprocess.Popen([sys.executable, "-c", MAKER, str(folder), name], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until(file: Path) -> None:
    """Wait for a file."""
    for _ in range(1500):
        if file.exists():
            return
        time.sleep(0.02)
    raise AssertionError(f"{file} never came")


def test_the_second_waits_and_reads_what_the_first_made(tmp_path: Path) -> None:
    first = maker(tmp_path, "first")
    until(tmp_path / "first began")
    second = maker(tmp_path, "second")
    assert second.stderr is not None
    assert second.stderr.readline() == f"waiting for another process that makes {tmp_path / 'made'}\n"
    (tmp_path / "go").write_text("")
    assert [process.communicate(timeout=30)[0] for process in (first, second)] == ["by first\n", "by first\n"]
    assert sorted(f.name for f in tmp_path.iterdir()) == ["first began", "go", "made"]


def test_the_lock_of_a_killed_process_does_not_block(tmp_path: Path) -> None:
    """Neither one that waits already, nor one that comes later."""
    first = maker(tmp_path, "first")
    until(tmp_path / "first began")
    second = maker(tmp_path, "second")
    assert second.stderr is not None
    assert second.stderr.readline().startswith("waiting")
    first.kill()
    until(tmp_path / "second began")
    second.kill()
    (tmp_path / "go").write_text("")
    assert maker(tmp_path, "third").communicate(timeout=30) == ("by third\n", "")
    first.communicate()
    second.communicate()


def test_where_no_lock_can_be_the_work_is_done_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert once(tmp_path / "file" / "below", lambda: None, lambda: "made") == "made"


def test_a_lock_that_is_held_is_not_taken(tmp_path: Path) -> None:
    with alone(tmp_path / "a"), (tmp_path / ".a.lock").open("a") as file:
        assert not take(file, wait=False)
    assert list(tmp_path.iterdir()) == []
