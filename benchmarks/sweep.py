"""What a sweep costs beside its jobs, and what several jobs at a time gain: everything as ratios measured in one run.

    python benchmarks/sweep.py                       # 4 trainings of digits, a kNN probe each, about 20 s of work a job
    python benchmarks/sweep.py --rounds 40           # longer jobs: the overhead per job stays, its share falls
    python benchmarks/sweep.py --idle --seconds 60   # jobs that only wait, without imports: the sweep's own overhead alone
    python benchmarks/sweep.py --jobs 1 2 --repeat 3

The same commands run serially, as a shell script would, then by the sweep with each number of jobs at a time, each from an empty directory.

    overhead a job    at one job at a time: wall time of the sweep's loop - its children's, and - that of the serial commands (which also
                      has what passes until the sweep sees that a child has ended); the sweep's own start is told apart
    start of a child  its imports alone, measured with `--help`
    throughput        wall time of the serial commands / wall time of the sweep

Children share the cores evenly, so throughput at 2 can only rise where one job leaves cores idle. The load average is printed: on a busy
machine no number means anything.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import yaml

from ssl_split.sweep import plan
from ssl_split.sweep.book import Book
from ssl_split.sweep.execute import execute
from ssl_split.sweep.jobs import Job, jobs
from ssl_split.sweep.processes import Local, slots

WAIT = ("import json, pathlib, sys, time; time.sleep(float(sys.argv[2])); run = pathlib.Path(sys.argv[1]); run.mkdir(parents=True);"
        "(run / 'result.json').write_text(json.dumps({'finished': True}))")


def work(options: argparse.Namespace, out: Path) -> list[Job]:
    """The jobs, in a directory of their own."""
    if options.idle:
        runs = [out / "runs" / f"run{i}" for i in range(options.trainings)]
        return [Job(r.name, r.name, "wait", {"seed": 0}, r, ("-c", WAIT, str(r), str(options.seconds))) for r in runs]
    file = out / "trial.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump({"fixed": {"width": options.width, "rounds": options.rounds, "validate_every_rounds": 0},
                                    "axes": {"seed": list(range(options.trainings)), "cut": [9]}, "stages": [{"probe": "knn"}]}))
    return jobs(plan.read(file), out)


def timed(words: Sequence[str]) -> float:
    """Seconds of one `python` command, whose output is thrown away."""
    start = time.monotonic()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - start


def serial(options: argparse.Namespace, folder: Path) -> float:
    """Seconds of the commands one after another."""
    return sum(timed(job.words) for job in work(options, folder / "serial"))


def swept(options: argparse.Namespace, folder: Path, at_a_time: int) -> tuple[float, float, float]:
    """Seconds of the sweep in a process of its own, of its loop, and of its children, summed."""
    out = folder / f"sweep{at_a_time}"
    words = [__file__, "--child", str(out), "--jobs", str(at_a_time), *(["--idle"] if options.idle else [])]
    words += [word for name in ("trainings", "rounds", "width", "seconds") for word in (f"--{name}", str(getattr(options, name)))]
    start = time.monotonic()
    done = subprocess.run([sys.executable, *words], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    loop, children = json.loads(done.stdout)
    return time.monotonic() - start, loop, children


def child(options: argparse.Namespace) -> None:
    """The sweep itself; prints the seconds of its loop and of its children."""
    out = Path(options.child)
    plan_ = work(options, out)
    book = Book(out, plan_, {"name": "benchmark"})
    start = time.monotonic()
    execute(plan_, book, workers=Local(slots(jobs=options.jobs[0])))
    seconds = [entry["seconds"] for entry in book.entries.values() if entry["state"] == "done"]
    if len(seconds) < len(plan_):
        sys.exit(f"error: {len(plan_) - len(seconds)} jobs failed; their logs are in {out / 'logs'}")
    print(json.dumps([time.monotonic() - start, sum(seconds)]))


def report(options: argparse.Namespace) -> None:
    """Measure once and print a table."""
    with tempfile.TemporaryDirectory() as folder:
        count = len(work(options, Path(folder) / "count"))
        alone = serial(options, Path(folder))
        print(f"{count} jobs, {alone / count:.2f} s each, {alone:.1f} s serially")
        for at_a_time in options.jobs:
            wall, loop, children = swept(options, Path(folder), at_a_time)
            print(f"{at_a_time:>2} at a time: {wall:8.1f} s = {loop:.1f} s of jobs + {wall - loop:.1f} s to start the sweep; throughput "
                  f"{alone / wall:.2f}x, {alone / loop:.2f}x without that start", flush=True)
            if at_a_time == 1:
                for name, base in (("its children", children), ("the serial commands", alone)):
                    over = (loop - base) / count
                    print(f"   overhead a job against {name}: {1000 * over:.0f} ms, {100 * over / base * count:.2f} % of these jobs, "
                          f"{100 * over / 60:.2f} % of one-minute jobs")


def main() -> None:
    """Measure everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trainings", type=int, default=4, help="runs, each with a training and a probe [4]")
    parser.add_argument("--rounds", type=int, default=8, help="rounds of a training [8]")
    parser.add_argument("--width", type=float, default=0.25, help="of the network [0.25]")
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 2], metavar="N", help="jobs at a time [1 2]")
    parser.add_argument("--idle", action="store_true", help="jobs that only wait --seconds")
    parser.add_argument("--seconds", type=float, default=5.0, help="of an idle job [5]")
    parser.add_argument("--repeat", type=int, default=1, help="measure everything so often [1]")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options)
        return
    print(f"{platform.machine()}, {os.cpu_count()} processors, {torch.get_num_threads()} threads, torch {torch.__version__}, load "
          f"{os.getloadavg()[0]:.1f}")
    if not options.idle:
        for module in ("ssl_split.train", "probes.knn"):
            seconds = min(timed(["-m", module, "--help"]) for _ in range(2))
            print(f"start of a child, python -m {module}: {seconds:.2f} s, {100 * seconds / 60:.1f} % of one-minute jobs")
    for _ in range(options.repeat):
        report(options)


if __name__ == "__main__":
    main()
