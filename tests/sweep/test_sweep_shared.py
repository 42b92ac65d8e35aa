"""Sweeps that share a directory agree on how a job stands, and try one that fails no more often together than each was told."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from ssl_split.sweep.book import DONE, FAILED, RUNNING, SKIPPED, WAITING, Book
from ssl_split.sweep.execute import execute
from ssl_split.sweep.jobs import Job
from ssl_split.sweep.processes import claim
from tests.sweep.test_sweep_execute import COUNT, FINISH, FINISH_LATER, WAIT, probe, run, starts, states, training, until

FAIL_LATER = WAIT + "sys.exit('error: the reason')"


def sweeps(out: Path, work: list[Job], count: int, *, retries: int = 0) -> list[Book]:
    """So many sweeps of the same jobs at a time, the first job of which waits for a sign that is given when all look at it."""
    books = [Book(out, work, {}) for _ in range(count)]
    threads = [threading.Thread(target=execute, args=(work, book), kwargs={"retries": retries}) for book in books]
    threads[0].start()
    until(work[0].run / "ready")
    for thread in threads[1:]:
        thread.start()
    for book in books[1:]:
        until_state(out, book, work[-1].key)
    (work[0].run / "go").write_text("")
    for thread in threads:
        thread.join()
    return books


def until_state(out: Path, book: Book, last: str) -> None:
    """Wait until a sweep has begun: it has done, or seen as done, the last of its jobs, which need no other."""
    until(out / "logs" / f"{last}.log")
    for _ in range(3000):
        if book.state(last) == DONE:
            return
        threading.Event().wait(0.02)
    raise AssertionError("the sweep never began")


def test_a_sweep_does_not_take_back_what_another_has_done(tmp_path: Path) -> None:
    """A job failed in the first sweep and its stage was left out, the second made both; then the first notes another job."""
    work = [training(tmp_path, "a"), training(tmp_path, "b")]
    work.append(probe(work[0]))
    first, second = Book(tmp_path, work, {}), Book(tmp_path, work, {})
    first.set(work[0], FAILED, reason="the reason")
    first.set(work[2], SKIPPED, reason="its training failed")
    second.set(work[0], DONE, seconds=2.0)
    second.set(work[2], RUNNING)
    first.set(work[1], DONE)
    assert states(tmp_path) == {"a": DONE, "b": DONE, "a--probe-knn": RUNNING}
    assert [e["reason"] for e in json.loads((tmp_path / "jobs.json").read_text())["jobs"]] == [None, None, None]


def test_what_failed_here_and_was_made_elsewhere_is_done(tmp_path: Path) -> None:
    """The first sweep fails at `a` and goes on with `slow`; a second one, started later, repairs `a`."""
    pytest.importorskip("fcntl")
    repaired = COUNT + "(p.parent / 'repaired').exists() or sys.exit('error: not yet');" + FINISH.removeprefix(COUNT)
    a, slow = training(tmp_path, "a", repaired), training(tmp_path, "slow", FINISH_LATER)
    work = [a, probe(a), slow]
    books: list[Book] = []
    first = threading.Thread(target=lambda: books.append(run(tmp_path, work)))
    first.start()
    until(slow.run / "ready")
    assert states(tmp_path) == {"a": FAILED, "a--probe-knn": SKIPPED, "slow": RUNNING}
    (tmp_path / "runs" / "repaired").write_text("")
    assert run(tmp_path, work[:2]).count() == {DONE: 2}
    (slow.run / "go").write_text("")
    first.join()
    assert books[0].count() == {DONE: 3}
    assert set(states(tmp_path).values()) == {DONE}


@pytest.mark.parametrize("retries", [0, 1])
def test_sweeps_try_a_failing_job_as_often_as_told_together(tmp_path: Path, retries: int) -> None:
    """Three sweeps without shards, as the tasks of an array: each sees the failure of another as its own. A later start tries again."""
    pytest.importorskip("fcntl")
    bad = training(tmp_path, "bad", FAIL_LATER)
    work = [bad, probe(bad), training(tmp_path, "good")]
    books = sweeps(tmp_path, work, 3, retries=retries)
    assert starts(bad) == 1 + retries
    for book in books:
        assert book.count() == {FAILED: 1, SKIPPED: 1, DONE: 1}
        assert book.entries["bad"]["reason"] == "the reason"
    assert states(tmp_path) == {"bad": FAILED, "bad--probe-knn": SKIPPED, "good": DONE}
    execute(work, Book(tmp_path, work, {}), retries=retries)
    assert starts(bad) == 2 * (1 + retries)


def test_a_job_is_not_given_back_before_its_failure_is_noted(tmp_path: Path) -> None:
    """Else another sweep takes it in between and tries it again."""
    pytest.importorskip("fcntl")
    job = training(tmp_path, "a", COUNT + "sys.exit(1)")
    log, seen = tmp_path / "logs" / "a.log", []

    class Watched(Book):
        def write(self, changed) -> None:
            super().write(changed)
            seen.append((self.state("a"), claim(log) is None))

    execute([job], Watched(tmp_path, [job], {}))
    assert seen[1:] == [(RUNNING, True), (FAILED, True)]
    assert claim(log) is not None


def test_a_job_list_of_an_earlier_version_has_no_failures(tmp_path: Path) -> None:
    job = training(tmp_path, "a")
    Book(tmp_path, [job], {}).set(job, FAILED, reason="old")
    listed = json.loads((tmp_path / "jobs.json").read_text())
    del listed["jobs"][0]["failures"]
    (tmp_path / "jobs.json").write_text(json.dumps(listed))
    book = Book(tmp_path, [job], {})
    book.restore()
    assert book.failures(job)[0] == 0
    assert book.state("a") == WAITING
