"""Event files for TensorBoard, written from the files of a run and never by the training itself: they can be deleted and written again, and
nothing depends on them.

    runs/<name>-<fingerprint>/tensorboard/
      events...training     a scalar for every number of metrics.jsonl at its step, the configuration as hyperparameters
      events...results      what probes and attacks found, with their pictures (ssl_split.list_runs --tensorboard)

There are no times in metrics.jsonl: TensorBoard's "wall time" is that of the writing.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ssl_split.fields import extra, flatten, read_yaml
from ssl_split.files import read_json, read_line

FOLDER, TRAINING, RESULTS = "tensorboard", ".training", ".results"

FOLLOW_SECONDS = 5.0
"""Between looks at `metrics.jsonl` while a run is trained."""

SECTIONS = (("validation_", "validation"), ("published_test_", "validation"), ("gradient_", "divergence"), ("online_to_", "divergence"),
            ("momentum_to_", "divergence"), ("perturbation_", "divergence"), ("client_lr", "learning rate"), ("server_lr", "learning rate"),
            ("bytes", "cost"), ("virtual_seconds", "cost"))
"""Heading in TensorBoard by the beginning of a metric's name; any other stands under `training`."""

RESULT_SECTION = "result"

COLUMNS = ("accuracy", "mib_per_client", "attack_r2", "loss")
"""Results that stand beside the hyperparameters, where they are known."""


def check() -> None:
    """
    Raises:
        ValueError: TensorBoard is not installed; one sentence.
    """
    extra("tensorboard", "tensorboard")


def tag(metric: str) -> str:
    """Where a metric stands in TensorBoard: `validation/validation_knn`."""
    return f"{next((section for start, section in SECTIONS if metric.startswith(start)), 'training')}/{metric}"


def open_writer(run_dir: Path, part: str) -> Any:
    """A new event file in place of those that were there.

    Args:
        run_dir: The run.
        part: `TRAINING` or `RESULTS`.

    Raises:
        ValueError: TensorBoard is not installed.
    """
    check()
    folder = run_dir / FOLDER
    for old in folder.glob(f"events.*{part}"):
        old.unlink()
    return extra("torch.utils.tensorboard", "tensorboard").SummaryWriter(str(folder), filename_suffix=part)


class Follower:
    """Copies what a run logs into an event file; reads whole lines alone, each once."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir, self._read = run_dir, 0
        self._writer = open_writer(run_dir, TRAINING)
        self._hyperparameters()

    def catch_up(self) -> None:
        """Write what has been logged since the last time."""
        file = self.run_dir / "metrics.jsonl"
        if not file.is_file():
            return
        with file.open("rb") as log:
            log.seek(self._read)
            for raw in log:
                if not raw.endswith(b"\n"):
                    break
                self._read += len(raw)
                self._line(read_line(raw) or {})
        self._writer.flush()

    def close(self) -> None:
        """Write the rest, and the result of a finished run."""
        self.catch_up()
        result = self.run_dir / "result.json"
        if result.is_file():
            values = read_json(result)
            for name, value in numbers(values).items():
                self._writer.add_scalar(f"{RESULT_SECTION}/{name}", value, int(values.get("steps") or 0))
        self._writer.close()

    def _line(self, values: Mapping[str, Any]) -> None:
        step = values.get("step")
        if not isinstance(step, int):
            return
        for name, value in numbers(values).items():
            if name not in ("step", "round"):
                self._writer.add_scalar(tag(name), value, step)

    def _hyperparameters(self) -> None:
        """The configuration: as text, and for TensorBoard's table of hyperparameters."""
        values = flatten(read_yaml(self.run_dir / "config.yaml"))
        fields = {k: v if isinstance(v, bool | int | float | str) else "none" if v is None else str(v) for k, v in values.items()}
        rows = "".join(f"| {name} | {value} |\n" for name, value in fields.items())
        self._writer.add_text("configuration", f"| field | value |\n|---|---|\n{rows}", 0)
        made = extra("torch.utils.tensorboard.summary", "tensorboard").hparams(fields, {f"{RESULT_SECTION}/{name}": 0 for name in COLUMNS})
        for summary in made:
            self._writer.file_writer.add_summary(summary)


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The numbers in nested values, under dotted names."""
    return {k: float(v) for k, v in flatten(values).items() if isinstance(v, int | float) and not isinstance(v, bool)}


def write(run_dir: Path) -> None:
    """Write the training's event file from what it logged.

    Raises:
        ValueError: TensorBoard is not installed, or a file of the run is damaged.
    """
    Follower(run_dir).close()


@contextmanager
def following(run_dir: Path) -> Iterator[None]:
    """Keep the event file up to date from a thread of its own while a run is trained; whatever happens to it, the training goes on.

    Raises:
        ValueError: TensorBoard is not installed.
    """
    follower, ended, failures = Follower(run_dir), threading.Event(), list[Exception]()

    def follow() -> None:
        try:
            while not ended.wait(FOLLOW_SECONDS):
                follower.catch_up()
            follower.close()
        except Exception as error:  # of the disk, of TensorBoard: the training has no part in it
            failures.append(error)

    thread = threading.Thread(target=follow, name="tensorboard", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        if failures:
            print(f"the event files in {run_dir / FOLDER} are not whole ({failures[0]}); write them again with "
                  f"python -m ssl_split.list_runs {run_dir} --tensorboard", file=sys.stderr)
