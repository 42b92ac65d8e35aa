"""Numbers as text."""

from __future__ import annotations

from ssl_split.report.summaries import Value

NOTHING = "–"


def percent(value: float | None) -> str:
    """A share as per cent: 52.1 %."""
    return NOTHING if value is None else f"{100 * value:.1f} %"


def score(value: float | None) -> str:
    """A mean squared error: four places."""
    return NOTHING if value is None else f"{value:.4f}"


def ratio(value: float | None) -> str:
    """SSIM, R2: three places."""
    return NOTHING if value is None else f"{value:.3f}"


def mib(value: float | None) -> str:
    """MiB: one place from a hundred on, two below, four significant digits below a tenth."""
    if value is None:
        return NOTHING
    return f"{value:,.1f}" if value >= 100 else f"{value:.2f}" if value >= 0.1 or value == 0 else f"{value:.4g}"


def count(value: float | None) -> str:
    """A large count: 1,856, 2.78 M, 1.20 G."""
    if value is None:
        return NOTHING
    for size, unit in ((1e9, "G"), (1e6, "M")):
        if abs(value) >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value:,.0f}"


def plain(value: float | None) -> str:
    """Any other number, four significant digits."""
    return NOTHING if value is None else f"{value:.4g}"


def large(value: float | None) -> str:
    """A quantity that may be large: four significant digits, whole from a thousand on."""
    return NOTHING if value is None else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def giga(value: float | None) -> str:
    """In units of 1e9, as a quantity that may be large."""
    return NOTHING if value is None else large(value / 1e9)


FORMATS = {"percent": percent, "score": score, "ratio": ratio, "mib": mib, "count": count, "plain": plain, "large": large, "giga": giga}


def spread(value: Value, style: str) -> list[str]:
    """What follows the mean: standard deviation over seeds, and the 95 % interval where there is one."""
    write = FORMATS[style]
    said = [f"± {write(value.sd)}"] if value.sd else []
    if value.low is not None and value.high is not None and value.low < value.high:
        said.append(f"[{write(value.low)}, {write(value.high)}]")
    return [text.replace(" %", "") for text in said]


def seconds(value: float | None) -> str:
    """A duration: 42 s, 7 min, 2.5 h."""
    if value is None:
        return NOTHING
    return f"{value:.0f} s" if value < 90 else f"{value / 60:.0f} min" if value < 5400 else f"{value / 3600:.1f} h"
