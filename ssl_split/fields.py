"""Typed configuration from YAML files and command-line flags, with one check and one sentence per mistake.

A command's options are a frozen dataclass. Every field carries its help text and its legal range, so that a YAML file, a flag and
a notebook meet the same check, and the message names the value and the nearest legal one.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import errno
import importlib
import os
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

T = TypeVar("T")


def field(
    default: Any,
    help: str,
    *,
    choices: Sequence[str] | None = None,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    section: str | None = None,
) -> Any:
    """A dataclass field that knows its help text and legal values.

    Args:
        default: Value when nothing is set; a dataclass type makes a nested section.
        help: One line for `--help`, with the unit.
        choices: Legal strings.
        low, high: Inclusive bounds of a number.
        above: Exclusive lower bound of a number.
        section: Title in `--help` that begins with this field.
    """
    metadata = {"help": help, "choices": choices, "low": low, "high": high, "above": above, "section": section}
    if isinstance(default, type):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def extra(module: str, name: str) -> Any:
    """A module of a package that comes with an extra of this one.

    Raises:
        ValueError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ValueError(f"this needs the package {module.partition('.')[0]}: pip install 'ssl_split[{name}]'") from None


def nearest(value: object, legal: Sequence[str]) -> str:
    """The part of a message that says what would be legal, the nearest name first."""
    close = difflib.get_close_matches(str(value), legal, n=1, cutoff=0.5)
    guess = f"did you mean {close[0]}? " if close else ""
    return f"{guess}legal: {', '.join(legal)}"


def build(cls: type[T], values: Mapping[str, Any], prefix: str = "") -> T:
    """Make a checked dataclass from nested plain values (what YAML gives).

    Raises:
        ValueError: unknown key, wrong type or impossible value; the message is one sentence.
    """
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    made: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            raise ValueError(f"unknown key {prefix + str(key)!r}: {nearest(key, list(known))}")
        hint, metadata = hints[key], known[key].metadata
        name = prefix + key
        if dataclasses.is_dataclass(hint):
            if not isinstance(value, Mapping):
                raise ValueError(f"{name} is a section with keys {', '.join(f.name for f in dataclasses.fields(hint))}, not {value!r}")
            made[key] = build(typing.cast(type, hint), value, name + ".")
        else:
            made[key] = _check(name, _convert(name, value, hint), metadata)
    return cls(**made)


def _convert(name: str, value: Any, hint: Any) -> Any:
    """The value as its annotated type, or a ValueError that names both."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union else (hint,)
    for option in options:
        if option is type(None):
            if value is None:
                return None
        elif typing.get_origin(option) is tuple:
            parts = typing.get_args(option)
            if isinstance(value, list | tuple) and (parts[-1] is Ellipsis or len(value) == len(parts)):
                return tuple(_convert(name, v, parts[0]) for v in value)
        elif option is bool:
            if isinstance(value, bool):
                return value
        elif option is int:
            if isinstance(value, int) and not isinstance(value, bool):
                return value
        elif option is float:
            number = _number(value)
            if number is not None:
                return number
        elif option is str and isinstance(value, str):
            return value
    wanted = " or ".join("nothing" if o is type(None) else getattr(o, "__name__", str(o)) for o in options)
    raise ValueError(f"{name} must be {wanted}, not {value!r}")


def _number(value: Any) -> float | None:
    """A float, also from '5e-4', which YAML reads as a string."""
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if number == number and abs(number) != float("inf") else None


def _check(name: str, value: Any, metadata: Mapping[str, Any]) -> Any:
    choices = metadata.get("choices")
    if choices and value is not None:
        for item in value if isinstance(value, tuple) else (value,):
            if item not in choices:
                raise ValueError(f"{name} = {item!r} does not exist: {nearest(item, list(choices))}")
    for number in value if isinstance(value, tuple) else (value,):
        if not isinstance(number, int | float) or isinstance(number, bool):
            continue
        low, high, above = metadata.get("low"), metadata.get("high"), metadata.get("above")
        if (low is not None and number < low) or (high is not None and number > high) or (above is not None and number <= above):
            bounds = [f"at least {low}" if low is not None else "", f"more than {above}" if above is not None else "",
                      f"at most {high}" if high is not None else ""]
            raise ValueError(f"{name} = {number} is impossible: it must be {' and '.join(b for b in bounds if b)}")
    return value


def to_dict(instance: Any) -> dict[str, Any]:
    """Nested plain values of a dataclass, in field order, with tuples as lists."""
    plain = dataclasses.asdict(instance)

    def lists(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: lists(v) for k, v in value.items()}
        return [lists(v) for v in value] if isinstance(value, tuple) else value

    return typing.cast(dict[str, Any], lists(plain))


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as dotted names."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat.update(flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value})
    return flat


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over` written over it, section by section."""
    out = dict(base)
    for key, value in over.items():
        old = out.get(key)
        out[key] = merge(old, value) if isinstance(value, Mapping) and isinstance(old, Mapping) else value
    return out


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML file that holds one mapping.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not YAML, or not a mapping.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no configuration file {path}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold `key: value` lines, not a {type(values).__name__}")
    return values


class _Parser(argparse.ArgumentParser):
    """argparse that reports one sentence and suggests the nearest flag."""

    def error(self, message: str) -> typing.NoReturn:
        if message.startswith("unrecognized arguments:"):
            word = message.split(":", 1)[1].split()[0]
            known = [s for action in self._actions for s in action.option_strings]
            close = difflib.get_close_matches(word.split("=")[0], known, n=1, cutoff=0.6) if word.startswith("--") else []
            message = f"unknown flag {word}: did you mean {close[0]}?" if close else f"unknown argument {word} (see --help)"
        raise ValueError(message)


def flags(cls: type, prog: str, description: str, epilog: str = "") -> argparse.ArgumentParser:
    """A parser with one `--flag` for every field, nested sections as `--section.field`; absent flags stay unset."""
    parser = _Parser(prog=prog, usage="%(prog)s [flags]", description=description, epilog=epilog, allow_abbrev=False,
                     argument_default=argparse.SUPPRESS, formatter_class=argparse.RawDescriptionHelpFormatter)
    _add_flags(parser, parser.add_argument_group("options"), cls, "")
    return parser


def _add_flags(parser: argparse.ArgumentParser, group: Any, cls: type, prefix: str) -> None:
    hints = typing.get_type_hints(cls)
    sections = []
    for f in dataclasses.fields(cls):
        hint = hints[f.name]
        if f.metadata.get("section"):
            group = parser.add_argument_group(f.metadata["section"])
        if dataclasses.is_dataclass(hint):
            sections.append((f, hint))
            continue
        name = "--" + (prefix + f.name).replace("_", "-")
        text = f.metadata.get("help", "").replace("%", "%%")
        shown = f"{text} [{_show(f.default)}]"
        if hint is bool:
            group.add_argument(name, dest=prefix + f.name, nargs="?", const="true", metavar="BOOL", help=shown)
        elif any(typing.get_origin(option) is tuple for option in (hint, *typing.get_args(hint))):
            group.add_argument(name, dest=prefix + f.name, nargs="+", metavar="X", help=shown)
        else:
            choices = f.metadata.get("choices")
            metavar = "|".join(choices) if choices and len("|".join(choices)) < 40 else f.name.split("_")[-1].upper()
            group.add_argument(name, dest=prefix + f.name, metavar=metavar, help=shown)
    for f, hint in sections:
        _add_flags(parser, parser.add_argument_group(f"{prefix}{f.name} ({f.metadata.get('help', '')})"), typing.cast(type, hint),
                   f"{prefix}{f.name}.")


def _show(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value is None else " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def set_flags(cls: type, arguments: argparse.Namespace) -> dict[str, Any]:
    """The flags of `cls` that were set, as nested plain values; texts are read as YAML reads them, so that a flag and a file agree."""
    values: dict[str, Any] = {}
    for f in dataclasses.fields(cls):
        hint = typing.get_type_hints(cls)[f.name]
        if dataclasses.is_dataclass(hint):
            mark = f.name + "."
            inside = argparse.Namespace(**{k.removeprefix(mark): v for k, v in vars(arguments).items() if k.startswith(mark)})
            if inner := set_flags(typing.cast(type, hint), inside):
                values[f.name] = inner
        elif hasattr(arguments, f.name):
            text = getattr(arguments, f.name)
            values[f.name] = _from_texts(text, hint) if isinstance(text, list) else _from_text(text, hint)
    return values


def _from_texts(texts: list[str], hint: Any) -> Any:
    if texts == ["none"] and type(None) in typing.get_args(hint):
        return None
    kind = next(o for o in (hint, *typing.get_args(hint)) if typing.get_origin(o) is tuple)
    return [_from_text(t, typing.get_args(kind)[0]) for t in texts]


def _from_text(text: str, hint: Any) -> Any:
    """A flag's text as a plain value of the kinds that `hint` allows."""
    options = typing.get_args(hint) or (hint,)
    if text.lower() in ("none", "null") and type(None) in options:
        return None
    if set(options) <= {str, type(None)}:
        return text
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return value if isinstance(value, bool | int | float) else text


def parse(cls: type[T], argv: Sequence[str], prog: str, description: str, epilog: str = "") -> T:
    """Options of a command from its flags alone."""
    return build(cls, set_flags(cls, flags(cls, prog, description, epilog).parse_args(list(argv))))


def command(main: Callable[[Sequence[str]], int | None]) -> int:
    """Run a command line: one sentence and a non-zero exit instead of a traceback.

    Returns:
        0 on success, 2 for bad input, 1 when the machine fails (full disk, memory), 130 after Ctrl-C.
    """
    try:
        return main(sys.argv[1:]) or 0
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except (ValueError, FileNotFoundError, NotADirectoryError, IsADirectoryError, ModuleNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever reads our output has seen enough (`| head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains again when it flushes at its end
        return 1
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else str(error)
        print(f"error: {reason}; what was computed before is kept", file=sys.stderr)
        return 1
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(words in str(error) for words in ("allocate memory", "out of memory")):
            raise  # PyTorch reports exhausted memory as a RuntimeError; any other one is a defect of ours
        print("error: out of memory; try a smaller --batch-size, fewer --clients-per-round or --aux", file=sys.stderr)
        return 1
