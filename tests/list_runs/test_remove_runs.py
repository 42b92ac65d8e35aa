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


@pytest.mark.parametrize("file", ["report-draft.docx", "results.xlsx", "attacks/notes.txt", "attacks/ridge-1/notes.txt",
                                  "probes/mine/table.csv", "checkpoints/mine.safetensors", "paper/thesis.tex", "figures/mine.pdf",
                                  "rows/a/b.rows"])
def test_a_file_that_no_run_writes_stays_at_any_depth(tmp_path: Path, file: str, monkeypatch: pytest.MonkeyPatch,
                                                      capsys: pytest.CaptureFixture) -> None:
    run = made.make_run(tmp_path)
    made.add_attack(run, 0.02)
    (run / file).parent.mkdir(parents=True, exist_ok=True)
    (run / file).write_text("years of work")
    assert f"holds {file}, which no run writes" in refused([tmp_path, "--remove", run.name, "--yes"], monkeypatch, capsys)
    assert (run / "config.yaml").is_file()


def test_what_interrupted_attacks_and_writes_leave_goes(tmp_path: Path) -> None:
    """A picture without a result, a half-written file, an empty folder."""
    run = made.make_run(tmp_path)
    for file in ("attacks/ridge-1/images.png", "attacks/ridge-1/.result.json.0a1b.tmp", "checkpoints/.step-00000003.safetensors.0a1b.tmp"):
        (run / file).parent.mkdir(parents=True, exist_ok=True)
        (run / file).write_text("half")
    (run / "attacks" / "decoder-2").mkdir()
    assert main([str(tmp_path), "--remove", run.name, "--yes"]) == 0
    assert not run.exists()


@pytest.mark.slow
def test_everything_that_the_commands_write_goes(tmp_path: Path) -> None:
    """A real run that was probed, attacked and reported on in place."""
    from attacks import invert, membership
    from probes import knn
    from ssl_split import train
    from ssl_split.report import build
    from tests.train.tiny import tiny

    run = train.run(tiny(tmp_path, max_steps=3, record_wire=2)).path
    knn.main(["--checkpoint", str(run)])
    invert.main(["--checkpoint", str(run), "--method", "ridge", "--aux", "40", "--targets", "8"])
    membership.main(["--checkpoint", str(run), "--method", "norm", "--members", "20"])
    build.write(run)
    assert {p.name for p in run.iterdir()} > {"wire.safetensors", "attacks", "probes", "paper", "figures", "report.html"}
    assert remove.foreign(run) is None
    assert main([str(tmp_path), "--remove", run.name, "--yes"]) == 0
    assert not run.exists()


def test_a_training_that_never_made_its_directory_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Two failed; only one of them has something to remove. Then nothing is left to remove, which is no mistake."""
    failed, good = made.make_run(tmp_path / "runs", cut=1, finished=False), made.make_run(tmp_path / "runs", cut=3)
    (failed / ".lock").touch()
    jobs = [{"label": "train", "state": "failed", "reason": "no such images", "run": f"runs/{name}", "stage": None, "setting": {"cut": 9}}
            for name in (failed.name, "gone")]
    made.write_json(tmp_path / "jobs.json", {"jobs": jobs})
    command = [str(tmp_path), "--remove", "--where", "state=failed", "--yes"]
    assert main(command) == 0
    said = capsys.readouterr()
    assert f"{tmp_path / 'runs' / 'gone'} does not exist, only the job list of its sweep names it: it is left out" in said.err
    assert "removed 1 run (" in said.out
    assert list((tmp_path / "runs").iterdir()) == [good]
    assert main(command) == 0
    assert "no run: nothing was removed" in capsys.readouterr().out


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
