"""The run directory: how training, attacks, probes, sweeps and reports meet.

    runs/<name>-<fingerprint>/
      config.yaml  env.json  metrics.jsonl  ledger.csv  result.json (last: the run is finished)
      checkpoints/step-00012000.safetensors   clients-00012000.safetensors   best.safetensors
      attacks/<name>-<hash>/result.json images.png
      probes/<name>-<hash>/result.json

Checkpoints are safetensors and JSON, never pickle: reading one cannot run code.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ssl_split import __version__, locks
from ssl_split import config as configuration
from ssl_split.config import RESULTS_VERSION, Config
from ssl_split.data import images
from ssl_split.data.images import Dataset
from ssl_split.data.partition import partition
from ssl_split.defences import table as defences
from ssl_split.defences.api import Defence
from ssl_split.files import read_json, read_tensors, replace_file, write_json
from ssl_split.models.split import Network, build

CLIENT, SERVER = "client.online/", "server.online/"
"""Prefixes of the weights that probes and attacks read."""


def read_header(path: Path) -> dict[str, Any]:
    """The JSON values in a checkpoint's header.

    Raises:
        FileNotFoundError: no such file.
        ValueError: truncated, a pickle, or not a checkpoint of this project.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    with path.open("rb") as file:
        start = file.read(2)
    if start in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        raise ValueError(f"{path} is a pickle, and reading a pickle can run code: only .safetensors checkpoints are read")
    try:
        with safe_open(path, "pt") as file:
            header = {k: json.loads(v) for k, v in (file.metadata() or {}).items()}
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is truncated or damaged ({error}); an older checkpoint may be beside it") from None
    if "config" not in header:
        raise ValueError(f"{path} is not a checkpoint of ssl_split: its header holds no configuration")
    return header


def checkpoints(run_dir: Path) -> list[Path]:
    """The full checkpoints of a run, oldest first."""
    return sorted((run_dir / "checkpoints").glob("step-*.safetensors"))


@dataclass(frozen=True)
class Checkpoint:
    """A trained model as probes and attacks see it."""

    path: Path
    run_dir: Path
    config: Config
    header: Mapping[str, Any]

    @property
    def step(self) -> int:
        """Training steps behind these weights."""
        return int(self.header["step"])

    @property
    def finished(self) -> bool:
        """Whether the run had reached its end."""
        return bool(self.header["finished"])

    @property
    def reference(self) -> dict[str, Any]:
        """What a result file says about the weights it used."""
        return {"file": self.path.name, "step": self.step, "finished": self.finished}

    def dataset(self, data_dir: str | None = None) -> Dataset:
        """The images this run was trained on.

        Raises:
            ValueError: the images found are not the ones of the run.
        """
        return self._dataset if data_dir is None else self._load(data_dir)

    @cached_property
    def _dataset(self) -> Dataset:
        return self._load(self.config.data_dir)

    def _load(self, data_dir: str | None) -> Dataset:
        made = images.load(self.config if data_dir is None else self.config.replace(data_dir=data_dir))
        if made.digest != self.header["data_digest"]:
            raise ValueError(f"the images of {made.name} in {data_dir or 'the data folder'} are not those that {self.run_dir.name} was "
                             "trained on; give their folder with --data-dir")
        return made

    def parts(self, dataset: Dataset) -> list[Tensor]:
        """Indices into `dataset.train`, one tensor per client."""
        return partition(dataset.train.labels, self.config.partition, images=len(dataset.train), clients=self.config.clients)

    def untrained(self, seed: int | None = None) -> Network:
        """The same network at its initial weights, or at those of another seed, in eval mode."""
        config = self.config if seed is None else self.config.replace(seed=seed)
        return build(config, image_size=int(self.header["image_size"]), classes=int(self.header.get("classes", 0))).eval()

    def network(self) -> Network:
        """Averaged online client half and online server half, in eval mode, float32, on the CPU.

        Raises:
            ValueError: the weights do not fit the architecture that the header names.
        """
        made = self.untrained()
        weights = {**read_tensors(self.path, CLIENT), **read_tensors(self.path, SERVER)}
        try:
            made.load_state_dict({k: v.float() for k, v in weights.items()})
        except RuntimeError:
            raise ValueError(f"the weights in {self.path} do not fit {self.config.arch} at cut {self.config.cut}: the file belongs to "
                             "another architecture") from None
        return made

    @cached_property
    def defence(self) -> Defence:
        """What the run's clients do to their smashed data before they are sent."""
        made = defences.build(self.config)
        if made.learned:
            network, size = self.untrained(), int(self.header["image_size"])
            made.restore(read_tensors(self.path, "defence."), shape=network.smashed_shape, image_size=size)
        return made

    def momentum_client(self) -> dict[str, Tensor] | None:
        """Weights of the averaged momentum client, where the algorithm has one (MonAcoSFL)."""
        return read_tensors(self.path, "client.momentum/") or None


def open_checkpoint(path: str | None, *, which: str = "last", out: str = "runs") -> Checkpoint:
    """A checkpoint from a run directory or a file.

    Args:
        path: Run directory or `.safetensors` file; None takes the newest finished run in `out` and says which.
        which: `last` or `best` (by validation), for a run directory.
        out: Parent folder of runs.

    Raises:
        FileNotFoundError, ValueError: one sentence that says what is wrong.
    """
    if path is None:
        finished = sorted(Path(out).glob("*/result.json"), key=lambda p: p.stat().st_mtime)
        if not finished:
            raise FileNotFoundError(f"there is no finished run in {out}/: train one (python -m ssl_split.train --cut 13) or name it with "
                                    "--checkpoint")
        path = str(finished[-1].parent)
        print(f"using the newest finished run: {path}", file=sys.stderr)
    given = Path(path)
    if given.is_dir():
        if which == "best":
            file = given / "checkpoints" / "best.safetensors"
            if not file.is_file():
                raise FileNotFoundError(f"{given} has no best checkpoint: it was trained without validation; use --which last")
        else:
            found = checkpoints(given)
            if not found:
                raise FileNotFoundError(f"{given} holds no checkpoint")
            file = found[-1]
    else:
        file = given
    header = read_header(file)
    config = configuration.from_dict(header["config"])
    return Checkpoint(file, file.parent.parent if file.parent.name == "checkpoints" else file.parent, config, header)


def result_dir(run_dir: Path, section: str, name: str, options: Mapping[str, Any]) -> Path:
    """Where a result with these options belongs.

    Args:
        run_dir: The run.
        section: `attacks`, `probes` or `measures`.
        name: Name of the attack, probe or measurement.
        options: All that changes its numbers, plain values.
    """
    text = json.dumps([RESULTS_VERSION, dict(options)], sort_keys=True)
    return run_dir / section / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def environment() -> dict[str, Any]:
    """Versions and machine, to be stored beside results."""
    packages = ("torch", "torchvision", "numpy", "lightly", "scikit-learn", "kornia", "piq", "safetensors")
    values: dict[str, Any] = {
        "ssl_split": __version__, "results_version": RESULTS_VERSION, "commit": _commit(), "python": platform.python_version(),
        "platform": platform.platform(), "processor": _processor(), "cores": os.cpu_count(), "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "packages": {p: metadata.version(p) for p in packages},
    }
    return values


def command_line() -> str:
    """The command that is running, as a person would type it."""
    module = getattr(sys.modules.get("__main__"), "__spec__", None)
    name = f"python -m {module.name.removesuffix('.__main__')}" if module else Path(sys.argv[0]).name
    return " ".join([name, *sys.argv[1:]])


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def _commit() -> str | None:
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", "-C", str(root), "describe", "--always", "--dirty"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def claim(run_dir: Path, config: Config, data_digest: str) -> None:
    """Make the run directory, or check that it belongs to this configuration and these images.

    Raises:
        ValueError: the directory holds something else.
    """
    path = run_dir / "config.yaml"
    if path.is_file():
        held = configuration.load(path)
        if held.fingerprint != config.fingerprint:
            raise ValueError(f"{run_dir} holds a run with another configuration ({held.run_name}): choose another --out or --name")
        if read_json(run_dir / "env.json")["data_digest"] != data_digest:
            raise ValueError(f"{run_dir} holds a run on other images of {config.dataset}: choose another --out or --name")
        return
    text = yaml.safe_dump(config.to_dict(), sort_keys=False)
    write_json(run_dir / "env.json", {**environment(), "data_digest": data_digest, "command": command_line()})
    replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Only one process at a time trains in a run directory; the lock ends with the process, however it ends.

    Raises:
        ValueError: another process holds it.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    with locks.hold(run_dir / locks.FILE) as free:
        if not free:
            raise ValueError(f"another process is training in {run_dir}")
        yield


def append_metrics(run_dir: Path, values: Mapping[str, Any]) -> None:
    """Add one line to `metrics.jsonl`."""
    with (run_dir / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(values) + "\n")


LEDGER_COLUMNS = ("round", "client", "direction", "kind", "messages", "raw_bytes", "encoded_bytes")


def append_ledger(run_dir: Path, rows: list[tuple[Any, ...]]) -> None:
    """Add a round's rows to `ledger.csv`."""
    path = run_dir / "ledger.csv"
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(LEDGER_COLUMNS)
        writer.writerows(rows)


def cut_back(run_dir: Path, *, step: int, round: int) -> None:
    """Drop metrics after `step` and ledger rows of `round` and later: a killed run may have written ahead of its checkpoint."""
    metrics = run_dir / "metrics.jsonl"
    if metrics.exists():
        kept = []
        for line in metrics.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except (json.JSONDecodeError, KeyError):
                continue  # the line that was being written when the process was killed
        replace_file(metrics, lambda temporary: temporary.write_text("".join(kept), encoding="utf-8"))
    ledger = run_dir / "ledger.csv"
    if ledger.exists():
        with ledger.open(newline="", encoding="utf-8") as file:
            rows = [r for r in csv.reader(file) if len(r) == len(LEDGER_COLUMNS)]
        text = io.StringIO(newline="")
        csv.writer(text).writerows(r for r in rows if not r[0].isdigit() or int(r[0]) < round)
        replace_file(ledger, lambda temporary: temporary.write_text(text.getvalue(), encoding="utf-8", newline=""))
