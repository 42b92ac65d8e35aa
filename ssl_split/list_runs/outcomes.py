"""What probes and attacks found, as event files for TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ssl_split import events, runs
from ssl_split.report.collect import Run

PICTURES = ("images.png", "roc.png")


def write(run: Run) -> None:
    """Write all event files of a run, in place of those that were there.

    Raises:
        ValueError: TensorBoard is not installed, or a file of the run is damaged.
    """
    events.write(run.directory)
    writer, step = events.open_writer(run.directory, events.RESULTS), int(run.number("steps") or 0)
    known = runs.outcome(run)
    for name, value in (("accuracy", known["accuracy"]), ("attack_r2", known["attack_value"] if known["attack_measure"] == "R2" else None)):
        if value is not None:
            writer.add_scalar(f"{events.RESULT_SECTION}/{name}", value, step)
    for found in run.outcomes:
        for name, value in runs.numbers(found).items():
            writer.add_scalar(f"{found.kind} {found.label}/{name}", value, step)
        if verdict := found.values.get("verdict"):
            writer.add_text(f"{found.kind} {found.label}", str(verdict), step)
        for file in (found.directory / name for name in PICTURES):
            if file.is_file():
                writer.add_image(f"{found.kind} {found.label}/{file.stem}", _pixels(file), step, dataformats="HWC")
    writer.close()


def _pixels(file: Path) -> Any:
    """A picture `(H, W, 3)`, uint8.

    Raises:
        ValueError: the file is damaged.
    """
    import numpy
    from PIL import Image

    try:
        with Image.open(file) as picture:
            return numpy.asarray(picture.convert("RGB"))
    except OSError as error:
        raise ValueError(f"{file} is damaged: {error}") from None
