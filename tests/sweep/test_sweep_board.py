"""What a person sees of a sweep: a panel on a terminal, lines elsewhere."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import threading
from pathlib import Path

import pytest
from rich.console import Console

from ssl_split.sweep.board import Lines, shown
from ssl_split.sweep.book import DONE, FAILED, RUNNING, SKIPPED, WAITING, Book
from ssl_split.sweep.execute import execute
from ssl_split.sweep.jobs import Job
from tests.sweep.test_sweep_execute import COUNT, FAIL, FINISH, probe, states, training, until


def terminal(width: int = 120) -> Console:
    """A terminal that remembers what it shows, plain."""
    return Console(file=io.StringIO(), force_terminal=True, width=width, height=40, color_system=None, legacy_windows=False)


def text(console: Console) -> str:
    """What was written to it, without the movements of the cursor."""
    assert isinstance(console.file, io.StringIO)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())


def result(job: Job, accuracy: float) -> None:
    """A finished training that measured this much on validation images."""
    job.run.mkdir(parents=True, exist_ok=True)
    (job.run / "result.json").write_text(json.dumps({"finished": True, "validation_knn": {"accuracy": accuracy}}))


def probed(job: Job, accuracy: float, features: str = "backbone") -> None:
    """A finished probe."""
    folder = job.run / "probes" / "knn-0"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps({"name": "knn", "options": {}, "accuracy": accuracy, "features": features}))


def panel(book: Book, running: dict[str, tuple[str, float]], room: int = 1) -> str:
    """What the panel shows."""
    console = terminal()
    with shown(book, lambda: room, console) as board:
        board.refresh(running)
        return text(console)


def test_the_panel_shows_counts_running_jobs_failures_and_the_time_left(tmp_path: Path) -> None:
    """Trainings took 100 and 140 s. One of two places has worked for 30 s at a third, a probe waits, whose sort was never measured:
    (120 - 30 + 120) / 2 s are left."""
    trains = [training(tmp_path, name) for name in "abcd"]
    book = Book(tmp_path, [*trains, probe(trains[2]), probe(trains[3])], {"name": "trial"})
    assert "time left ?" in panel(book, {})
    for job, seconds in zip(trains[:2], (100, 140), strict=True):
        book.note(job, DONE, seconds=seconds)
    book.note(trains[2], RUNNING)
    book.note(trains[3], FAILED, reason="killed by SIGKILL")
    book.note(probe(trains[3]), SKIPPED, reason="its training failed")
    shows = panel(book, {"c": ("GPU 1", 30.0)}, room=2)
    assert "sweep trial" in shows
    assert "2 of 6 done · 2 failed · 1 running · 1 waiting · time left about 2 min" in shows
    assert re.search(r"train c +GPU 1 +30 s of about 2 min", shows)
    assert "failed: train d: killed by SIGKILL" in shows
    assert "best so far" not in shows
    assert book.seconds_left({"c": 30.0}) == pytest.approx(210)
    assert book.seconds_left({"c": 900.0}) == pytest.approx(120)  # late, not early


def test_the_best_is_by_validation_with_its_probe_and_by_the_probe_without(tmp_path: Path) -> None:
    trains = [training(tmp_path, name) for name in "abc"]
    probes = [probe(t) for t in trains]
    book = Book(tmp_path, [*trains, *probes], {})
    for job, features, accuracy in zip(probes, ("backbone", "backbone", "smashed"), (0.40, 0.41, 0.9), strict=True):
        job.run.mkdir(parents=True)
        (job.run / "result.json").write_text('{"finished": true, "validation_knn": null}')
        probed(job, accuracy, features)
        book.note(job, DONE)
    assert "best so far: 41.0 % (probe knn) by b" in panel(book, {})  # smashed data say what leaks, not what was learned
    result(trains[0], 0.7)
    book.note(trains[0], DONE)
    assert "best so far: 70.0 % (kNN on validation images, probe knn 40.0 %) by a" in panel(book, {})
    result(trains[1], 0.6)
    book.note(trains[1], DONE)
    assert "best so far: 70.0 %" in panel(book, {})


def test_a_sweep_on_a_terminal(tmp_path: Path) -> None:
    """Lines about jobs stay above the panel, which ends with how things stand."""
    work = [training(tmp_path, "good"), training(tmp_path, "bad", FAIL)]
    console = terminal()
    execute(work, Book(tmp_path, work, {"name": "trial"}), console=console)
    said = text(console)
    assert re.search(r"\[1/2\] train good: done in \d+ s", said)
    assert "[2/2] train bad: failed: the reason" in said
    assert "1 running" in said
    last = said[said.rindex("sweep trial"):]
    assert "1 of 2 done · 1 failed · 0 running · 0 waiting" in last
    assert "failed: train bad: the reason" in last


@pytest.mark.usefixtures("hears_ctrl_c")
def test_ctrl_c_on_a_terminal_stops_the_child_and_ends_the_panel(tmp_path: Path) -> None:
    slow = training(tmp_path, "slow", COUNT + "import time; (p / 'ready').write_text(str(__import__('os').getpid())); time.sleep(60)")
    console = terminal()

    def stop() -> None:
        until(slow.run / "ready")
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        execute([slow], Book(tmp_path, [slow], {"name": "trial"}), console=console)
    thread.join()
    with pytest.raises(ProcessLookupError):
        os.kill(int((slow.run / "ready").read_text()), 0)
    assert states(tmp_path) == {"slow": WAITING}
    assert "0 of 1 done · 0 failed · 0 running · 1 waiting" in text(console)
    assert "stopping the job that runs, so that the next start can go on..." in text(console)
    assert console.file.getvalue().endswith("\x1b[?25h")  # type: ignore[attr-defined]  # the cursor is shown again


def test_without_a_terminal_a_line_for_every_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    work = [training(tmp_path, "good", FINISH), training(tmp_path, "bad", FAIL)]
    execute(work, Book(tmp_path, work, {}))
    first, second = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"\[1/2\] train good: done in \d+ s   \(done 1, failed 0, left 1, time left about \d+ s\)", first)
    assert re.fullmatch(r"\[2/2\] train bad: failed: the reason   \(done 1, failed 1, left 0, time left about 0 s\)", second)
    dumb = Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": "dumb"})
    for console in (None, Console(file=io.StringIO()), dumb):
        with shown(Book(tmp_path, work, {}), lambda: 1, console) as lines:
            assert type(lines) is Lines
