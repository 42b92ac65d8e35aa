"""A file that is replaced is absent, old or whole, whoever else writes it and however a write ends."""

from __future__ import annotations

import fnmatch
import os
from pathlib import Path

import pytest

from ssl_split.files import read_json, replace_file, write_json


def test_two_processes_of_one_number_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In containers every first process is number 1. One has written half of the file when another begins, writes and renames its own."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    file = tmp_path / "jobs.json"

    def slowly(temporary: Path) -> None:
        with temporary.open("w") as half:
            half.write('{"of": ')
            half.flush()
            write_json(file, {"of": "the other"})
            assert read_json(file) == {"of": "the other"}
            half.write('"the first"}')

    replace_file(file, slowly)
    assert read_json(file) == {"of": "the first"}
    assert [p.name for p in tmp_path.iterdir()] == ["jobs.json"]


def test_a_write_that_fails_leaves_the_old_file_alone(tmp_path: Path) -> None:
    """And while it lasts the temporary file has a name by which it is known as one (`list_runs --remove` takes it for the run's)."""
    file = tmp_path / "jobs.json"
    write_json(file, {"state": "old"})

    def fail(temporary: Path) -> None:
        temporary.write_text('{"state": "ne')
        assert fnmatch.fnmatchcase(temporary.name, ".jobs.json.*.tmp")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        replace_file(file, fail)
    assert read_json(file) == {"state": "old"}
    assert [p.name for p in tmp_path.iterdir()] == ["jobs.json"]
