"""Jobs as tasks of a real Ray with two machines (both here): workers that are killed, jobs that fail, Ctrl-C, shares of a GPU."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

import pytest

from ssl_split.sweep import cluster
from ssl_split.sweep.__main__ import main
from ssl_split.sweep.book import DONE, FAILED, WAITING, Book
from ssl_split.sweep.execute import execute
from ssl_split.sweep.processes import NOTHING, Child, Ended, claim
from tests.sweep.test_sweep_execute import COUNT, FINISH, WAIT, probe, starts, states, training, until

ROOT = Path(__file__).parents[2]


def test_without_ray_a_sentence_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'ssl_split\[ray\]'"), cluster.connected("local", tmp_path):
        pass


@pytest.mark.parametrize(("words", "said"), [
    (["--ray", "auto", "--jobs", "2"], "--jobs is about this machine"),
    (["--ray", "auto", "--gpus", "0"], "--gpus is about this machine"),
    (["--cpus-per-job", "2"], "--cpus-per-job belongs to --ray"),
])
def test_flags_of_this_machine_and_of_ray_do_not_go_together(tmp_path: Path, words: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        main([str(ROOT / "configs/sweeps/quick.yaml"), "--out", str(tmp_path / "out"), *words])
    assert not (tmp_path / "out").exists()


class Threads:
    """Workers that do what a worker of Ray does, each in a thread."""

    def __init__(self, mark: Path) -> None:
        self.sight = cluster.Sight(os.getcwd(), str(mark), 1.0)

    def room(self) -> int:
        return 1

    def start(self, words: Sequence[str], log: IO[str], environment: Mapping[str, str] = NOTHING) -> Child:
        log.close()
        return InThread(lambda: cluster.work(words, log.name, self.sight, environment))


class InThread:
    """A job in a thread."""

    place, pid = "a thread", None

    def __init__(self, work: Callable[[], Ended]) -> None:
        self.found: list[Ended] = []
        threading.Thread(target=lambda: self.found.append(work())).start()

    def ended(self) -> Ended | None:
        return self.found[0] if self.found else None

    def stop(self) -> None: ...

    def wait(self, seconds: float) -> None: ...

    def release(self) -> None: ...


@pytest.mark.parametrize("retries", [0, 2])
def test_a_worker_counts_its_failure_while_it_has_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, retries: int) -> None:
    """No other sweep can take the job before, and it counts once."""
    bad, good = training(tmp_path, "bad", COUNT + "sys.exit('error: the reason')"), training(tmp_path, "good")
    real, free = cluster.note_failure, []

    def looks(directory: Path, key: str, why: str) -> bool:
        noted = real(directory, key, why)
        free.append(claim(directory / "logs" / f"{key}.log"))
        other = Book(directory, [bad], {})  # of a sweep that began before
        assert other.failures(bad) == (len(free), "the reason")
        return noted

    monkeypatch.setattr(cluster, "note_failure", looks)
    book = Book(tmp_path, [bad, good], {})
    (tmp_path / "mark").touch()
    execute([bad, good], book, workers=Threads(tmp_path / "mark"), retries=retries)
    assert free == [None] * (retries + 1)
    assert starts(bad) == retries + 1
    assert states(tmp_path) == {"bad": FAILED, "good": DONE}
    (entry,) = (e for e in json.loads((tmp_path / "jobs.json").read_text())["jobs"] if e["key"] == "bad")
    assert (entry["failures"], entry["reason"]) == (retries + 1, "the reason")


@pytest.mark.parametrize("content", [None, "{", '{"jobs": []}', '{"jobs": 3}'])
def test_a_failure_that_a_worker_cannot_count_is_left_to_the_sweep(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "jobs.json").write_text(content)
    assert not cluster.note_failure(tmp_path, "bad", "the reason")
    assert not cluster.note_failure(tmp_path / "nowhere", "bad", "the reason")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Two machines of one and of two processors, the second with a GPU (in name)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")  # Ray reads these when it is imported
        patch.setenv("RAY_AUTH_TOKEN", uuid.uuid4().hex)
        patch.setenv("PYTHONPATH", str(ROOT))
        cluster_utils = pytest.importorskip("ray.cluster_utils", reason="Ray is not installed: pip install 'ssl_split[ray]' to test --ray")
        made = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        made.add_node(num_cpus=2, num_gpus=1)
        yield made.address
        made.shutdown()


@pytest.mark.slow
def test_a_killed_worker_stops_its_command_and_the_job_is_tried_again(tmp_path: Path, address: str, capsys: pytest.CaptureFixture[str]
                                                                      ) -> None:
    """The worker gets SIGKILL in the middle of a job: the command ends with it, the next try goes on, all others are done."""
    code = (COUNT + "import os, time; (p / f'ready{{len((p / \"starts\").read_text())}}').write_text(f'{{os.getppid()}} {{os.getpid()}}');"
            "[time.sleep(0.02) for _ in iter(lambda: len((p / 'starts').read_text()) > 1, True)];" + FINISH.removeprefix(COUNT))
    slow, others = training(tmp_path, "slow", code), [training(tmp_path, name) for name in "abc"]
    work = [slow, *others, *(probe(o) for o in others)]
    pids: list[int] = []

    def kill() -> None:
        until(slow.run / "ready1")
        time.sleep(0.2)
        pids.extend(map(int, (slow.run / "ready1").read_text().split()))
        os.kill(pids[0], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    book = Book(tmp_path, work, {})
    with cluster.connected(address, tmp_path) as workers:
        assert workers.room() == 3
        execute(work, book, workers=workers, retries=1)
    thread.join()
    assert book.count() == {DONE: 7}
    assert starts(slow) == 2
    assert [starts(o) for o in others] == [2, 2, 2]
    lost = "its Ray worker was lost: it was killed, or its machine failed"
    assert f"train slow: failed: {lost}, and is tried again" in capsys.readouterr().err
    with pytest.raises(ProcessLookupError):
        os.kill(pids[1], 0)
    assert list(tmp_path.glob(".ray-*")) == []


@pytest.mark.slow
def test_failed_and_killed_jobs_are_reported_and_stop_nothing(tmp_path: Path, address: str) -> None:
    """And each job has a worker, its processors and its log for itself."""
    bad = training(tmp_path, "bad", COUNT + "sys.exit('error: the reason')")
    killed = training(tmp_path, "killed", COUNT + "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    shows = COUNT + ("import os; print('at work'); v = os.environ; (p / 'seen').write_text(f'{{v[\"OMP_NUM_THREADS\"]}} "
                     "{{v[\"CUDA_VISIBLE_DEVICES\"]}} {{os.getppid()}}');" + FINISH.removeprefix(COUNT))
    good = [training(tmp_path, name, shows) for name in ("one", "two")]
    work = [bad, killed, probe(killed), *good]
    book = Book(tmp_path, work, {})
    with cluster.connected(address, tmp_path, cpus=2) as workers:
        assert workers.room() == 1
        execute(work, book, workers=workers)
    assert states(tmp_path) == {"bad": FAILED, "killed": FAILED, "killed--probe-knn": "skipped", "one": DONE, "two": DONE}
    assert book.entries["bad"]["reason"] == "the reason"
    assert book.entries["killed"]["reason"].startswith("killed by SIGKILL")
    first, second = ((g.run / "seen").read_text().split() for g in good)
    assert first[0] == second[0] == "2"
    assert len(first) == len(second) == 2  # no GPU
    assert first[1] != second[1]
    assert (tmp_path / "logs" / "one.log").read_text().endswith("\nat work\n")


@pytest.mark.slow
def test_jobs_share_a_gpu(tmp_path: Path, address: str) -> None:
    """Two that each end only when the other has begun."""
    code = (COUNT + "import os, time; (p / 'ready').write_text(os.environ['CUDA_VISIBLE_DEVICES']);"
            "[time.sleep(0.02) for _ in iter(lambda: len(list(p.parent.glob('*/ready'))) > 1, True)];" + FINISH.removeprefix(COUNT))
    work = [training(tmp_path, name, code) for name in "ab"]
    book = Book(tmp_path, work, {})
    with cluster.connected(address, tmp_path, runs_per_gpu=2) as workers:
        assert workers.room() == 2
        execute(work, book, workers=workers)
    assert book.count() == {DONE: 2}
    assert [(job.run / "ready").read_text() for job in work] == ["0", "0"]
    with pytest.raises(ValueError, match="no machine of this Ray cluster has 3 processors and 1/2 of a GPU"), \
            cluster.connected(address, tmp_path, cpus=3, runs_per_gpu=2):
        pass


@pytest.mark.slow
def test_a_stop_reaches_the_commands_and_the_next_start_goes_on(tmp_path: Path, address: str) -> None:
    saves = training(tmp_path, "saves", COUNT + (
        "import signal, time; signal.signal(signal.SIGTERM, lambda *a: ((p / 'stopped').write_text('saved'), sys.exit(143)));"
        "(p / 'ready').write_text(''); time.sleep(60)"))
    first = training(tmp_path, "first")

    def stop() -> None:
        until(saves.run / "ready")
        until(first.run / "result.json")
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    with cluster.connected(address, tmp_path) as workers, pytest.raises(KeyboardInterrupt):
        execute([first, saves], Book(tmp_path, [first, saves], {}), workers=workers)
    thread.join()
    assert (saves.run / "stopped").read_text() == "saved"
    assert states(tmp_path) == {"first": DONE, "saves": WAITING}
    again = [first, training(tmp_path, "saves")]
    with cluster.connected(address, tmp_path) as workers:
        execute(again, Book(tmp_path, again, {}), workers=workers)
    assert states(tmp_path) == {"first": DONE, "saves": DONE}
    assert starts(first) == 1


@pytest.mark.slow
def test_a_job_that_another_sweep_has_is_left_to_it(tmp_path: Path, address: str) -> None:
    """A sweep without Ray begins a job; the one with Ray does the other, and takes over what the first made."""
    later = training(tmp_path, "later", WAIT + FINISH.removeprefix(COUNT))
    own = training(tmp_path, "own")
    first = threading.Thread(target=lambda: execute([later], Book(tmp_path, [later], {})))
    first.start()
    until(later.run / "ready")
    go = threading.Thread(target=lambda: (until(own.run / "result.json"), (later.run / "go").write_text("")))
    go.start()
    work = [later, own]
    with cluster.connected(address, tmp_path) as workers:
        log = (tmp_path / "logs" / "later.log").open("a")
        task = workers.start(("-c", "0"), log)  # as if it had been taken since this sweep looked
        while (how := task.ended()) is None:
            time.sleep(0.05)
        assert how.taken
        execute(work, Book(tmp_path, work, {}), workers=workers)
    first.join()
    go.join()
    assert states(tmp_path) == {"later": DONE, "own": DONE}
    assert starts(later) == starts(own) == 1


@pytest.mark.slow
def test_a_machine_that_does_not_see_the_directory_is_refused(tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the start; a machine that comes later fails its job with the same sentence."""
    with cluster.connected(address, tmp_path) as workers:
        monkeypatch.setattr(workers, "mark", tmp_path / "elsewhere" / "mark")
        monkeypatch.setattr(workers, "see_seconds", 0.2)
        with pytest.raises(ValueError, match=r"the Ray worker on .* does not see .*elsewhere: the sweep's directory and the working dir"):
            workers.refuse_blind_machines()
        job = training(tmp_path, "a")
        book = Book(tmp_path, [job], {})
        execute([job], book, workers=workers)
        assert book.entries["a"]["reason"].endswith("under the same path")
        assert starts(job) == 0


@pytest.mark.slow
def test_an_address_without_ray_is_a_sentence(tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once: Ray itself would go on trying."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        dead = f"127.0.0.1:{free.getsockname()[1]}"
    for wrong, said in ((dead, "Connection refused"), ("ray://somewhere:1", "HOST:PORT"), ("somewhere", "HOST:PORT")):
        with pytest.raises(ValueError, match=said), cluster.connected(wrong, tmp_path):
            pass
    monkeypatch.setenv("RAY_ADDRESS", dead)
    with pytest.raises(ValueError, match=f"no Ray at {dead}"), cluster.connected("auto", tmp_path):
        pass
