"""Probes of one run share their features; the sweep says where, and leaves none behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from probes import kept
from ssl_split.sweep.__main__ import main, parser
from ssl_split.sweep.book import DONE, FAILED, Book
from ssl_split.sweep.execute import execute
from ssl_split.sweep.features import FOLDER, Features
from ssl_split.sweep.jobs import Job
from ssl_split.sweep.plan import Stage
from ssl_split.sweep.processes import Local, slots
from tests.sweep.test_sweep_execute import COUNT, training, until

ROOT = Path(__file__).parents[2]

KEEPS = COUNT + ("import os; root = os.environ.get('SSL_SPLIT_FEATURES'); (p / 'seen-{name}').write_text(f'{{root}} "
                 "{{os.environ.get(\"SSL_SPLIT_FEATURES_GIB\")}} {{sorted(os.listdir(root)) if root and os.path.isdir(root) else None}}');"
                 "f = root and pathlib.Path(root) / p.name; f and f.mkdir(parents=True, exist_ok=True);"
                 "f and (f / 'some.safetensors').write_text('x'); (p.parent / 'order').open('a').write('{name} ');")
RESULT = ("q = p / 'probes' / '{name}-0'; q.mkdir(parents=True, exist_ok=True);"
          "(q / 'result.json').write_text('{{\"name\": \"{name}\", \"options\": {{}}}}')")


def probe(of: Job, name: str, features: str = "backbone", code: str = RESULT) -> Job:
    """A probe that notes what it was told, and keeps something where it may."""
    text = (KEEPS + code).format(run=of.run, name=name)
    stage = Stage("probe", name, "", {}, {"features": features})
    return Job(f"{of.key}--{name}", f"{name} {of.key}", name, {}, of.run, ("-c", text), stage, of.key)


def seen(job: Job) -> str:
    assert job.stage is not None
    return (job.run / f"seen-{job.stage.name}").read_text()


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (kept.FOLDER, kept.LIMIT):
        monkeypatch.delenv(name, raising=False)


def test_features_of_a_run_live_until_its_last_probe(tmp_path: Path) -> None:
    """Two probes of the backbone share; that of smashed data is alone and keeps none; the second run finds nothing of the first."""
    runs = [training(tmp_path, name) for name in "ab"]
    work = [job for run in runs for job in (run, probe(run, "linear"), probe(run, "smash", "smashed"), probe(run, "knn"))]
    book = Book(tmp_path, work, {})
    execute(work, book, features_gib=1.5)
    assert book.count() == {DONE: 8}
    root = tmp_path.resolve() / FOLDER
    assert [seen(job) for job in work if job.stage] == [f"{root} 1.5 None", "None None None", f"{root} 1.5 ['a']",
                                                       f"{root} 1.5 None", "None None None", f"{root} 1.5 ['b']"]
    assert not root.exists()


@pytest.mark.parametrize("gib", [0.0, 4.0])
def test_none_are_kept_for_a_single_probe_or_where_none_is_wanted(tmp_path: Path, gib: float) -> None:
    run = training(tmp_path, "a")
    work = [run, probe(run, "linear"), *([] if gib else [probe(run, "knn")])]
    execute(work, Book(tmp_path, work, {}), features_gib=gib)
    assert {seen(job) for job in work if job.stage} == {"None None None"}


def test_a_probe_that_fails_leaves_nothing(tmp_path: Path) -> None:
    run = training(tmp_path, "a")
    work = [run, probe(run, "linear"), probe(run, "knn", code="sys.exit('error: no')")]
    book = Book(tmp_path, work, {})
    execute(work, book, features_gib=1.0)
    assert book.count() == {DONE: 2, FAILED: 1}
    assert "['a']" in seen(work[2])
    assert not (tmp_path / FOLDER).exists()


def test_a_stopped_sweep_leaves_nothing_of_its_own(tmp_path: Path) -> None:
    """Features of another sweep's run stay."""
    theirs = tmp_path / FOLDER / "theirs" / "some.safetensors"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("x")
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from tests.sweep.test_sweep_features import *
run = training(Path({str(tmp_path)!r}), "a")
work = [run, probe(run, "linear", code="import time; (p / 'ready').write_text(''); time.sleep(60)"), probe(run, "knn")]
execute(work, Book(Path({str(tmp_path)!r}), work, {{}}), features_gib=1.0)
"""
    child = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    until(tmp_path / "runs" / "a" / "ready")
    assert (tmp_path / FOLDER / "a").is_dir()
    child.send_signal(signal.SIGTERM)
    child.wait(60)
    assert sorted(p.name for p in (tmp_path / FOLDER).iterdir()) == ["theirs"]


def test_with_room_for_two_a_run_is_probed_to_its_end_before_the_next(tmp_path: Path) -> None:
    """Else all runs' features would be kept at once. A probe that would wait for another's extraction comes last."""
    runs = [training(tmp_path, name) for name in "abcd"]
    probes = {(run.key, name): probe(run, name) for run in runs for name in ("linear", "knn")}
    work = [*runs, *probes.values()]
    found, book = Features(tmp_path, work, 1.0), Book(tmp_path, work, {})
    assert {found.rank(job, []) for job in work} == {1}
    assert found.environment(runs[0]) == {}
    assert found.environment(probes["a", "linear"])[kept.LIMIT] == "1.0"
    assert [found.rank(probes[run, "knn"], [probes["a", "linear"]]) for run in "ab"] == [2, 1]
    assert [found.rank(probes[run, "knn"], []) for run in "ab"] == [0, 1]
    execute(work, book, workers=Local(slots(jobs=2)), features_gib=1.0)
    assert book.count() == {DONE: 12}
    held = [len(eval(seen(job).split(" ", 2)[2]) or []) for job in probes.values() if "None" not in seen(job)]
    assert max(held, default=0) <= 3
    assert not (tmp_path / FOLDER).exists()


@pytest.mark.parametrize("wrong", ["-1", "nan", "inf"])
def test_an_impossible_size_is_one_sentence(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(ValueError, match=f"--keep-features {wrong} is impossible: it must be a number of GiB"):
        main([str(ROOT / "configs/sweeps/quick.yaml"), "--out", str(tmp_path / "out"), "--keep-features", wrong])
    assert parser().parse_args(["quick.yaml"]).keep_features == kept.MOST
