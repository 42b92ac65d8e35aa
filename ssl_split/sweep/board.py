"""How a sweep stands, for a person who watches: a live panel on a terminal, a line for every job that ended elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ssl_split.files import read_json
from ssl_split.report.table import HEADLINES, MONITORS, RECEIVED
from ssl_split.report.text import percent
from ssl_split.report.text import seconds as duration
from ssl_split.sweep.book import DONE, FAILED, RUNNING, SKIPPED, WAITING, Book

_DRAW_SECONDS = 0.25
_ROWS, _FAILURES = 12, 3
"""The most running jobs and failures that the panel lists."""

Places = Mapping[str, tuple[str, float]]
"""Key of a running job -> where it runs, seconds since it began."""


class Lines:
    """A line for every job that ended, with how the sweep stands.

    Args:
        book: States.
        room: How many jobs run at a time.
    """

    def __init__(self, book: Book, room: Callable[[], int]) -> None:
        self.book, self.room = book, room

    def say(self, text: str) -> None:
        """Say something about a job."""
        counts, left = self.book.count(), self.book.seconds_left()
        numbers = {"done": counts[DONE], "failed": counts[FAILED] + counts[SKIPPED], "left": counts[WAITING] + counts[RUNNING],
                   "time left": "?" if left is None else f"about {duration(left / max(1, self.room()))}"}
        print(f"{text}   ({', '.join(f'{k} {v}' for k, v in numbers.items())})", file=sys.stderr, flush=True)

    def refresh(self, running: Places) -> None:
        """Nothing is shown between two lines."""


class Board(Lines):
    """A panel that is drawn anew several times a second; what is said stays above it."""

    def __init__(self, book: Book, room: Callable[[], int], live: Live) -> None:
        super().__init__(book, room)
        self.live, self.best, self.drawn = live, Best(book), -_DRAW_SECONDS

    def say(self, text: str) -> None:
        """A line above the panel."""
        self.live.console.print(text, highlight=False, markup=False)

    def refresh(self, running: Places) -> None:
        """Draw how things stand, unless that was done a moment ago."""
        if time.monotonic() - self.drawn >= _DRAW_SECONDS:
            self.draw(running)

    def draw(self, running: Places) -> None:
        """Draw how things stand."""
        self.drawn = time.monotonic()
        self.live.update(self._panel(running), refresh=True)

    def _panel(self, running: Places) -> Panel:
        counts = self.book.count()
        left = self.book.seconds_left({key: seconds for key, (_, seconds) in running.items()})
        failed = counts[FAILED] + counts[SKIPPED]
        parts = [f"{counts[DONE]} of {len(self.book.entries)} done", f"{failed} failed", f"{len(running)} running",
                 f"{counts[WAITING]} waiting", f"time left {'?' if left is None else 'about ' + duration(left / max(1, self.room()))}"]
        lines: list[Any] = [Text(" · ".join(parts)), ProgressBar(len(self.book.entries), counts[DONE] + failed)]
        lines += [self._running(running)] if running else []
        bad = [e for e in self.book.entries.values() if e["state"] == FAILED]
        lines += [_clipped(f"failed: {e['label']}: {e['reason']}", "red") for e in bad[-_FAILURES:]]
        best = self.best.text()
        lines += [_clipped(f"best so far: {best}", "green")] if best else []
        rows = Table.grid(expand=True)
        for line in lines:
            rows.add_row(line)
        return Panel(rows, title=f"sweep {self.book.header.get('name', '')}".strip(), title_align="left")

    def _running(self, running: Places) -> Table:
        forecast = self.book.forecast()
        table = Table.grid(padding=(0, 2), expand=True)
        table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        for _ in range(2):
            table.add_column(no_wrap=True)
        for key, (place, seconds) in list(running.items())[:_ROWS]:
            expected = forecast[key]
            of = "" if expected is None else f" of about {duration(expected)}"
            table.add_row(Text(self.book.entries[key]["label"]), Text(place), Text(duration(seconds) + of))
        if len(running) > _ROWS:
            table.add_row(Text(f"and {len(running) - _ROWS} more"), "", "")
        return table


def _clipped(text: str, style: str) -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


class Best:
    """The run with the highest accuracy so far, from the result files of jobs that are done.

    Runs are compared by what their training measured on validation images; by the report's headline probe where no run has that.
    """

    def __init__(self, book: Book) -> None:
        self.book = book
        self.read: set[str] = set()
        self.runs: dict[str, dict[str, float]] = {}
        """Run -> name of a measure -> accuracy."""

    def text(self) -> str | None:
        """Accuracy, by what it was measured, the run's place on the axes, and its probes; None before there is a number."""
        for key, entry in self.book.entries.items():
            if entry["state"] == DONE and entry["result"] and key not in self.read:
                self.read.add(key)
                self.runs.setdefault(entry["run"], {}).update(self._accuracies(entry))
        for measure in (*MONITORS.values(), *(f"probe {name}" for name in HEADLINES)):
            found = {run: values[measure] for run, values in self.runs.items() if measure in values}
            if found:
                run = max(found, key=lambda r: found[r])
                others = "".join(f", {k} {percent(v)}" for k, v in self.runs[run].items() if k.startswith("probe ") and k != measure)
                return f"{percent(found[run])} ({measure}{others}) by {self._place(run)}"
        return None

    def _accuracies(self, entry: Mapping[str, Any]) -> dict[str, float]:
        try:
            values = read_json(self.book.directory / entry["result"])
        except (OSError, ValueError):
            return {}
        stage = entry["stage"]
        if stage is None:
            return {name: values[key]["accuracy"] for key, name in MONITORS.items() if values.get(key)}
        seen = str(values.get("features", "backbone"))
        useful = stage["name"] == "classifier" or seen.startswith(("backbone", RECEIVED))
        if stage["kind"] != "probe" or stage["name"] not in HEADLINES or not useful or "accuracy" not in values:
            return {}
        return {f"probe {stage['name']}": values["accuracy"]}

    def _place(self, run: str) -> str:
        labels = [e["label"].removeprefix("train ") for e in self.book.entries.values() if e["run"] == run and e["stage"] is None]
        return labels[0] if labels else run


@contextlib.contextmanager
def shown(book: Book, room: Callable[[], int], console: Console | None = None) -> Iterator[Lines]:
    """What tells a person how the sweep stands.

    Args:
        book: States.
        room: How many jobs run at a time.
        console: Where; stderr if None.
    """
    if console is None and sys.stderr.isatty():
        console = Console(stderr=True)
    if console is None or not console.is_terminal or console.is_dumb_terminal:
        yield Lines(book, room)
        return
    with Live(console=console, auto_refresh=False) as live:
        board = Board(book, room, live)
        try:
            yield board
        finally:
            board.draw({})
