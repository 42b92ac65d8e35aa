"""What a sweep is: a YAML file, read, checked as a whole before anything starts, and multiplied out into configurations.

    question: Where should the network be cut?         # printed on top of the report
    config: default.yaml                               # what every run starts from
    fixed: {rounds: 20, partition.kind: iid}           # fields of every run
    axes: {seed: [0, 1], algorithm: [mocosfl, monacosfl], cut: [1, 7, 13]}
    arms:                                              # named sets of fields, one after another at every place of the axes
      as published: {}
      one sync a round: {syncs_per_round: 1}
    conditions:                                        # runs that match `if` and not `then` are left out
      - {if: {algorithm: mocosfl}, then: {cut: [1, 7]}}
    stages:                                            # after each training
      - {probe: linear}
      - {attack: decoder, preset: published}
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib
import itertools
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_split import config as configuration
from ssl_split import fields
from ssl_split.config import UNSPLIT, Config
from ssl_split.fields import flatten
from ssl_split.sweep import conditions

KEYS = ("question", "config", "fixed", "axes", "arms", "conditions", "stages")
ARM = "arm"
"""Name of the arms' place, beside the axes."""

QUESTION = "Where should the network be cut?"
DEFAULT_CONFIG = "default.yaml"
RESERVED = {"out": "the sweep puts all runs into its own directory (--out)"}

STAGES: dict[str, dict[str, str]] = {
    "probe": {"linear": "probes.linear", "knn": "probes.knn", "finetune": "probes.finetune",
              "classifier": "probes.classifier"},
    "attack": dict.fromkeys(("blind", "ridge", "decoder", "oracle", "optimise", "twoview", "unsplit", "fora", "pcat", "sdar"),
                            "attacks.invert")
    | {"gradient": "attacks.gradient"},
    "label": dict.fromkeys(("fewshot", "norm", "direction", "completion"), "attacks.label"),
    "membership": dict.fromkeys(("norm", "alignment", "encodermi", "partcrop", "infonce", "momentum-gap", "loss", "confidence", "rmia",
                                 "lira"), "attacks.membership"),
}
"""Kind of stage -> name -> module of its command."""

SECTIONS = {"probe": "probes", "attack": "attacks", "label": "attacks", "membership": "attacks"}
"""Kind of stage -> folder of its results in the run directory."""

PREFIXED = ("label", "membership")
"""Kinds whose results are called KIND-NAME: their attacks have names of others."""

ELSEWHERE = ("checkpoint", "out")
"""Options of a stage's command that the sweep fills in."""

UNLABELLED = ("photos",)
"""Data sets that cannot be probed."""

HANDED_ON = ("data_dir", "device")
"""Fields of a run that its stages are given too, where the sweep sets them."""


@dataclass(frozen=True)
class Stage:
    """One command after training.

    Attributes:
        kind: `probe`, `attack`, `label` or `membership`.
        name: Of the probe or the method.
        module: What `python -m` runs.
        given: Options as the sweep file gives them.
        options: All options of the command, defaults included: what the result must have been made with.
    """

    kind: str
    name: str
    module: str
    given: Mapping[str, Any]
    options: Mapping[str, Any]

    @property
    def result_name(self) -> str:
        """Name in the result file."""
        return f"{self.kind}-{self.name}" if self.kind in PREFIXED else self.name

    @property
    def label(self) -> str:
        """Short text that tells this stage from others."""
        extra = " ".join(f"{k}={v}" for k, v in self.given.items())
        return f"{self.kind} {self.name}" + (f" {extra}" if extra else "")

    def arguments(self, run: Path, flags: Mapping[str, Any]) -> tuple[str, ...]:
        """Words after `python -m`, for a run that was trained with these flags."""
        method = {"method": self.name} if "method" in self.options else {}
        shared = {k: flags[k] for k in HANDED_ON if k in flags and k in self.options}
        return (self.module, "--checkpoint", str(run), *flag_words({**method, **shared, **self.given}))


@dataclass(frozen=True)
class Cell:
    """One run of the sweep: its place on the axes and its configuration."""

    place: Mapping[str, Any]
    config: Config
    flags: Mapping[str, Any]
    """Fields that differ from the base configuration on purpose; they become flags."""


@dataclass(frozen=True)
class Sweep:
    """A checked sweep."""

    name: str
    question: str
    base: str
    axes: Mapping[str, tuple[Any, ...]]
    cells: tuple[Cell, ...]
    stages: tuple[Stage, ...]


def paths(cls: type, prefix: str = "") -> list[str]:
    """Dotted names of all fields of a dataclass, sections opened."""
    hints = typing.get_type_hints(cls)
    names: list[str] = []
    for f in dataclasses.fields(cls):
        hint = hints[f.name]
        names += paths(typing.cast(type, hint), f"{prefix}{f.name}.") if dataclasses.is_dataclass(hint) else [prefix + f.name]
    return names


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted names as nested sections."""
    made: dict[str, Any] = {}
    for path, value in flat.items():
        *sections, name = path.split(".")
        inner = made
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[name] = value
    return made


def flag_words(values: Mapping[str, Any]) -> list[str]:
    """Fields as command-line flags."""
    words: list[str] = []
    for path, value in values.items():
        texts = value if isinstance(value, list | tuple) else [value]
        words += ["--" + path.replace("_", "-"), *(_text(v) for v in texts)]
    return words


def _text(value: Any) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def read(path: str | Path, *, overrides: Mapping[str, Any] | None = None) -> Sweep:
    """Read and check a sweep file.

    Args:
        path: YAML file, as given or among those installed with the package.
        overrides: Nested fields that replace the file's; one that is an axis leaves that axis a single value.

    Raises:
        FileNotFoundError: no such file.
        ValueError: one sentence that names what is wrong and the nearest legal name.
    """
    file = configuration.find(str(path))
    values = fields.read_yaml(file)
    _known(values, KEYS, f"key in {file.name}")
    base = values.get("config") or DEFAULT_CONFIG
    over = flatten(overrides or {})
    axes = _axes(values.get("axes") or {}, over)
    fixed = {**_fixed(values.get("fixed") or {}), **{k: v for k, v in over.items() if k not in axes}}
    both = sorted(set(fixed) & set(axes))
    if both:
        raise ValueError(f"{both[0]} is both fixed and an axis: keep one of the two")
    arms = _arms(values.get("arms") or {}, axes)
    rules = conditions.read(values.get("conditions") or [], convert=functools.partial(_converted, list(arms)))
    cells = tuple(_cells(str(base), fixed, axes, arms, over, rules))
    if not cells:
        raise ValueError(f"the conditions of {file.name} leave no run")
    stages = tuple(_stage(s) for s in _list(values.get("stages") or [], "stages"))
    for stage in stages:
        if stages.count(stage) > 1:
            raise ValueError(f"the stage {stage.label} stands in {file.name} twice")
        blank = {c.config.dataset for c in cells} & set(UNLABELLED)
        if stage.kind == "probe" and blank:
            raise ValueError(f"probes need labels, and {min(blank)} has none: take the stage {stage.label} out")
        without = sorted({c.config.algorithm for c in cells if not c.config.supervised})
        if stage.name == "classifier" and without:
            raise ValueError(f"{without[0]} trains no classifier: take the stage {stage.label} out, or probe with linear")
    return Sweep(file.stem, str(values.get("question") or QUESTION), str(base), axes, cells, stages)


def _known(names: Mapping[str, Any], legal: Sequence[str], what: str) -> None:
    for name in names:
        if name not in legal:
            close = difflib.get_close_matches(str(name), legal, n=1, cutoff=0.5)
            listed = ", ".join(legal) if len(legal) < 30 else "any flag of `python -m ssl_split.train --help`"
            raise ValueError(f"unknown {what}: {name!r}" + (f", did you mean {close[0]}?" if close else f" (legal: {listed})"))


def _list(values: Any, what: str) -> list[Any]:
    if not isinstance(values, list):
        raise ValueError(f"{what} must be a list, not {values!r}")
    return values


def _fixed(values: Any) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise ValueError(f"fixed must hold `field: value` lines, not {values!r}")
    flat = flatten(values)
    _known(flat, paths(Config), "field in fixed")
    for name in RESERVED.keys() & flat.keys():
        raise ValueError(f"{name} cannot be fixed in a sweep: {RESERVED[name]}")
    return flat


def _axes(values: Any, over: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    if not isinstance(values, Mapping):
        raise ValueError(f"axes must hold `field: [values]` lines, not {values!r}")
    _known(values, [p for p in paths(Config) if p not in RESERVED], "axis")
    axes: dict[str, tuple[Any, ...]] = {}
    for name, choices in values.items():
        listed = [over[name]] if name in over else _list(choices, f"axis {name}")
        if not listed:
            raise ValueError(f"axis {name} has no values")
        twice = [v for i, v in enumerate(listed) if v in listed[:i]]
        if twice:
            raise ValueError(f"axis {name} holds {twice[0]!r} twice")
        axes[name] = tuple(listed)
    return axes


def _arms(values: Any, axes: Mapping[str, tuple[Any, ...]]) -> dict[str, dict[str, Any]]:
    """Fields of every arm by its name; no arms are one without a name."""
    if not isinstance(values, Mapping) or not all(isinstance(v, Mapping) for v in values.values()):
        raise ValueError(f"arms must hold `name: {{field: value}}` lines, not {values!r}")
    arms = {str(name): flatten(given) for name, given in values.items()}
    for name, given in arms.items():
        _known(given, [p for p in paths(Config) if p not in RESERVED], f"field in arm {name!r}")
        both = sorted(set(given) & set(axes))
        if both:
            raise ValueError(f"{both[0]} is both an axis and in the arm {name!r}: keep one of the two")
    return arms or {"": {}}


def _converted(arms: Sequence[str], name: str, value: Any, where: str) -> Any:
    """A field's value, or an arm's name, as the configuration of a run has it."""
    _known({name: value}, [*paths(Config), ARM], f"field {where}")
    if name == ARM:
        _known({str(value): None}, arms, f"arm {where}")
        return str(value)
    return _values(nest({name: value}))[name]


def _values(given: Mapping[str, Any]) -> dict[str, Any]:
    """All fields by dotted names, as `config.from_dict` has them; that they go together is not checked."""
    if "cut" not in given and given.get("algorithm") in UNSPLIT:
        given = {**given, "cut": "full"}
    held = flatten(fields.to_dict(fields.build(Config, given)))
    return {**held, "cut": int(held["cut"])} if str(held["cut"]).isdigit() else held


def _cells(base: str, fixed: Mapping[str, Any], axes: Mapping[str, tuple[Any, ...]], arms: Mapping[str, Mapping[str, Any]],
           over: Mapping[str, Any], rules: Sequence[conditions.Condition]) -> list[Cell]:
    """The first axis turns slowest, arms fastest; a field given as a flag replaces that of an arm too; `rules` leave places out."""
    start = fields.read_yaml(configuration.find(base))
    cells: list[Cell] = []
    tested: list[Mapping[str, Any]] = []
    seen: dict[str, Mapping[str, Any]] = {}
    for *values, arm in itertools.product(*axes.values(), arms):
        flags = {**fixed, **dict(zip(axes, values, strict=True)), **{k: v for k, v in arms[arm].items() if k not in over}}
        merged = fields.merge(start, nest(flags))
        if rules:
            tested.append({**_values(merged), ARM: arm})
        if not all(rule.keeps(tested[-1]) for rule in rules):
            continue
        made = configuration.from_dict(merged)
        check_network(made)
        held = flatten(made.to_dict())
        place = {name: held[name] for name in axes} | ({ARM: arm} if arm else {})  # as config.yaml has them: YAML's 10 may be 10.0
        if made.fingerprint in seen:
            raise ValueError(f"{place} and {dict(seen[made.fingerprint])} are one and the same run: an axis or arm holds a field that "
                             "changes no number")
        seen[made.fingerprint] = place
        cells.append(Cell(place, made, flags))
    conditions.refuse_idle(rules, tested, fixed=over)
    return cells


@functools.cache
def _assemble(config: Config) -> None:
    from ssl_split.models.split import assemble  # torch is slow to import, and only this check needs it

    assemble(config, image_size=config.text.tokens if config.dataset == "tsv" else config.image_size or 32)


def check_network(config: Config) -> None:
    """Refuse a cut, or a bottleneck at it, that the network does not have; nothing is computed (meta device).

    Raises:
        ValueError: it names the legal cuts.
    """
    known = Config()
    same = {name: getattr(config, name) for name in ("arch", "width", "norm", "stem", "head", "cut", "bottleneck", "image_size", "text")}
    same["dataset"] = "tsv" if config.dataset == "tsv" else known.dataset
    _assemble(dataclasses.replace(known, **same))


def _stage(values: Any) -> Stage:
    if not isinstance(values, Mapping) or len(values.keys() & STAGES.keys()) != 1:
        raise ValueError(f"a stage is {{probe: NAME, ...}}, {{attack: NAME, ...}}, {{label: NAME, ...}} or {{membership: NAME, ...}}, not "
                         f"{values!r}")
    kind = next(k for k in STAGES if k in values)
    name = values[kind]
    _known({name: None}, tuple(STAGES[kind]), kind)
    module = STAGES[kind][name]
    given = {k: v for k, v in values.items() if k != kind}
    options = _options(module)
    _known(flatten(given), [p for p in paths(options) if p not in (*ELSEWHERE, "method")], f"option of {kind} {name}")
    method = {"method": name} if "method" in paths(options) else {}
    full = fields.to_dict(fields.build(options, nest(flatten(given)) | method))
    return Stage(kind, name, module, flatten(given), flatten({k: v for k, v in full.items() if k not in ELSEWHERE}))


def _options(module: str) -> type:
    """The dataclass of a command's flags: a sweep file and a flag meet the same check."""
    return typing.cast(type, importlib.import_module(module).Options)
