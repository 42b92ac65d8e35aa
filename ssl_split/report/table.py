"""The study behind the report: runs grouped by what was set, seeds summarised, every number with the runs it came from."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean
from typing import Any

from ssl_split.config import UNFINGERPRINTED
from ssl_split.report.collect import BEST, FINISHED, REACHED, Collection, Outcome, Run
from ssl_split.report.summaries import Value, ends, pair, summary
from ssl_split.report.summaries import interval as interval

BOUNDS = ("blind", "oracle")
MEMBERS_PRESET = "mocosfl_published"
"""Preset of attacks that learn from members, as published; no attacker has them, so its results are bounds too."""
"""Attacks that are yardsticks, not attackers: never chosen as the strongest."""

MONITORS = {"validation_knn": "kNN on validation images", "validation_accuracy": "the run's own classifier on validation images"}
"""Accuracies of last resort, by result key: what the training itself measured."""

HEADLINES = ("linear", "finetune", "classifier", "knn")
"""Probes in the order in which one of them is chosen as the headline accuracy."""

RECEIVED = "received"
"""Features that the server computes from what arrives behind a defence."""

APART = frozenset({"algorithm", "cut", "seed", *UNFINGERPRINTED})
"""Fields that never make a setting of their own."""


_Key = tuple[str, int | str, str]
"""Setting, cut, algorithm."""


@dataclass(frozen=True)
class Group:
    """All seeds of one setting.

    Attributes:
        anchor: Where the page lists its runs.
        algorithm, cut: What is compared.
        setting: Other fields that differ in the study, as text.
        runs: One per seed, or several where some repeat it, whatever their state.
        values: Numbers by name; a missing one is absent.
        probed: The headline probe of every run that has it.
        strongest: The strongest attack of every run that was attacked.
        problems: What is missing, with reasons.
    """

    anchor: str
    algorithm: str
    cut: int | str
    setting: str
    runs: tuple[Run, ...]
    values: Mapping[str, Value]
    probed: tuple[tuple[Run, Outcome], ...]
    strongest: tuple[tuple[Run, Outcome], ...]
    problems: tuple[str, ...]

    @property
    def series(self) -> str:
        """Name of the line it belongs to in a figure."""
        return f"{self.algorithm}, {self.setting}" if self.setting else self.algorithm

    @property
    def title(self) -> str:
        """Name of the group in a sentence."""
        return f"{self.series} at cut {self.cut}"

    @property
    def seeds(self) -> int:
        """How many different seeds its runs have."""
        return len({run.seed for run in self.runs})

    @property
    def repeated(self) -> list[Any]:
        """Seeds that several of its finished runs have."""
        counts = Counter(run.seed for run in self.runs if run.state == FINISHED)
        return [seed for seed, count in counts.items() if count > 1]

    @property
    def attack(self) -> str:
        """The strongest attack, counted over seeds where they differ."""
        names = Counter(o.label for _, o in self.strongest)
        return ", ".join(f"{name} ({count} of {sum(names.values())})" if len(names) > 1 else name for name, count in names.most_common())

    def mean(self, name: str) -> float | None:
        """Mean of a value, or None."""
        return self.values[name].mean if name in self.values else None


@dataclass(frozen=True)
class Study:
    """Everything that the pages show."""

    collection: Collection
    groups: tuple[Group, ...]
    accuracy: str | None
    """What the headline accuracy is, or None where nothing was probed."""
    probes: tuple[str, ...]
    attacks: tuple[str, ...]

    @property
    def runs(self) -> tuple[Run, ...]:
        """All runs."""
        return self.collection.runs

    @property
    def series(self) -> list[str]:
        """Lines in figures."""
        return list(dict.fromkeys(g.series for g in self.groups))

    @property
    def cuts(self) -> list[int | str]:
        """Cuts in order of depth."""
        return sorted({g.cut for g in self.groups}, key=depth)


def depth(cut: int | str) -> tuple[int, int | str]:
    """Sort key of cuts: numbers, then full, then what is unknown."""
    return (0, cut) if isinstance(cut, int) else (1, "") if cut == "full" else (2, cut)


def study(collection: Collection) -> Study:
    """Group runs by algorithm, cut and setting; what an earlier version of the program computed is a setting of its own."""
    varying = _varying(collection.runs)
    accuracy = _headline(collection.runs)
    newest = max((run.results_version or 0 for run in collection.runs), default=0)
    grouped: dict[_Key, list[Run]] = {}
    for run in collection.runs:
        earlier = [f"results_version {run.results_version}"] if (run.results_version or newest) < newest else []
        setting = ", ".join(filter(None, [_setting(run, varying), *earlier]))
        grouped.setdefault((setting, run.cut, run.algorithm), []).append(run)
    settings = list(dict.fromkeys(setting for setting, _, _ in grouped))
    if not any(run.arm for run in collection.runs):
        settings.sort()
    order = sorted(grouped, key=lambda k: (settings.index(k[0]), depth(k[1])))  # arms and algorithms stay in the order of the sweep
    groups = tuple(_group(f"group-{i}", key, sorted(grouped[key], key=_seed), accuracy) for i, key in enumerate(order))
    return Study(collection, groups, accuracy, _labels(collection.runs, "probe"), _labels(collection.runs, "attack"))


def _setting(run: Run, varying: Sequence[str]) -> str:
    """What tells a run from others of its algorithm and cut: its arm and its place on further axes, or else every field that differs."""
    if not run.arm:
        return ", ".join(f"{name} {_plain(run.config.get(name))}" for name in varying)
    axes = {k: v for k, v in run.jobs[0].setting.items() if k != "arm" and k not in APART
            and any(name == k or name.startswith(f"{k}.") for name in varying)}
    return ", ".join([run.arm, *(f"{name} {_plain(value)}" for name, value in axes.items())])


def _seed(run: Run) -> tuple[bool, Any]:
    return not isinstance(run.seed, int), run.seed if isinstance(run.seed, int) else str(run.seed)


def _varying(runs: Sequence[Run]) -> list[str]:
    """Fields in which finished or begun runs differ, besides algorithm, cut and seed."""
    if len(runs) < 2:
        return []
    texts: dict[str, set[str]] = {}
    for run in runs:
        for key, value in run.config.items():
            texts.setdefault(key, set()).add(json.dumps(value, sort_keys=True, default=str))
    return [k for k, seen in texts.items() if len(seen) > 1 and k not in APART]


def _plain(value: Any) -> str:
    return "none" if value is None else " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _labels(runs: Iterable[Run], kind: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(o.label for run in runs for o in run.of(kind)))


def _headline(runs: Sequence[Run]) -> str | None:
    """The accuracy that stands in the table: a probe on pooled backbone features, the one that most runs have; of equals the one on what
    the server receives, which is what a defence leaves of them. One at the end of training comes before any on the best weights, and
    none before the end counts."""
    for weights, name in product(("", BEST), HEADLINES):
        found = Counter((o.label, o.values.get("features") == RECEIVED) for run in runs for o in run.of("probe")
                        if o.name == name and o.weights == weights and measures_utility(o))
        if found:
            return max(found, key=lambda known: (found[known], known[1]))[0]
    for key, name in MONITORS.items():
        if any(run.number(key, "accuracy") is not None for run in runs):
            return name
    return None


def measures_utility(outcome: Outcome) -> bool:
    """Whether a probe looked at pooled backbone features or the run's own classifier, not at the wire (leakage) or the projector."""
    return outcome.name == "classifier" or str(outcome.values.get("features", "backbone")).startswith(("backbone", RECEIVED))


def strongest(run: Run) -> Outcome | None:
    """The attack with the lowest error on the attacker's own validation images; the targets have no say. Attacks on views rebuild other
    images, and do not compete; nor do those on weights before the end, and those on the best ones only where none was made at it. Errors on
    validation images from elsewhere do not compare either: attackers with images of the test split come first."""
    every = [o for o in run.of("attack") if o.name not in BOUNDS and o.number("mse") is not None and not on_views(o)]
    every = [o for o in every if o.values.get("preset") != MEMBERS_PRESET]
    attackers = [o for o in every if not o.weights] or [o for o in every if o.weights == BEST]
    attackers = [o for o in attackers if source(o) is None] or (attackers if len({source(o) for o in attackers}) == 1 else [])
    judged = [o for o in attackers if o.number("validation_mse") is not None]
    if not judged:
        return attackers[0] if len(attackers) == 1 else None
    return min(judged, key=lambda o: o.number("validation_mse") or 0.0)


def on_views(outcome: Outcome) -> bool:
    """Whether an inversion rebuilt augmented views, recorded or made, and not images."""
    return bool(outcome.values.get("wire")) or "truth" in (outcome.values.get("sets") or {})


def source(outcome: Outcome) -> str | None:
    """Whose images the attacker had where they are not those of the test split."""
    found = (outcome.values.get("sets") or {}).get("aux_from")
    return None if found is None else str(found)


def _group(anchor: str, key: _Key, runs: list[Run], accuracy: str | None) -> Group:
    setting, cut, algorithm = key
    chosen = [(run, found) for run in runs if (found := strongest(run)) is not None]
    values: dict[str, Value | None] = {}
    for name in ("mib_per_client", "mib_per_client_closed_form", "mib_per_client_published_formula", "client_parameters",
                 "client_macs_per_image", "server_parameters", "server_macs_per_image", "loss", "collapse_std", "seconds",
                 "virtual_seconds", "waiting_share_fastest", "client_flops_mean", "server_flops"):
        values[name] = summary([(run, run.number(name), None) for run in runs])
    for name in REACHED:
        values[f"reached_{name}"] = summary([(run, run.reached(name), None) for run in runs])
    for name in ("online_to_mean", "momentum_to_mean", "online_to_momentum"):
        values[name] = summary([(run, run.number("divergence", name), None) for run in runs])
    values |= _accuracies(runs, accuracy)
    for name in ("mse", "ssim", "r2"):
        values[name] = summary([(run, o.number(name), interval(o.values, name)) for run, o in chosen])
    for name in ("psnr", "blind_mse", "blind_ssim", "untrained_mse", "untrained_ssim", "untrained_r2", "validation_mse"):
        values[name] = summary([(run, o.number(name), None) for run, o in chosen])
    values["unaware_r2"] = summary([(run, o.number("unaware", "r2"), None) for run, o in chosen])
    values["identified"] = summary([(run, o.number("identification", "pixels", "top1", "rate"),
                                     pair([o.number("identification", "pixels", "top1", end) for end in ("low", "high")]))
                                    for run, o in chosen])
    return Group(anchor, algorithm, cut, setting, tuple(runs), {k: v for k, v in values.items() if v is not None},
                 tuple((run, o) for run in runs for o in run.of("probe") if o.label == accuracy), tuple(chosen), tuple(_problems(runs)))


def _accuracies(runs: Sequence[Run], accuracy: str | None) -> dict[str, Value | None]:
    for key, name in MONITORS.items():
        if accuracy == name:
            return {"accuracy": summary([(run, run.number(key, "accuracy"), ends(run.result.get(key))) for run in runs])}
    found = [(run, o) for run in runs for o in run.of("probe") if o.label == accuracy]
    return {
        "accuracy": summary([(run, o.number("accuracy"), ends(o.values)) for run, o in found]),
        "raw_pixels": summary([(run, o.number("raw_pixels", "accuracy"), ends(o.values.get("raw_pixels"))) for run, o in found]),
        "untrained": summary([(run, o.number("untrained", "accuracy"), ends(o.values.get("untrained"))) for run, o in found]),
    }


def _problems(runs: Iterable[Run]) -> list[str]:
    """What is missing in a group, with reasons."""
    found = []
    for run in runs:
        if run.state != FINISHED:
            found.append(f"seed {run.seed}: {run.state} ({run.reason})")
            continue
        found += [f"seed {run.seed}: {j.label} {j.state}: {j.reason or 'not run yet'}" for j in run.jobs if j.state != "done"]
        found += [f"seed {run.seed}: {p}" for p in run.problems]
    return found


def pareto(groups: Iterable[Group]) -> list[Group]:
    """Groups that no other beats in accuracy without leaking more (R2 of the strongest attack), most private first."""
    placed = [g for g in groups if "accuracy" in g.values and "r2" in g.values]
    placed.sort(key=lambda g: (g.values["r2"].mean, -g.values["accuracy"].mean))
    front: list[Group] = []
    for group in placed:
        if not front or group.values["accuracy"].mean > front[-1].values["accuracy"].mean:
            front.append(group)
    return front


def ruler(groups: Iterable[Group], name: str) -> dict[int | str, float]:
    """A ruler per cut: mean over the groups at it."""
    found: dict[int | str, list[float]] = {}
    for group in groups:
        value = group.mean(name)
        if value is not None:
            found.setdefault(group.cut, []).append(value)
    return {cut: fmean(values) for cut, values in sorted(found.items(), key=lambda item: depth(item[0]))}
