"""Jobs: idempotent command lines, each with the file that says that it is done."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_split.config import Config
from ssl_split.fields import flatten
from ssl_split.files import read_json
from ssl_split.sweep.plan import SECTIONS, Stage, Sweep, flag_words

WHOSE = ("wire", "aux_clients", "aux_dataset", "target_views")
"""Options of attacks that say which images are attacked and learned from; earlier versions recorded them only where they were set."""


@dataclass(frozen=True)
class Job:
    """One command of a sweep.

    Attributes:
        key: Unique in the sweep; names the log file.
        label: What a person reads.
        sort: Jobs of one sort take about equally long: `train`, `probe linear`, ...
        setting: The run's algorithm, cut, data set and seed, and its place on the sweep's axes.
        run: The run directory.
        words: What follows `python`.
        stage: The stage, or None for a training.
        needs: Key of the job that must be done first.
    """

    key: str
    label: str
    sort: str
    setting: Mapping[str, Any]
    run: Path
    words: tuple[str, ...]
    stage: Stage | None = None
    needs: str | None = None

    @property
    def command(self) -> str:
        """The command as a person would type it."""
        return "python " + shlex.join(self.words)

    def start_words(self) -> tuple[str, ...]:
        """What follows `python` now: a training that was stopped goes on."""
        begun = self.stage is None and (self.run / "config.yaml").is_file()
        return (*self.words, "--resume") if begun else self.words

    def result(self) -> Path | None:
        """The promised file, or None while it is missing."""
        return finished_run(self.run) if self.stage is None else stage_result(self.run, self.stage)


def finished_run(run: Path) -> Path | None:
    """The result file of a finished run."""
    file = run / "result.json"
    return file if _read(file).get("finished") else None


def stage_result(run: Path, stage: Stage) -> Path | None:
    """The result that this stage promises: same name, and every option that the file records as the stage would set it.

    Probes and attacks name their folder with a hash of what changes their numbers. Which options those are is their own matter, so
    the folder is found by what the file in it says.
    """
    for file in sorted((run / SECTIONS[stage.kind]).glob(f"{stage.result_name}-*/result.json")):
        values = _read(file)
        recorded = flatten(values.get("options") or {})
        same = all(stage.options[k] == v for k, v in recorded.items() if k in stage.options and k not in WHOSE)
        same = same and values.get("name") == stage.result_name and _same_images(recorded, stage)
        if same and _right_weights(values.get("checkpoint") or {}, stage):
            return file
    return None


def _same_images(recorded: Mapping[str, Any], stage: Stage) -> bool:
    """Whether a result attacked, and learned from, the images that the stage asks for; a recorded `wire` is the steps attacked."""
    def given(options: Mapping[str, Any], name: str) -> Any:
        value = options.get(name) or None
        return bool(value) if name == "wire" else sorted(value) if isinstance(value, tuple | list) else value

    return all(given(recorded, name) == given(stage.options, name) for name in WHOSE)


def _right_weights(checkpoint: Mapping[str, Any], stage: Stage) -> bool:
    """Whether a result was made on the weights that the stage asks for: the end of the run, or the best by validation."""
    best = str(checkpoint.get("file", "")).startswith("best")
    if stage.options.get("which") == "best":
        return best
    return not best and bool(checkpoint.get("finished", True))


def _read(file: Path) -> dict[str, Any]:
    """A result, or nothing where there is none (a damaged one is written anew by its command)."""
    try:
        values = read_json(file)
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def jobs(sweep: Sweep, out: Path) -> list[Job]:
    """All jobs of a sweep, each training followed by its stages.

    Args:
        sweep: A checked sweep.
        out: The sweep's directory; runs go into `out/runs`.
    """
    made: list[Job] = []
    for cell in sweep.cells:
        config: Config = cell.config.replace(out=str(out / "runs"))
        words = ("-m", "ssl_split.train", "--config", sweep.base, *flag_words({**cell.flags, "out": config.out}))
        place = " ".join(f"{k}={v}" for k, v in cell.place.items()) or config.run_name
        setting = {"algorithm": config.algorithm, "cut": config.cut, "dataset": config.dataset, "seed": config.seed, **cell.place}
        key = config.run_name
        made.append(Job(key, f"train {place}", "train", setting, config.run_dir, words))
        numbers: dict[str, int] = {}
        for stage in sweep.stages:
            base = f"{key}--{stage.kind}-{stage.name}"
            numbers[base] = numbers.get(base, 0) + 1
            name = base if numbers[base] == 1 else f"{base}-{numbers[base]}"
            made.append(Job(name, f"{stage.label} {place}", stage.label, setting, config.run_dir,
                            ("-m", *stage.arguments(config.run_dir, cell.flags)), stage, key))
    return made
