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
from typing import Any

import pytest

from ssl_split.sweep import processes
from ssl_split.sweep.__main__ import parser, shard, workers
from ssl_split.sweep.book import DONE, FAILED, SKIPPED, WAITING, Book
from ssl_split.sweep.execute import execute
from ssl_split.sweep.jobs import Job
from ssl_split.sweep.plan import Stage
from ssl_split.sweep.processes import Local, cores, slots

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


@pytest.mark.usefixtures("hears_ctrl_c")
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


WAIT = "import time;" + COUNT + "(p / 'ready').write_text(''); [time.sleep(0.02) for _ in iter(lambda: (p / 'go').exists(), True)];"
"""A job that begins, and ends when it is told to."""
FINISH_LATER = WAIT + "(p / 'result.json').write_text('{{\"finished\": true}}')"


def until(file: Path) -> None:
    """Wait for a file."""
    for _ in range(3000):
        if file.exists():
            return
        time.sleep(0.02)
    raise AssertionError(f"{file} never came")


def test_two_sweeps_share_a_directory(tmp_path: Path) -> None:
    """A sweep leaves a job to the one that has taken it, does the others, and goes on with what needs it when it is done; the job list
    of both has every state."""
    pytest.importorskip("fcntl")
    slow, own = training(tmp_path, "slow", FINISH_LATER), training(tmp_path, "own")
    other = training(tmp_path, "other")
    first = threading.Thread(target=run, args=(tmp_path, [slow, other]))
    first.start()
    until(slow.run / "ready")
    work = [slow, probe(slow), own]
    second = threading.Thread(target=lambda: books.append(run(tmp_path, work)))
    books: list[Book] = []
    second.start()
    until(own.run / "result.json")
    assert states(tmp_path)["slow"] == "running"
    (slow.run / "go").write_text("")
    first.join()
    second.join()
    assert books[0].count() == {DONE: 3}
    assert starts(slow) == 2  # the training and its probe, once each
    assert states(tmp_path) == {"slow": DONE, "slow--probe-knn": DONE, "own": DONE, "other": DONE}
    seconds = {e["key"]: e["seconds"] for e in json.loads((tmp_path / "jobs.json").read_text())["jobs"]}
    assert all(s > 0 for s in seconds.values())


def test_a_child_that_outlives_its_sweep_is_waited_for(tmp_path: Path) -> None:
    """The sweep is killed (kill -9) in the middle of a job: the next one takes over what its child makes."""
    pytest.importorskip("fcntl")
    job = training(tmp_path, "a", FINISH_LATER)
    program = ("import pathlib; from ssl_split.sweep.book import Book; from ssl_split.sweep.execute import execute;"
               f"from ssl_split.sweep.jobs import Job; r = pathlib.Path({str(job.run)!r}); o = pathlib.Path({str(tmp_path)!r});"
               f"w = [Job('a', 'train a', 'train', {{}}, r, {job.words!r})]; execute(w, Book(o, w, {{}}))")
    with subprocess.Popen([sys.executable, "-c", program]) as sweep:
        until(job.run / "ready")
        sweep.kill()
    again = threading.Thread(target=run, args=(tmp_path, [job]))
    again.start()
    time.sleep(0.3)
    assert states(tmp_path) == {"a": "running"}
    (job.run / "go").write_text("")
    again.join()
    assert states(tmp_path) == {"a": DONE}
    assert starts(job) == 1


def test_several_jobs_run_at_a_time_each_bound_to_its_place(tmp_path: Path) -> None:
    """Two places, three trainings that each end only when a second has begun; a stage does not start before its training is done."""
    code = (COUNT + "import os, time; (p / 'ready').write_text(os.environ['OMP_NUM_THREADS'] + os.environ['CUDA_VISIBLE_DEVICES']);"
            "[time.sleep(0.02) for _ in iter(lambda: len(list(p.parent.glob('*/ready'))) > 1, True)];"
            "(p / 'result.json').write_text('{{\"finished\": true}}')")
    trains = [training(tmp_path, name, code) for name in "abc"]
    work = [*trains, *(probe(t) for t in trains)]
    book = Book(tmp_path, work, {})
    execute(work, book, workers=Local(slots(gpus=["3"], per_gpu=2, visible="0,1,2,3")))
    assert book.count() == {DONE: 6}
    assert {(t.run / "ready").read_text()[-1] for t in trains} == {"3"}
    assert all(starts(t) == 2 for t in trains)


def test_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "gpus_here", lambda: 2)
    threads = str(max(1, cores() // 2))
    assert [s.environment for s in slots()] == [{}]
    assert [s.environment["OMP_NUM_THREADS"] for s in slots(jobs=2)] == [threads, threads]
    found = slots(gpus=["0", "1"], per_gpu=2)
    assert [(s.name, s.environment["CUDA_VISIBLE_DEVICES"]) for s in found] == [
        ("GPU 0 (1)", "0"), ("GPU 1 (1)", "1"), ("GPU 0 (2)", "0"), ("GPU 1 (2)", "1")]
    assert [s.environment["CUDA_VISIBLE_DEVICES"] for s in slots(gpus=["1", "0"], visible="5, GPU-8ab")] == ["GPU-8ab", "5"]


@pytest.mark.parametrize(("wrong", "said"), [
    ({"jobs": 0}, "at least one job"),
    ({"gpus": ["0"], "per_gpu": 0}, "at least one job"),
    ({"jobs": 2, "gpus": ["0"]}, "give one of them"),
    ({"per_gpu": 3}, "--runs-per-gpu goes with --gpus or --ray"),
    ({"gpus": []}, "--gpus names no GPU: give numbers"),
    ({"gpus": ["0", "cuda:1"]}, "--gpus 0,cuda:1: give numbers"),
    ({"gpus": ["0", "0"]}, "names GPU 0 twice: --runs-per-gpu 2"),
    ({"gpus": ["0", "1"], "visible": "3"}, "--gpus 1: CUDA_VISIBLE_DEVICES=3 gives this process only 1 GPU, counted from 0"),
    ({"gpus": ["0"], "visible": ""}, "gives this process no GPU"),
    ({"gpus": ["0"], "visible": "-1"}, "gives this process no GPU"),
])
def test_impossible_places_are_refused(wrong: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "gpus_here", lambda: 1)
    with pytest.raises(ValueError, match=said):
        slots(**wrong)


@pytest.mark.parametrize(("here", "words", "said"), [
    (1, "7", r"^--gpus 7: there is only GPU 0 on this machine$"),
    (4, "0,3,4,5", r"^--gpus 4: there are GPUs 0 to 3 on this machine$"),
    (0, "0", r"^--gpus 0: PyTorch finds no GPU on this machine; without --gpus jobs run on the processor$"),
])
def test_gpus_that_the_machine_does_not_have_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: int, words: str, said: str
                                                         ) -> None:
    """By what PyTorch finds, where no variable says what this process was given; without `--gpus` nobody asks it."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: here)
    with pytest.raises(ValueError, match=said):
        workers(parser().parse_args(["quick.yaml", "--gpus", words]), tmp_path)
    if here:
        with workers(parser().parse_args(["quick.yaml", "--gpus", str(here - 1)]), tmp_path) as entered:
            assert entered.room() == 1
    monkeypatch.setattr(processes, "gpus_here", lambda: pytest.fail("asked"))
    with workers(parser().parse_args(["quick.yaml", "--jobs", "2"]), tmp_path) as entered:
        assert entered.room() == 2


@pytest.mark.parametrize(("words", "said"), [
    (["--gpus", ""], "--gpus names no GPU"),
    (["--runs-per-gpu", "3"], "--runs-per-gpu goes with"),
    (["--gpus", "2"], "CUDA_VISIBLE_DEVICES=6,7 gives this process only 2 GPUs"),
])
def test_flags_of_gpus_are_refused_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
                                                          ) -> None:
    """Tasks of a batch system are given GPUs by CUDA_VISIBLE_DEVICES."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6,7")
    with pytest.raises(ValueError, match=said):
        workers(parser().parse_args(["quick.yaml", *words]), tmp_path)


def test_a_task_uses_the_gpu_that_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--gpus 0` in a task that was given GPU 6 of its machine."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6,7")
    job = training(tmp_path, "a", COUNT + "import os; (p / 'gpu').write_text(os.environ['CUDA_VISIBLE_DEVICES']);"
                   + FINISH.removeprefix(COUNT))
    with workers(parser().parse_args(["quick.yaml", "--gpus", "0"]), tmp_path) as entered:
        execute([job], Book(tmp_path, [job], {}), workers=entered)
    assert (job.run / "gpu").read_text() == "6"


def test_longest_jobs_go_first(tmp_path: Path) -> None:
    """By what they took before, with what waits for them: b (1 s and a probe of 9 s), c (5 s), a (2 s)."""
    code = COUNT + "import time; (p.parent / 'order').open('a').write(p.name); (p / 'result.json').write_text('{{\"finished\": true}}')"
    trains = [training(tmp_path, name, code) for name in "abc"]
    work = [*trains, probe(trains[1])]
    book = Book(tmp_path, work, {})
    for key, seconds in (("a", 2.0), ("b", 1.0), ("c", 5.0), ("b--probe-knn", 9.0)):
        book.entries[key]["seconds"] = seconds
    book.write(book.entries)
    two = slots(jobs=2)
    assert book.expected()["b"] == 1.0
    execute(work, Book(tmp_path, work, {}), workers=Local(two))
    assert sorted((tmp_path / "runs" / "order").read_text()[:2]) == ["b", "c"]


def test_a_failed_job_is_tried_again_as_often_as_told(tmp_path: Path) -> None:
    job = training(tmp_path, "a", COUNT + "len((p / 'starts').read_text()) > 2 or sys.exit('error: not yet');" + FINISH.removeprefix(COUNT))
    book = Book(tmp_path, [job], {})
    execute([job], book, retries=1)
    assert (book.entries["a"]["state"], book.entries["a"]["reason"]) == (FAILED, "not yet")
    assert starts(job) == 2
    execute([job], Book(tmp_path, [job], {}), retries=1)
    assert states(tmp_path) == {"a": DONE}


def test_a_killed_job_says_so(tmp_path: Path) -> None:
    book = run(tmp_path, [training(tmp_path, "a", COUNT + "import os, signal; print('at work'); os.kill(os.getpid(), signal.SIGKILL)")])
    assert book.entries["a"]["reason"] == "killed by SIGKILL: the system may have run out of memory"


def test_shards_are_all_runs_once(tmp_path: Path) -> None:
    trains = [training(tmp_path, name) for name in "abcde"]
    work = [job for t in trains for job in (t, probe(t))]
    parts = [shard(work, f"{i}/3") for i in (1, 2, 3)]
    assert sorted(j.key for part in parts for j in part) == sorted(j.key for j in work)
    assert [j.key for j in parts[1]] == ["b", "b--probe-knn", "e", "e--probe-knn"]
    assert shard(work, None) == work
    for wrong in ("0/3", "4/3", "x", "1"):
        with pytest.raises(ValueError, match="is not I/N"):
            shard(work, wrong)


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
