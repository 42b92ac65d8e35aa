"""Two studies side by side: groups matched by algorithm, cut and setting, what differs in their configurations, and in their numbers.

Equal names do not make equal settings, so every field that differs between matched groups is listed. Where seeds coincide the numbers are
compared seed by seed; "clearly" is said as in `verdicts`: from three seeds on the t-interval of the differences must exclude zero, below
that every pair of runs must have intervals that do not overlap.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from probes.statistics import summarise
from ssl_split.defence_sections import DEFENCES
from ssl_split.report import verdicts
from ssl_split.report.collect import FINISHED, Outcome, Run, option_texts
from ssl_split.report.paragraph import listed, plainly, values
from ssl_split.report.summaries import Value, by_seed, ends, interval
from ssl_split.report.table import APART, Group, Study

HIGHER, LOWER, UNCLEAR_HIGHER, UNCLEAR_LOWER, EQUAL = ("clearly higher", "clearly lower", "not clearly higher", "not clearly lower",
                                                        "equal")
Ends = tuple[float, float]


@dataclass(frozen=True)
class Measure:
    """What is compared: a key of `Group.values`, its name, its style (`text.FORMATS`), and whether it is counted, not estimated from
    images or time, so that it needs no interval below three seeds."""

    key: str
    name: str
    style: str
    exact: bool = False


MEASURES = (
    Measure("accuracy", "accuracy", "percent"), Measure("r2", "R2 of the strongest attack", "ratio"),
    Measure("mse", "MSE of the strongest attack", "score"), Measure("mib_per_client", "MiB per client", "mib", exact=True),
    Measure("client_parameters", "client parameters", "count", exact=True), Measure("seconds", "seconds of training", "large"),
)


@dataclass(frozen=True)
class Difference:
    """One number of two matched groups.

    Attributes:
        measure: Which.
        ours, other: Means, over the seeds that both have where `paired`.
        difference: ours - other.
        low, high: 95 % t-interval of the differences by seed, from three shared seeds on.
        n: Seeds that both have; 0 where none coincide.
        paired: Whether the difference is one by seed.
        relation: `HIGHER`, `LOWER`, `UNCLEAR_HIGHER`, `UNCLEAR_LOWER` or `EQUAL`: ours against the other.
    """

    measure: Measure
    ours: float
    other: float
    difference: float
    low: float | None
    high: float | None
    n: int
    paired: bool
    relation: str

    @property
    def clear(self) -> bool:
        """Whether the difference is one that the intervals carry."""
        return self.relation in (HIGHER, LOWER)


@dataclass(frozen=True)
class Setting:
    """A field of the configuration in which two matched groups differ, as texts."""

    name: str
    ours: str
    other: str


@dataclass(frozen=True)
class Pair:
    """Two matched groups.

    Attributes:
        ours, other: The groups.
        settings: Fields that differ.
        differences: Numbers that both have.
        cautions: What a reader must know of this pair, a sentence each.
    """

    ours: Group
    other: Group
    settings: tuple[Setting, ...]
    differences: tuple[Difference, ...]
    cautions: tuple[str, ...]

    def of(self, key: str) -> Difference | None:
        """One of the differences: `of("accuracy")`."""
        return next((d for d in self.differences if d.measure.key == key), None)


@dataclass(frozen=True)
class Unmatched:
    """A group without a partner, and why."""

    group: Group
    reason: str


@dataclass(frozen=True)
class Comparison:
    """Two studies.

    Attributes:
        ours, other: The studies.
        pairs: Matched groups in our order.
        only_ours, only_other: Groups without a partner.
        flags: Sentences on the whole: mixed versions, another headline accuracy.
    """

    ours: Study
    other: Study
    pairs: tuple[Pair, ...]
    only_ours: tuple[Unmatched, ...]
    only_other: tuple[Unmatched, ...]
    flags: tuple[str, ...]

    @property
    def measures(self) -> list[Measure]:
        """The measures that some pair has, in order: columns of a table."""
        return [m for m in MEASURES if any(p.of(m.key) for p in self.pairs)]


def compare(ours: Study, other: Study) -> Comparison:
    """Match the groups of two studies and compare their numbers.

    Args:
        ours: The study of the report.
        other: What it is compared with.
    """
    partners = _partners(ours, other)
    shown = [m for m in MEASURES if m.key != "accuracy" or ours.accuracy == other.accuracy]
    taken = {g.anchor for g in partners.values()}
    pairs = tuple(_pair(g, partners[g.anchor], shown) for g in ours.groups if g.anchor in partners)
    return Comparison(ours, other, pairs,
                      tuple(Unmatched(g, _why(g, other)) for g in ours.groups if g.anchor not in partners),
                      tuple(Unmatched(g, _why(g, ours)) for g in other.groups if g.anchor not in taken), tuple(_flags(ours, other)))


def _partners(ours: Study, other: Study) -> dict[str, Group]:
    """Our groups' anchors -> their groups: of one name, else the only ones left of their algorithm and cut."""
    named = {(g.algorithm, g.cut, g.setting): g for g in other.groups}
    found = {g.anchor: named[key] for g in ours.groups if (key := (g.algorithm, g.cut, g.setting)) in named}
    taken = {g.anchor for g in found.values()}
    for group in ours.groups:
        mine = [g for g in ours.groups if _place(g) == _place(group) and g.anchor not in found]
        theirs = [g for g in other.groups if _place(g) == _place(group) and g.anchor not in taken]
        if len(mine) == len(theirs) == 1:
            found[mine[0].anchor] = theirs[0]
            taken.add(theirs[0].anchor)
    return found


def _place(group: Group) -> tuple[str, int | str]:
    return group.algorithm, group.cut


def _why(group: Group, missing_in: Study) -> str:
    there = missing_in.collection.name
    if all(g.algorithm != group.algorithm for g in missing_in.groups):
        return f"{there} has no {group.algorithm}"
    same = [g for g in missing_in.groups if _place(g) == _place(group)]
    if not same:
        cuts = listed(str(g.cut) for g in missing_in.groups if g.algorithm == group.algorithm)
        return f"{there} has {group.algorithm} at {cuts}, not at {group.cut}"
    return f"{there} has no setting {group.setting or 'without a name'!r} there, but {listed(repr(g.setting) for g in same)}"


def _pair(ours: Group, other: Group, shown: Sequence[Measure]) -> Pair:
    found = [d for m in shown if (d := _difference(m, ours, other)) is not None]
    return Pair(ours, other, tuple(settings(ours, other)), tuple(found), tuple(_cautions(ours, other, found)))


def settings(ours: Group, other: Group) -> list[Setting]:
    """Every field of the configuration that differs between two groups; of a defence's section only where one of them uses it."""
    fields = dict.fromkeys(k for g in (ours, other) for run in g.runs for k in run.config)
    used = {str(run.config.get("defence")) for g in (ours, other) for run in g.runs}
    found = []
    for name in fields:
        section = name.split(".")[0]
        if section in APART or (section in DEFENCES[1:] and section not in used):
            continue
        mine, theirs = (_texts(g.runs, name) for g in (ours, other))
        if mine != theirs:
            found.append(Setting(name, mine, theirs))
    return found


def _texts(runs: Sequence[Run], name: str) -> str:
    return listed(sorted("not set" if v is None else plainly(v) for v in values(runs, name)), "or") or "not recorded"


def _difference(measure: Measure, ours: Group, other: Group) -> Difference | None:
    mine, theirs = ours.values.get(measure.key), other.values.get(measure.key)
    if mine is None or theirs is None:
        return None
    numbers = _by_seed(ours, mine), _by_seed(other, theirs)
    seeds = [s for s in numbers[0] if s in numbers[1]]
    if not seeds:
        return _unpaired(measure, mine, theirs)
    gains = [numbers[0][s] - numbers[1][s] for s in seeds]
    made = summarise(gains)
    images = _ends(measure.key, ours, mine), _ends(measure.key, other, theirs)
    apart = [measure.exact or _apart(images[0].get(s), images[1].get(s), up=made.mean > 0) for s in seeds]
    return Difference(measure, fmean(numbers[0][s] for s in seeds), fmean(numbers[1][s] for s in seeds), made.mean, made.low, made.high,
                      len(seeds), True, _relation(gains, apart))


def _unpaired(measure: Measure, mine: Value, theirs: Value) -> Difference:
    gain = mine.mean - theirs.mean
    images = [(v.low, v.high) if v.low is not None and v.high is not None else None for v in (mine, theirs)]
    clear = measure.exact or _apart(images[0], images[1], up=gain > 0)
    return Difference(measure, mine.mean, theirs.mean, gain, None, None, 0, False, _relation([gain], [clear]))


def _relation(gains: Sequence[float], apart: Sequence[bool]) -> str:
    """In words; `verdicts.relation` decides what is clear."""
    if not any(gains):
        return EQUAL
    up = fmean(gains) > 0
    clear = verdicts.relation([g if up else -g for g in gains], apart) == verdicts.CLEAR
    return (HIGHER if up else LOWER) if clear else UNCLEAR_HIGHER if up else UNCLEAR_LOWER


def _by_seed(group: Group, value: Value) -> dict[Any, float]:
    """A value's parts by seed."""
    runs = {run.anchor: run for run in group.runs}
    return by_seed((runs[anchor], number) for anchor, number in value.parts)


def _ends(key: str, group: Group, value: Value) -> Mapping[Any, Ends]:
    """Each seed's own interval over images, where it has one."""
    if value.n == 1 and value.low is not None and value.high is not None:
        return {seed: (value.low, value.high) for seed in _by_seed(group, value)}
    if key == "accuracy":
        known = [(run.seed, ends(outcome.values)) for run, outcome in group.probed]
    else:
        known = [(run.seed, interval(outcome.values, key)) for run, outcome in group.strongest if key in ("r2", "mse")]
    return {seed: found for seed, found in known if found is not None}


def _apart(ours: Ends | None, other: Ends | None, *, up: bool) -> bool:
    """Whether two intervals do not overlap, ours on the side that the means say."""
    return ours is not None and other is not None and (ours[0] > other[1] if up else ours[1] < other[0])


def _cautions(ours: Group, other: Group, found: Sequence[Difference]) -> list[str]:
    said = []
    if ours.setting != other.setting:
        said.append(f"matched by algorithm and cut alone: the settings are called {ours.setting or 'nothing'!r} and "
                    f"{other.setting or 'nothing'!r}")
    attacks = [{o.label for _, o in g.strongest} for g in (ours, other)]
    if all(attacks) and attacks[0] != attacks[1]:
        said.append(f"the strongest attack is {listed(sorted(attacks[0]), 'or')} here and {listed(sorted(attacks[1]), 'or')} there")
    said += _otherwise("probe", [[o for _, o in g.probed] for g in (ours, other)])
    said += _otherwise("strongest attack", [[o for _, o in g.strongest] for g in (ours, other)])
    seeds = [sorted(str(r.seed) for r in g.runs if r.state == FINISHED) for g in (ours, other)]
    if seeds[0] != seeds[1] and any(d.paired for d in found):
        said.append(f"the seeds are {listed(seeds[0])} here and {listed(seeds[1])} there; those that both have are compared")
    elif found and not any(d.paired for d in found):
        said.append("no seed is in both: the means are compared")
    shared = [len({r.seed for r in g.runs}) < len(g.runs) for g in (ours, other)]
    if any(shared):
        where = "here and there" if all(shared) else "here" if shared[0] else "there"
        said.append(f"several runs of one seed are in one group {where}; their mean is compared")
    digests = [{str(d) for r in g.runs if (d := r.environment.get("data_digest")) is not None} for g in (ours, other)]
    if all(digests) and digests[0] != digests[1]:
        said.append("the images or labels are not the same (data_digest)")
    return said


def _otherwise(what: str, found: Sequence[Sequence[Outcome]]) -> list[str]:
    """How the probes or attacks that are compared were told to work, where that differs; of another name it is said elsewhere."""
    mine, theirs = ([option_texts(o) for o in side] for side in found)
    if not mine or not theirs or {o.name for o in found[0]} != {o.name for o in found[1]}:
        return []
    said = []
    for key in dict.fromkeys(k for texts in (*mine, *theirs) for k in texts):
        known = [sorted({texts.get(key, "not recorded").strip('"') for texts in side}) for side in (mine, theirs)]
        if known[0] != known[1]:
            said.append(f"{key} {listed(known[0], 'or')} here and {listed(known[1], 'or')} there")
    return [f"the {what} was not made with the same options: {'; '.join(said)}"] if said else []


_VERSIONS: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "results_version": lambda known: known.get("results_version"),
    "commit": lambda known: known.get("commit"),
    "ssl_split": lambda known: known.get("ssl_split"),
    "processor": lambda known: known.get("cuda") or known.get("processor"),
}


def _versions(study: Study, name: str) -> set[str]:
    """What computed the finished runs, their probes and their attacks."""
    runs = [run for run in study.runs if run.state == FINISHED]
    known: list[Mapping[str, Any]] = [{**run.environment, "results_version": run.results_version} for run in runs]
    known += [o.environment for run in runs for o in run.outcomes if name != "processor"]  # seconds are compared of trainings alone
    return {str(v) for environment in known if (v := _VERSIONS[name](environment)) is not None}


def _flags(ours: Study, other: Study) -> list[str]:
    said = []
    for name in _VERSIONS:
        mine, theirs = _versions(ours, name), _versions(other, name)
        if mine and theirs and len(mine | theirs) > 1:
            why = {"results_version": "numbers of different versions do not compare", "processor": "seconds do not compare"}.get(
                name, "numbers of different versions may not compare")
            said.append(f"Mixed {name}: {listed(sorted(mine))} here, {listed(sorted(theirs))} there; {why}.")
    if ours.accuracy != other.accuracy:
        said.append(f"The headline accuracy is {ours.accuracy or 'missing'} here and {other.accuracy or 'missing'} there, so accuracies "
                    "are not compared.")
    return said
