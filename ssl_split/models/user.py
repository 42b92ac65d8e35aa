"""`--arch FILE.py:build`: a user's own function that returns the list of units."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from ssl_split import rng
from ssl_split.config import Config
from ssl_split.models.units import Unit


def load_units(config: Config, image_size: int) -> list[Unit]:
    """Units from the function that `config.arch` names as `FILE.py:function`.

    The function may take `config` and `image_size` by name. It returns a list of modules, which then get the cuts 1, 2, ..., or
    of `Unit`s with labels of their own. Its weights are whatever its code draws; torch's global CPU generator is seeded from
    `config.seed` while it runs, and put back, so that equal seeds give equal weights (numpy's and Python's are not touched).

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file or its function fails, or returns something else.
    """
    offered = {"config": config, "image_size": image_size}
    made = call(config.arch, offered, seed=config.seed, option="arch", returns="the list of units")
    units = _as_units(made, config.arch)
    for unit in units:
        unit.module.to("cpu", torch.float32)
    return units


def call(spec: str, offered: dict[str, Any], *, seed: int, option: str, returns: str) -> Any:
    """What a user's function returns.

    Args:
        spec: `FILE.py:function`.
        offered: Arguments by name; the function gets those that it names.
        seed: torch's global CPU generator is seeded from it while the code runs, and put back.
        option: Name of the option that `spec` came with, for messages.
        returns: What the function should return, in words.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file or its function fails.
    """
    file, _, name = spec.rpartition(":")
    path = Path(file).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{option} = {spec!r}: there is no file {file}")
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would reach every GPU's generator too, which nobody would put back.
        torch.default_generator.manual_seed(rng.generator(seed, "arch").initial_seed())
        module = _guarded(path, "loading it", lambda: _load(path))
        function = getattr(module, name, None)
        if not callable(function):
            raise ValueError(f"{file} has no function {name!r}, which should return {returns}")
        return _guarded(path, f"calling {name}", lambda: function(**_wanted(function, offered)))


def _load(path: Path) -> ModuleType:
    name = f"_ssl_split_arch_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ValueError("it is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles in the file look their module up by name
    spec.loader.exec_module(module)
    return module


def _guarded(path: Path, doing: str, action: Callable[[], Any]) -> Any:
    """Run a user's code; what goes wrong in it becomes one sentence with the line of the file."""
    try:
        return action()
    except (Exception, SystemExit) as error:
        frames = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        line = getattr(error, "lineno", None) if isinstance(error, SyntaxError) else frames[-1] if frames else None
        text = error.msg if isinstance(error, SyntaxError) else str(error).strip().splitlines()[0] if str(error).strip() else ""
        where = f"{path}, line {line}" if line else f"{path}"
        raise ValueError(f"{where}: {doing} fails with {type(error).__name__}{f': {text}' if text else ''}") from error


def _wanted(function: Callable[..., Any], offered: dict[str, Any]) -> dict[str, Any]:
    """Those of the offered arguments that the function names, or all if it takes any."""
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return offered
    return {p.name: offered[p.name] for p in parameters if p.name in offered and p.kind is not p.POSITIONAL_ONLY}


def _as_units(made: Any, arch: str) -> list[Unit]:
    """The function's list as units, checked."""
    if not isinstance(made, list | tuple) or not made:
        hint = "; list(model) makes one of an nn.Sequential" if isinstance(made, nn.Sequential) else ""
        raise ValueError(f"{arch} must return a list of nn.Module or Unit with at least one entry, not {_kind(made)}{hint}")
    units = []
    for number, part in enumerate(made, 1):
        if isinstance(part, nn.Module):
            part = Unit(f"{number}: {type(part).__name__}", part, number)
        if not isinstance(part, Unit) or not isinstance(part.module, nn.Module):
            raise ValueError(f"entry {number} of the list that {arch} returns must be an nn.Module or a Unit, not {_kind(part)}")
        units.append(part)
    cuts = [unit.cut for unit in units if unit.cut is not None]
    if any(type(cut) is not int or cut < 1 for cut in cuts) or cuts != sorted(set(cuts)):
        raise ValueError(f"the cut labels of {arch} must be positive integers that rise from unit to unit, not {cuts}")
    owner: dict[int, int] = {}
    for number, unit in enumerate(units, 1):
        for tensor in (*unit.module.parameters(), *unit.module.buffers()):
            if owner.setdefault(id(tensor), number) != number:
                raise ValueError(f"units {owner[id(tensor)]} and {number} of {arch} share weights, so no cut can come between "
                                 "them: make them one unit")
    return units


def _kind(value: Any) -> str:
    return "an empty list" if isinstance(value, list | tuple) and not value else type(value).__name__
