"""Jobs run once, failures stay alone, and a sweep goes on where it was stopped. The commands are small programs of the tests' own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ssl_split.sweep.book import DONE, FAILED, SKIPPED, WAITING, Book
from ssl_split.sweep.execute import execute
from ssl_split.sweep.jobs import Job
from ssl_split.sweep.plan import Stage

COUNT = "import pathlib, sys; p = pathlib.Path('{run}'); p.mkdir(parents=True, exist_ok=True); (p / 'starts').open('a').write('x');"
FINISH = COUNT + "(p / 'result.json').write_text('{{\"finished\": true}}')"
PROBE = COUNT + ("q = p / 'probes' / 'knn-0'; q.mkdir(parents=True, exist_ok=True);"
                 "(q / 'result.json').write_text('{{\"name\": \"knn\", \"options\": {{}}}}')")
FAIL = COUNT + "print('first line'); sys.exit('error: the reason')"


def training(out: Path, name: str, code: str = FINISH) -> Job:
    """A training job whose program is `code`."""
    run = out / "runs" / name
    return Job(name, f"train {name}", "train", {"seed": 0}, run, ("-c", code.format(run=run)))


def probe(of: Job, code: str = PROBE) -> Job:
    """A probe of a training."""
    stage = Stage("probe", "knn", "probes.knn", {}, {})
    return Job(f"{of.key}--probe-knn", f"probe knn {of.key}", "probe knn", {"seed": 0}, of.run, ("-c", code.format(run=of.run)), stage,
               of.key)


def run(out: Path, work: list[Job]) -> Book:
    """Execute the jobs; the book tells how they stand."""
    book = Book(out, work, {"name": "trial"})
    execute(work, book)
    return book


def starts(job: Job) -> int:
    """How often a job's program was started in its run."""
    file = job.run / "starts"
    return len(file.read_text()) if file.exists() else 0


def states(out: Path) -> dict[str, str]:
    """States as `jobs.json` has them."""
    return {e["key"]: e["state"] for e in json.loads((out / "jobs.json").read_text())["jobs"]}


def test_what_exists_is_not_run_again(tmp_path: Path) -> None:
    train = training(tmp_path, "a")
    work = [train, probe(train)]
    run(tmp_path, work)
    assert starts(train) == 2  # the training and its probe, once each
    book = run(tmp_path, work)
    assert starts(train) == 2
    assert book.count() == {DONE: 2}
    assert states(tmp_path) == {"a": DONE, "a--probe-knn": DONE}


def test_a_failure_stays_alone_and_is_tried_again(tmp_path: Path) -> None:
    bad, good = training(tmp_path, "bad", FAIL), training(tmp_path, "good")
    book = run(tmp_path, [bad, probe(bad), good, probe(good)])
    assert states(tmp_path) == {"bad": FAILED, "bad--probe-knn": SKIPPED, "good": DONE, "good--probe-knn": DONE}
    assert book.entries["bad"]["reason"] == "the reason"
    assert book.entries["bad--probe-knn"]["reason"] == "its training failed"
    assert "first line" in (tmp_path / "logs" / "bad.log").read_text()
    repaired = training(tmp_path, "bad")
    again = run(tmp_path, [repaired, probe(repaired), good, probe(good)])
    assert again.count() == {DONE: 4}
    assert starts(good) == 2


def test_a_promise_that_is_not_kept_is_a_failure(tmp_path: Path) -> None:
    book = run(tmp_path, [training(tmp_path, "a", COUNT)])
    assert book.entries["a"]["state"] == FAILED
    assert book.entries["a"]["reason"] == "it ended well but its result file is missing"


def test_a_begun_training_is_resumed(tmp_path: Path) -> None:
    job = training(tmp_path, "a")
    assert job.start_words() == job.words
    job.run.mkdir(parents=True)
    (job.run / "config.yaml").write_text("seed: 0")
    assert job.start_words() == (*job.words, "--resume")
    assert probe(job).start_words() == probe(job).words


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_ends_the_child_and_the_next_start_goes_on(tmp_path: Path, number: signal.Signals) -> None:
    """The child notes SIGTERM and ends; the sweep raises KeyboardInterrupt with the job waiting again."""
    first, slow = training(tmp_path, "first"), training(tmp_path, "slow", COUNT + (
        "import signal, time;"
        "signal.signal(signal.SIGTERM, lambda *a: ((p / 'stopped').write_text('saved'), sys.exit(143)));"
        "(p / 'ready').write_text('');"
        "time.sleep(60)"))

    def stop() -> None:
        while not (slow.run / "ready").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, [first, slow])
    thread.join()
    assert (slow.run / "stopped").read_text() == "saved"
    assert states(tmp_path) == {"first": DONE, "slow": WAITING}
    again = run(tmp_path, [first, training(tmp_path, "slow")])
    assert again.count() == {DONE: 2}
    assert starts(first) == 1


def test_two_sweeps_do_not_share_a_directory(tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    with (tmp_path / ".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="another sweep"):
            run(tmp_path, [training(tmp_path, "a")])
    assert run(tmp_path, [training(tmp_path, "a")]).count() == {DONE: 1}


def test_a_child_that_outlives_its_sweep_keeps_the_directory(tmp_path: Path) -> None:
    """The sweep is killed (kill -9) in the middle of a job: nothing may start beside the child that is left, and later everything may."""
    pytest.importorskip("fcntl")
    job = training(tmp_path, "a", COUNT + "(p / 'ready').write_text(''); import time; time.sleep(60)")
    program = ("import pathlib; from ssl_split.sweep.book import Book; from ssl_split.sweep.execute import execute;"
               f"from ssl_split.sweep.jobs import Job; r = pathlib.Path({str(job.run)!r}); o = pathlib.Path({str(tmp_path)!r});"
               f"w = [Job('a', 'train a', 'train', {{}}, r, {job.words!r})]; execute(w, Book(o, w, {{}}))")
    with subprocess.Popen([sys.executable, "-c", program]) as sweep:
        while not (job.run / "ready").exists():
            time.sleep(0.02)
        sweep.kill()
    with pytest.raises(ValueError, match="a job it left behind"):
        run(tmp_path, [training(tmp_path, "a")])
    left = json.loads((tmp_path / "jobs.json").read_text())["jobs"][0]
    assert left["state"] == "running"
    os.kill(left["pid"], signal.SIGKILL)
    for _ in range(500):  # until the system has taken the child away
        try:
            assert run(tmp_path, [training(tmp_path, "a")]).count() == {DONE: 1}
            break
        except ValueError:
            time.sleep(0.02)
    assert states(tmp_path) == {"a": DONE}


def test_time_left_comes_from_the_same_sort_of_job(tmp_path: Path) -> None:
    """Trainings took 10 and 20 s, probes 2 s: one training and two probes are left, 15 + 2 + 2 s. A sort never measured takes the
    mean of all, (10 + 20 + 2) / 3."""
    trains = [training(tmp_path, name) for name in "abc"]
    probes = [probe(t) for t in trains]
    book = Book(tmp_path, [*trains, *probes], {})
    assert book.seconds_left() is None
    book.note(trains[0], DONE, seconds=10)
    book.note(trains[1], DONE, seconds=20)
    book.note(probes[0], DONE, seconds=2)
    assert book.seconds_left() == pytest.approx(19)
    book.entries[probes[1].key]["sort"] = "new"
    assert book.seconds_left() == pytest.approx(17 + 32 / 3)
    book.note(trains[2], FAILED, reason="x")
    book.note(probes[2], SKIPPED)
    assert book.seconds_left() == pytest.approx(32 / 3)


def test_durations_survive_a_restart(tmp_path: Path) -> None:
    job = training(tmp_path, "a")
    seconds = run(tmp_path, [job]).entries["a"]["seconds"]
    assert seconds > 0
    assert run(tmp_path, [job, training(tmp_path, "b")]).entries["a"]["seconds"] == seconds
