"""A full disk and damaged results: it is said, nothing half-written counts as done, and the next start goes on."""

from __future__ import annotations

import errno
import json
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from attacks import results
from ssl_split import fields, train
from ssl_split.config import Config
from ssl_split.sweep import __main__ as command
from ssl_split.sweep.book import DONE, FAILED, RUNNING, Book
from ssl_split.sweep.execute import execute
from ssl_split.sweep.jobs import finished_run
from ssl_split.sweep.processes import Local, slots
from tests.sweep.test_sweep_execute import COUNT, FINISH, FINISH_LATER, run, starts, states, training, until
from tests.train.tiny import tiny

FULL = OSError(errno.ENOSPC, "No space left on device")
QUICK = Path(__file__).parents[2] / "configs" / "sweeps" / "quick.yaml"


def fill_disk(patch: pytest.MonkeyPatch) -> None:
    """From now on half of the job list is written before the disk is full."""
    real = Path.write_text

    def half(file: Path, text: str, **options: Any) -> int:
        if not file.name.startswith(".jobs.json."):
            return real(file, text, **options)
        real(file, text[: len(text) // 2], **options)
        raise FULL

    patch.setattr(Path, "write_text", half)


def test_a_full_disk_stops_the_sweep_and_the_next_start_goes_on(tmp_path: Path) -> None:
    """Two jobs at a time: `first` is done, `slow` and `other` run when the disk fills, then `other` ends, which cannot be noted. `slow` is
    stopped, the job list is whole and old, and the next start takes `other` as done by its file."""
    slow = training(tmp_path, "slow", COUNT + "import signal, time; signal.signal(signal.SIGTERM, lambda *a: ((p / 'stopped').write_text"
                    "('saved'), sys.exit(143))); (p / 'ready').write_text(''); time.sleep(60)")
    first, other = training(tmp_path, "first"), training(tmp_path, "other", FINISH_LATER)
    work = [first, slow, other]

    def fill(patch: pytest.MonkeyPatch) -> None:
        until(slow.run / "ready")
        until(other.run / "ready")
        while states(tmp_path)["other"] != RUNNING:
            threading.Event().wait(0.02)
        fill_disk(patch)
        with (other.run / "go").open("w"):
            pass

    with pytest.MonkeyPatch.context() as patch:
        thread = threading.Thread(target=fill, args=(patch,))
        thread.start()
        with pytest.raises(OSError, match="No space left"):
            execute(work, Book(tmp_path, work, {}), workers=Local(slots(jobs=2)))
        thread.join()
    assert (slow.run / "stopped").read_text() == "saved"
    assert states(tmp_path) == {"first": DONE, "slow": RUNNING, "other": RUNNING}
    assert list(tmp_path.glob(".*.tmp")) == []
    again = [first, training(tmp_path, "slow"), other]
    assert run(tmp_path, again).count() == {DONE: 3}
    assert [starts(job) for job in again] == [1, 2, 1]


def test_half_a_result_is_a_failure_and_is_made_again(tmp_path: Path) -> None:
    """A job whose disk is full in the middle of its result file."""
    half = training(tmp_path, "a", COUNT + "(p / 'result.json').write_text('{{\"finished\": tr'); sys.exit('error: the disk is full')")
    assert run(tmp_path, [half]).entries["a"]["reason"] == "the disk is full"
    assert states(tmp_path) == {"a": FAILED}
    assert run(tmp_path, [training(tmp_path, "a", FINISH)]).count() == {DONE: 1}


def test_a_full_disk_is_one_sentence_after_the_jobs_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                                capsys: pytest.CaptureFixture[str]) -> None:
    def fills(work: Any, book: Book, **options: Any) -> None:
        book.note(work[0], FAILED, reason="the disk is full; what was computed before is kept")
        raise FULL

    monkeypatch.setattr(command, "execute", fills)
    monkeypatch.setattr(sys, "argv", ["sweep", str(QUICK), "--out", str(tmp_path), "--seed", "0"])
    assert fields.command(command.main) == 1
    failed, last = capsys.readouterr().err.splitlines()[-2:]
    assert failed.startswith("failed: train ")
    assert ": the disk is full; what was computed before is kept (log: " in failed
    assert last == "error: the disk is full; what was computed before is kept"


def flags(config: Config) -> list[str]:
    """A run as the command line's file."""
    file = Path(config.out).parent / "config.yaml"
    file.write_text(json.dumps(config.to_dict()))
    return ["--config", str(file)]


def test_a_damaged_result_of_a_training_is_made_again_from_its_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --resume, which a sweep says of a training that was begun; without it the usual sentence. No step is trained again."""
    config = tiny(tmp_path / "runs", max_steps=3)
    whole = train.run(config)
    metrics = (whole.path / "metrics.jsonl").read_text()
    file = whole.path / "result.json"
    for damaged in ("[]", "{}", file.read_text()[:100]):
        file.write_text(damaged)
        assert finished_run(whole.path) is None
        with pytest.raises(ValueError, match=r"unfinished run \(step 3\): add --resume"):
            train.run(config)
    assert train.main([*flags(config), "--resume"]) == 0
    assert "had finished before" not in capsys.readouterr().out
    assert finished_run(whole.path) == file
    measured = {"seconds", "images_per_second", "command"}
    again = {k: v for k, v in json.loads(file.read_text()).items() if k not in measured}
    assert again == {k: v for k, v in whole.result.items() if k not in measured}
    assert (whole.path / "metrics.jsonl").read_text() == metrics
    assert train.main(flags(config)) == 0
    assert "had finished before" in capsys.readouterr().out


def test_a_damaged_result_of_an_attack_is_computed_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "result.json"
    assert results.known(file) is None
    for damaged in ('{"r2": 0.', "[]"):
        file.write_text(damaged)
        assert results.known(file) is None
        assert f"{file} is damaged and is computed again" in capsys.readouterr().err
    assert results.write(file, {"r2": 0.5}, start=0.0)["r2"] == 0.5
    assert (results.known(file) or {})["r2"] == 0.5
    assert "exists and is not computed again" in capsys.readouterr().err
