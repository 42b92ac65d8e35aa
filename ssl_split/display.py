"""Progress on the terminal: a live bar with the numbers that matter, plain lines now and then where there is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_QUIET_SECONDS = 15.0


class Bar:
    """Counts work done; numbers given to `advance` are shown beside the bar."""

    def __init__(self, total: int, title: str, live: Progress | None) -> None:
        self.total, self.title, self.done = total, title, 0
        self._live = live
        self._task = live.add_task(title, total=total, numbers="") if live else None
        self._start = self._said = time.monotonic()
        self._numbers: dict[str, object] = {}

    def advance(self, count: int = 1, **numbers: object) -> None:
        """Count work; `numbers` replace those shown so far."""
        self.done += count
        self._numbers.update(numbers)
        if self._live is not None and self._task is not None:
            self._live.update(self._task, advance=count, numbers=self._text())
        elif time.monotonic() - self._said > _QUIET_SECONDS:
            self._said = time.monotonic()
            left = (self._said - self._start) / max(self.done, 1) * (self.total - self.done)
            print(f"{self.title}: {self.done}/{self.total}  {self._text()}  about {left:.0f} s left", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """A line that stays on the screen above the bar."""
        if self._live is not None:
            self._live.console.print(text, highlight=False, markup=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def _text(self) -> str:
        return "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in self._numbers.items())


@contextmanager
def progress(total: int, title: str) -> Iterator[Bar]:
    """A bar on stderr for work of `total` units."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Bar(total, title, None)
        return
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=None), MofNCompleteColumn(), TextColumn("{task.fields[numbers]}"),
               TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, refresh_per_second=4) as live:
        yield Bar(total, title, live)
