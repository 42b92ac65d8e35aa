"""What is removed is what was named, if it is a run that nobody trains; all of it or nothing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import synthetic_runs as made

from ssl_split import fields, locks
from ssl_split.list_runs import remove
from ssl_split.list_runs.__main__ import main


def refused(words: list[object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> str:
    """The sentence of a refusal."""
    monkeypatch.setattr("sys.argv", ["list_runs", *map(str, words)])
    assert fields.command(main) == 2
    return str(capsys.readouterr().err.strip().splitlines()[-1])


def test_named_and_filtered_runs_go_and_others_stay(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    made.make_study(tmp_path, cuts=(1, 9, 17), seeds=1)
    first = next((tmp_path / "runs").glob("mocosfl-*cut9-*"))
    assert main([str(tmp_path), "--remove", first.name, "--yes"]) == 0
    shown = capsys.readouterr().out
    assert str(first) in shown
    assert "KiB" in shown
    assert len(list((tmp_path / "runs").iterdir())) == 5
    assert not first.exists()
    assert main([str(tmp_path), "--remove", "--where", "algorithm=monacosfl", "cut=1,9", "--yes"]) == 0
    assert sorted(p.name.rpartition("-")[0] for p in (tmp_path / "runs").iterdir()) == [
        "mocosfl-cifar10-cut1", "mocosfl-cifar10-cut17", "monacosfl-cifar10-cut17"]


def test_nobody_to_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    run = made.make_run(tmp_path)
    assert "add --yes" in refused([tmp_path, "--remove", run.name], monkeypatch, capsys)
    assert (run / "config.yaml").is_file()


@pytest.mark.parametrize(("answer", "left"), [("y", False), ("yes", False), ("", True), ("n", True)])
def test_the_answer_counts(answer: str, left: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = made.make_run(tmp_path)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda question: answer)
    assert main([str(tmp_path), "--remove", run.name]) == int(left)
    assert run.exists() == left


def test_a_run_that_is_being_trained_stays_and_so_do_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                         capsys: pytest.CaptureFixture) -> None:
    idle, busy = made.make_run(tmp_path, cut=1), made.make_run(tmp_path, cut=3, finished=False)
    with locks.hold(busy / ".lock"):
        assert "is being trained" in refused([tmp_path, "--remove", idle.name, busy.name, "--yes"], monkeypatch, capsys)
        with pytest.raises(ValueError, match="it was not removed"):
            remove.remove(busy)
    assert (idle / "config.yaml").is_file()
    assert (busy / "config.yaml").is_file()
    assert main([str(tmp_path), "--remove", idle.name, busy.name, "--yes"]) == 0
    assert list(tmp_path.iterdir()) == []


def test_without_a_lock_a_recent_change_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    run = made.make_run(tmp_path, finished=False)
    assert "is being trained" in refused([tmp_path, "--remove", run.name, "--yes"], monkeypatch, capsys)
    for path in run.iterdir():
        os.utime(path, (1e9, 1e9))
    assert main([str(tmp_path), "--remove", run.name, "--yes"]) == 0


def test_what_no_run_writes_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    run = made.make_run(tmp_path)
    (run / "thesis.tex").write_text("years of work")
    assert "thesis.tex" in refused([tmp_path, "--remove", run.name, "--yes"], monkeypatch, capsys)
    assert (run / "config.yaml").is_file()
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "config.yaml").write_text("a: 1")
    refused([tmp_path, "--remove", folder, "--yes"], monkeypatch, capsys)
    assert (folder / "config.yaml").is_file()


def test_links_are_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """Neither a link to a run, nor one inside a run to a folder elsewhere."""
    elsewhere = made.make_run(tmp_path / "elsewhere", cut=1)
    (tmp_path / "runs").mkdir()
    link = tmp_path / "runs" / elsewhere.name
    link.symlink_to(elsewhere)
    assert "is a link" in refused([tmp_path / "runs", "--remove", link.name, "--yes"], monkeypatch, capsys)
    run = made.make_run(tmp_path / "runs", cut=3)
    (run / "attacks").symlink_to(tmp_path / "elsewhere")
    assert main([str(tmp_path / "runs"), "--remove", run.name, "--yes"]) == 0
    assert not run.exists()
    assert (elsewhere / "config.yaml").is_file()


def test_an_interrupted_removal_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends at the first folder: what is left is a run still."""
    run = made.make_run(tmp_path)
    made.add_probe(run, 0.5)

    def stop(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", stop)
        with pytest.raises(KeyboardInterrupt):
            remove.remove(run)
    assert main([str(tmp_path), "--remove", run.name, "--yes"]) == 0
    assert not run.exists()
