"""Command line of sweeps: `python -m ssl_split.sweep FILE.yaml`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from probes import kept
from ssl_split import config as configuration
from ssl_split import fields
from ssl_split.config import Config
from ssl_split.files import replace_file
from ssl_split.report import build as report
from ssl_split.run import command_line
from ssl_split.sweep import cluster, plan
from ssl_split.sweep.book import DONE, FAILED, FILE, SKIPPED, Book
from ssl_split.sweep.execute import execute
from ssl_split.sweep.jobs import Job, jobs
from ssl_split.sweep.processes import VISIBLE, Local, Workers, slots

EPILOG = """\
Any field of a run is a flag too (see `python -m ssl_split.train --help`) and replaces what the file says; a field that is an axis
becomes a single value. For example: --data-dir DIR, --device cuda, --seed 0, --max-steps 2 (a trial).

What exists is not run again: start the same command again after Ctrl-C, a failure or a longer list of values. Several sweeps may share
a directory (--shard in a SLURM array, say): each takes what no other has taken."""


def parser() -> argparse.ArgumentParser:
    """The sweep's own arguments; all others are fields of a run."""
    made = argparse.ArgumentParser(prog="python -m ssl_split.sweep", description="Train, probe and attack over cuts x algorithms x seeds, "
                                   "then write the report.", epilog=EPILOG, allow_abbrev=False, usage="%(prog)s FILE.yaml [flags]",
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("file", metavar="FILE.yaml", help="sweep file, e.g. configs/sweeps/quick.yaml")
    made.add_argument("--out", metavar="DIR", help="the sweep's directory [sweeps/<name of the file>]")
    made.add_argument("--jobs", metavar="N", type=int, help="jobs at a time on the processor, which share its cores evenly [1]")
    made.add_argument("--gpus", metavar="A,B", help="GPUs to use, by number: a job at a time on each; where CUDA_VISIBLE_DEVICES is set, "
                      "numbers count in it, from 0")
    made.add_argument("--runs-per-gpu", metavar="N", type=int, help="jobs at a time on a GPU [1; with --ray jobs have no GPU without it]")
    made.add_argument("--ray", metavar="WHERE", help="run the jobs as tasks of Ray (the extra ray): auto is the cluster that this machine "
                      "belongs to, else HOST:PORT, or local for this machine alone; all machines share the sweep's directory")
    made.add_argument("--cpus-per-job", metavar="N", type=int, help="processors of a job, with --ray [1]")
    made.add_argument("--shard", metavar="I/N", help="the I-th of N parts of the runs, from 1; the parts may run at once anywhere")
    made.add_argument("--retries", metavar="N", type=int, default=0, help="how often a job that failed is tried again [0]")
    made.add_argument("--keep-features", metavar="GIB", type=float, default=kept.MOST, help="GiB of features that the probes of a run may "
                      f"share on disk until its last one has ended; 0 keeps none [{kept.MOST:g}]")
    made.add_argument("--list", action="store_true", help="print the commands and how each job stands, and run nothing")
    made.error = _refuse  # type: ignore[method-assign, assignment]
    return made


def _refuse(message: str) -> None:
    raise ValueError(f"{message} (usage: python -m ssl_split.sweep FILE.yaml [flags])")


def overrides(words: Sequence[str]) -> dict[str, Any]:
    """Fields of a run given as flags, as nested values."""
    stray = [w for i, w in enumerate(words) if not w.startswith("--") and i == 0]
    if stray:
        raise ValueError(f"unknown argument {stray[0]} (usage: python -m ssl_split.sweep FILE.yaml [flags])")
    return fields.set_flags(Config, fields.flags(Config, "python -m ssl_split.sweep", "").parse_args(words))


def main(argv: Sequence[str]) -> int:
    """Run a sweep; 0 when every job is done."""
    known, rest = parser().parse_known_args(list(argv))
    sweep = plan.read(known.file, overrides=overrides(rest))
    directory = Path(known.out or Path("sweeps") / sweep.name)
    if not 0 <= known.keep_features < float("inf"):
        raise ValueError(f"--keep-features {known.keep_features:g} is impossible: it must be a number of GiB, 0 (none are kept) or more")
    work = shard(jobs(sweep, directory), known.shard)
    if known.list:  # also on a machine that has not the GPUs of those that will run them
        return show(work)
    places = workers(known, directory)
    text = configuration.find(known.file).read_text(encoding="utf-8")
    replace_file(directory / "sweep.yaml", lambda temporary: temporary.write_text(text, encoding="utf-8"))
    header = {"name": sweep.name, "question": sweep.question, "command": command_line(),
              "axes": {k: list(v) for k, v in sweep.axes.items()}}
    book = Book(directory, work, header)
    trainings = sum(job.stage is None for job in work)
    try:
        with places as entered:
            print(f"sweep {sweep.name}: {len(work)} jobs ({trainings} trainings, {len(sweep.stages)} stages each) in {directory}"
                  + (f", {entered.room()} at a time" if entered.room() > 1 else ""), file=sys.stderr, flush=True)
            execute(work, book, workers=entered, retries=known.retries, features_gib=known.keep_features)
    except KeyboardInterrupt:
        print(f"stopped; the same command goes on, and `python -m ssl_split.report {directory}` shows what there is", file=sys.stderr)
        return 130
    except OSError:  # a full disk, say: the list of jobs could not be written
        say_failures(book)
        raise
    return finish(book, work)


def workers(known: argparse.Namespace, directory: Path) -> AbstractContextManager[Workers]:
    """Where jobs run; nothing is started before it is entered.

    Raises:
        ValueError: flags of this machine beside those of Ray, or an impossible number.
    """
    per_gpu = known.runs_per_gpu
    if known.ray is None:
        if known.cpus_per_job is not None:
            raise ValueError("--cpus-per-job belongs to --ray; without it --jobs divides the cores of this machine")
        gpus = None if known.gpus is None else [g.strip() for g in known.gpus.split(",") if g.strip()]
        return nullcontext(Local(slots(jobs=known.jobs, gpus=gpus, per_gpu=per_gpu, visible=os.environ.get(VISIBLE))))
    for name in ("jobs", "gpus"):
        if getattr(known, name) is not None:
            raise ValueError(f"--{name} is about this machine: with --ray say --cpus-per-job, and --runs-per-gpu for jobs on GPUs")
    return cluster.connected(known.ray, directory, cpus=1 if known.cpus_per_job is None else known.cpus_per_job, runs_per_gpu=per_gpu)


def shard(work: Sequence[Job], part: str | None) -> list[Job]:
    """The jobs of every N-th run, trainings with their stages; all of them without a part.

    Args:
        work: All jobs.
        part: `I/N`, I from 1 to N.

    Raises:
        ValueError: no such part.
    """
    if part is None:
        return list(work)
    first, _, count = part.partition("/")
    if not (first.isdigit() and count.isdigit() and 1 <= int(first) <= int(count)):
        raise ValueError(f"--shard {part} is not I/N with I from 1 to N, such as 3/16")
    runs = list(dict.fromkeys(job.run for job in work))
    mine = set(runs[int(first) - 1 :: int(count)])
    return [job for job in work if job.run in mine]


def say_failures(book: Book) -> None:
    """Name what failed."""
    for entry in book.entries.values():
        if entry["state"] == FAILED:
            print(f"failed: {entry['label']}: {entry['reason']} (log: {book.directory / entry['log']})", file=sys.stderr)


def finish(book: Book, work: Sequence[Job]) -> int:
    """Write the report, name what failed, and say where to look."""
    written = report.write(book.directory)
    counts = book.count()
    say_failures(book)
    bad = counts[FAILED] + counts[SKIPPED]
    if bad:
        print(f"{bad} of {len(work)} jobs have no result ({counts[FAILED]} failed, {counts[SKIPPED]} depend on a failed one); the same "
              "command tries them again", file=sys.stderr)
    print(f"report: {written}")
    return 1 if bad else 0


def show(work: Sequence[Job]) -> int:
    """Print the commands."""
    done = [job.result() is not None for job in work]
    for job, is_done in zip(work, done, strict=True):
        print(f"{job.command}   # {DONE if is_done else 'to do'}")
    print(f"# {len(work)} jobs, {sum(done)} done; states and times are in {FILE} of the sweep's directory", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(fields.command(main))
