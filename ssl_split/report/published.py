"""Published figures beside ours, with everything in which the settings differ.

A figure is shown where algorithm, data set, defence and measure agree. The data set is the configuration's: images from a folder may be a
copy of CIFAR-10, but nothing in the files says so, and no figure is shown beside them. All else (cut, network, clients, length, partition)
may differ and is then listed, with what the source does not state and with known flaws of the published measure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from ssl_split.report import sources, text
from ssl_split.report.collect import BEST, FINISHED, Outcome, Run
from ssl_split.report.paragraph import listed, plainly
from ssl_split.report.summaries import Value, ends, interval, summary
from ssl_split.report.table import Group, Study

FILE = Path(__file__).parent / "published.yaml"

MEASURES: Mapping[str, tuple[str, str, float]] = {
    "linear": ("linear probe", "percent", 0.01), "classifier": ("accuracy of the classifier", "percent", 0.01),
    "mse": ("MSE of the attack", "score", 1.0), "ssim": ("SSIM of the attack", "ratio", 1.0),
    "psnr": ("PSNR of the attack, dB", "plain", 1.0),
    "mib": ("MiB per client by the published formula", "mib", 1.0), "rounds": ("rounds to the target accuracy", "large", 1.0),
}
"""Measure -> name, style of `text.FORMATS`, and what the printed number is multiplied with to be in our units."""

LABELS = {
    "arch": "network", "width": "width", "train_images": "training images", "validation_fraction": "share kept for validation",
    "clients_per_round": "clients a round", "batch_size": "batch size", "client_lr": "client rate", "server_lr": "server rate",
    "partition.kind": "partition", "syncs_per_round": "averagings a round", "queue_size": "queue", "weight_decay": "weight decay",
    "local_epochs": "local epochs", "local_steps": "local steps", "clip_norm": "clipping", "mu_splitfed.tau": "tau",
    "partition.classes": "classes a client", "partition.beta": "Dirichlet beta", "bottleneck.channels": "channels of the bottleneck",
}
_BESIDE = ("source", "table", "measure", "attack", "requires", "unstated", "pitfalls", "settings", "numbers", "note", "value", "sd",
           "algorithm", "dataset")


@dataclass(frozen=True)
class Number:
    """One published figure.

    Attributes:
        source: Key of `references.bib`, or a name where it is no paper.
        table: Where in the source.
        algorithm, dataset: As in the configuration.
        measure: Key of `MEASURES`.
        attack: Of a reconstruction score: whose.
        value, sd: In our units: shares for accuracies.
        settings: What the source states, by fields of the configuration.
        requires: Fields that must agree for the figure to be shown.
        unstated: What the source does not say.
        pitfalls: Why the figure and ours are not the same measure.
        note: What tells it from its neighbours in the source.
    """

    source: str
    table: str
    algorithm: str
    dataset: str
    measure: str
    attack: str
    value: float
    sd: float | None
    settings: Mapping[str, Any]
    requires: Mapping[str, Any]
    unstated: tuple[str, ...]
    pitfalls: tuple[str, ...]
    note: str

    @property
    def cited(self) -> str:
        """The source in running text: Li et al. 2023."""
        return sources.short(self.source) if self.source in sources.entries() else self.source

    @property
    def style(self) -> str:
        """How the value is written: a key of `text.FORMATS`."""
        return MEASURES[self.measure][1]

    @property
    def shown(self) -> str:
        """The value with its standard deviation as text."""
        write = text.FORMATS[self.style]
        return write(self.value) + (f" ± {write(self.sd)}".replace(" %", "") if self.sd is not None else "")


@dataclass(frozen=True)
class Row:
    """A published figure beside ours.

    Attributes:
        group: Ours.
        number: Theirs.
        what: What ours is: the probe's or attack's label.
        ours: Ours with interval.
        differences: Settings that differ, a text each.
    """

    group: Group
    number: Number
    what: str
    ours: Value
    differences: tuple[str, ...]

    @property
    def matches(self) -> bool:
        """Whether everything that the source states agrees."""
        return not self.differences

    @property
    def cautions(self) -> tuple[str, ...]:
        """What the source does not state, and flaws of its measure."""
        unstated = (f"not stated: {', '.join(self.number.unstated)}",) if self.number.unstated else ()
        return unstated + self.number.pitfalls


@cache
def numbers() -> tuple[Number, ...]:
    """All published figures of `published.yaml`.

    Raises:
        ValueError: a block without a source, or a measure that does not exist.
    """
    return tuple(_number({**block, **one}, {**(block.get("settings") or {}), **one})
                 for block in yaml.safe_load(FILE.read_text(encoding="utf-8")) for one in block["numbers"])


def _number(values: Mapping[str, Any], settings: Mapping[str, Any]) -> Number:
    measure = str(values.get("measure"))
    if measure not in MEASURES or not values.get("source"):
        raise ValueError(f"published.yaml: {values!r} needs a source and a measure among {', '.join(MEASURES)}")
    scale, sd = MEASURES[measure][2], values.get("sd")
    return Number(values["source"], values["table"], values["algorithm"], values["dataset"], measure, values.get("attack", "decoder"),
                  scale * float(values["value"]), None if sd is None else scale * float(sd),
                  {k: v for k, v in settings.items() if k not in _BESIDE}, values.get("requires") or {},
                  tuple(map(str, values.get("unstated") or [])), tuple(values.get("pitfalls") or []), str(values.get("note", "")))


def beside(study: Study) -> list[Row]:
    """For every group the published figures of its algorithm, data set, defence and measure; the nearest settings first."""
    return [row for group in study.groups for row in _of(group)]


def nearest(rows: Iterable[Row], most: int) -> list[Row]:
    """Of each group and measure only the `most` figures with the fewest differences."""
    seen: dict[tuple[str, str, str], int] = {}
    kept = []
    for row in rows:
        key = row.group.anchor, row.number.measure, row.what
        seen[key] = seen.get(key, 0) + 1
        if seen[key] <= most:
            kept.append(row)
    return kept


def _of(group: Group) -> list[Row]:
    runs = [run for run in group.runs if run.state == FINISHED]
    made = [Row(group, number, what, ours, tuple(differences(runs, number))) for number in numbers() if runs and applies(runs, number)
            for what, ours in _ours(group, runs, number)]
    return sorted(made, key=lambda row: (len(row.differences), _apart(group, row.number)))


def _apart(group: Group, number: Number) -> int:
    """How many cuts lie between ours and theirs; many where one of them is no number."""
    ours, theirs = group.cut, number.settings.get("cut", group.cut)
    return abs(ours - theirs) if isinstance(ours, int) and isinstance(theirs, int) else 1000 * (ours != theirs)


def applies(runs: Sequence[Run], number: Number) -> bool:
    """Whether a figure belongs beside these runs: algorithm, data set, defence and what it requires agree in all of them."""
    must = {"algorithm": number.algorithm, "dataset": number.dataset, "defence": "none", **number.requires}
    if number.measure == "rounds":
        must["target_accuracy"] = number.settings["target_accuracy"]
    return all(_same(run.config.get(k, "none" if k == "defence" else None), v) for run in runs for k, v in must.items())


def _ours(group: Group, runs: Sequence[Run], number: Number) -> list[tuple[str, Value]]:
    name, _, _ = MEASURES[number.measure]
    if number.measure in ("mib", "rounds"):
        key = "mib_per_client_published_formula" if number.measure == "mib" else "reached_rounds"
        return [(name, group.values[key])] if key in group.values else []
    if number.measure in ("linear", "classifier"):
        found = [(r, o) for r in runs for o in r.of("probe") if o.name == number.measure
                 and (o.name == "classifier" or o.values.get("features", "backbone") == "backbone")]
        return _by_label(found, "accuracy")
    key = "ssim_resfl" if number.measure == "ssim" and number.attack == "decoder" else number.measure
    return _by_label([(r, o) for r in runs for o in r.of("attack") if o.name == number.attack and not o.values.get("wire")], key)


def _by_label(found: Sequence[tuple[Run, Outcome]], key: str) -> list[tuple[str, Value]]:
    """A number for every variant at the end of training or on the best weights; nobody publishes one from before."""
    made = []
    for label in dict.fromkeys(o.label for _, o in found if o.weights in ("", BEST)):
        value = summary([(r, o.number(key), _interval(o, key)) for r, o in found if o.label == label])
        if value is not None:
            made.append((label, value))
    return made


def _interval(outcome: Outcome, key: str) -> tuple[float, float] | None:
    return ends(outcome.values) if key == "accuracy" else interval(outcome.values, key)


def differences(runs: Sequence[Run], number: Number) -> list[str]:
    """Every stated setting that is another one in some of our runs: `clients: 5 (published 100)`."""
    said = []
    for key, stated in sorted(number.settings.items(), key=_rank):
        ours = [_effective(run, key) for run in runs]
        if key in ("target_accuracy", *number.requires) or all(_same(o, stated) for o in ours):
            continue
        if key.startswith("partition.") and key != "partition.kind" and "partition.kind" in number.settings and not all(
                _same(_effective(r, "partition.kind"), number.settings["partition.kind"]) for r in runs):
            continue  # the parameter of another rule
        said.append(f"{LABELS.get(key, key)}: {listed((_shown(key, o) for o in ours), 'or')} (published {_shown(key, stated)})")
    said += [text for key, text in _OWN.items() if key not in number.settings and key not in number.requires
             and any(run.config.get(key) for run in runs)]
    return said


_FIRST = ("cut", "arch", "width", "clients", "clients_per_round", "partition.kind", "rounds", "train_images")
"""Settings that lead a list of differences; the others follow as the source states them."""


def _rank(item: tuple[str, Any]) -> int:
    return _FIRST.index(item[0]) if item[0] in _FIRST else len(_FIRST)


_OWN = {"max_steps": "ours is a trial that stopped early", "client_from": "ours started from the weights of an earlier run",
        "published_client_schedule": "ours repeats the published schedule of the clients",
        "published_pool_average": "ours repeats the published average of the cohort"}


def _effective(run: Run, key: str) -> Any:
    """What a field comes to: a cohort that is not set is everybody."""
    if key == "cut":
        return run.cut
    value = run.config.get(key)
    return run.config.get("clients") if key == "clients_per_round" and value is None else value


def _same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, bool) or isinstance(theirs, bool):
        return ours is theirs
    if isinstance(ours, int | float) and isinstance(theirs, int | float):
        return abs(ours - theirs) <= 1e-9 * max(abs(ours), abs(theirs), 1.0)
    return bool(ours == theirs)


def _shown(key: str, value: Any) -> str:
    if value is None:
        return "all" if key == "train_images" else "not set"
    return plainly(value)
