"""Split federated learning with its traffic counted, its smashed data attacked and its features probed."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ssl_split.runs import load_curves as load_curves
    from ssl_split.runs import load_outcomes as load_outcomes
    from ssl_split.runs import load_runs as load_runs
else:

    def __getattr__(name: str) -> Any:
        """Tables of runs, imported when they are asked for."""
        if name in ("load_runs", "load_curves", "load_outcomes"):
            from ssl_split import runs

            return getattr(runs, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
