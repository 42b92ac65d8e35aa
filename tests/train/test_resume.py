"""A run that was killed and resumed ends bitwise where an uninterrupted one does."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import brief, tiny

from ssl_split import run as runs
from ssl_split import train
from ssl_split.algorithms.table import ALGORITHMS
from ssl_split.config import FEDERATED, FEDERATED_SSL, Config


class Killed(Exception):
    """Stands for a process that dies between two steps."""


def _die_at(monkeypatch: pytest.MonkeyPatch, algorithm: str, step: int) -> None:
    original = ALGORITHMS[algorithm].step

    def dying(self, state, batch, wire):
        if state.step == step:
            raise Killed
        return original(self, state, batch, wire)

    monkeypatch.setattr(ALGORITHMS[algorithm], "step", dying)


def _assert_same_end(a: Path, b: Path) -> None:
    last_a, last_b = runs.checkpoints(a)[-1], runs.checkpoints(b)[-1]
    assert last_a.name == last_b.name
    tensors_a, tensors_b = load_file(last_a), load_file(last_b)
    assert tensors_a.keys() == tensors_b.keys()
    assert len(tensors_a) > 20
    for name in tensors_a:
        assert torch.equal(tensors_a[name], tensors_b[name]), name
    rows_a, rows_b = (_rows(p) for p in (last_a, last_b))
    assert rows_a.keys() == rows_b.keys()
    assert all(torch.equal(rows_a[k], rows_b[k]) for k in rows_a)
    assert (a / "metrics.jsonl").read_text() == (b / "metrics.jsonl").read_text()
    assert (a / "ledger.csv").read_text() == (b / "ledger.csv").read_text()
    results = [json.loads((p / "result.json").read_text()) for p in (a, b)]
    for result in results:
        for key in ("seconds", "images_per_second", "command"):
            del result[key]
    assert results[0] == results[1]


def _rows(path: Path) -> dict[str, torch.Tensor]:
    index = runs.read_header(path)["rows"]
    return {key: load_file(path.parent / shard)[key] for key, shard in index.items()}


UNEVEN = {"partition": {"kind": "quantity", "beta": 1.0}}
SETTINGS = {
    "monacosfl": {"algorithm": "monacosfl"},
    "mocosfl, 2 of 4 clients drawn, uneven": {"algorithm": "mocosfl", "clients": 4, "clients_per_round": 2, "rounds": 3,
                                              "partition": {"kind": "quantity", "beta": 1.0}},
    "monacosfl, aligned every third sync, 2 of 4": {"algorithm": "monacosfl", "clients": 4, "clients_per_round": 2, "rounds": 3,
                                                    "monacosfl": {"every_syncs": 3}},
    "monacosfl, messages lost, 2 of 4 clients": {"algorithm": "monacosfl", "clients": 4, "clients_per_round": 2, "rounds": 3,
                                                 "loss": {"probability": 0.2, "dropout": 0.1}},
    "smofi, messages lost": {"algorithm": "smofi", "loss": {"probability": 0.2}, **UNEVEN},
    "moco": {"algorithm": "moco"},
    "sfl_v1, 2 of 4 clients one after another, momentum kept and over rounds": {
        "algorithm": "sfl_v1", "clients": 4, "clients_per_round": 2, "clients_at_once": 1, "rounds": 3, "optimiser_state": "keep",
        "outer": {"kind": "slowmo"}, **UNEVEN},
    "sfl_v1, adam": {"algorithm": "sfl_v1", "optimiser": "adam", "client_lr": 0.001, "server_lr": 0.001, **UNEVEN},
    "sfl_v2": {"algorithm": "sfl_v2", **UNEVEN},
    "minibatch_sfl": {"algorithm": "minibatch_sfl", **UNEVEN},
    "smofi, carried": {"algorithm": "smofi", "smofi": {"carry": True}, **UNEVEN},
    "mu_splitfed": {"algorithm": "mu_splitfed", "momentum": 0.0, **UNEVEN},
    "gas, 2 of 4 clients at work, stragglers": {"algorithm": "gas", "clients": 4, "clients_per_round": 2, "rounds": 4, "local_steps": 4,
                                               "network": {"compute": "cell", "link": "cell"}, "gas": {"buffer": 1},
                                               "divergence_every_rounds": 2},
    "split_learning": {"algorithm": "split_learning", **UNEVEN},
    "centralised": {"algorithm": "centralised", "optimiser_state": "keep"},
    **{name: {"algorithm": name, "cut": "full", "clients": 4, "clients_per_round": 2, "rounds": 3, "momentum": 0.0, **UNEVEN}
       for name in FEDERATED},
    **{name: {"algorithm": name, "cut": cut, "clients": 4, "clients_per_round": 2, "rounds": 4, **UNEVEN}
       for name, cut in zip(FEDERATED_SSL, ("full", "full", 5), strict=True)},
    "fedwmsam, split": {"algorithm": "fedwmsam", "clients": 4, "clients_per_round": 2, "rounds": 3, "clients_at_once": 1,
                        "perturbation_every_rounds": 1, **UNEVEN},
}


KILLED = ("monacosfl", "mocosfl, 2 of 4 clients drawn, uneven", "gas, 2 of 4 clients at work, stragglers",
          "sfl_v1, 2 of 4 clients one after another, momentum kept and over rounds")
"""One setting for each kind of state: shared rows, private rows, buffers and arrivals, momentum kept and over rounds. They die in a
training of their own; of the others a copy of the directory is resumed, which takes half the time (all die among the slow tests)."""


def test_every_algorithm_is_resumed_here() -> None:
    assert {s["algorithm"] for s in SETTINGS.values()} == set(ALGORITHMS)
    assert len(set(KILLED) & set(SETTINGS)) == 4


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in KILLED else pytest.mark.slow) for n in SETTINGS])
def test_resumed_run_ends_where_an_uninterrupted_one_does(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint every few steps (seconds=0: every step), death inside the second round, resume."""
    settings = SETTINGS[name]
    whole = train.run(brief(tmp_path / "whole", **settings))
    config = brief(tmp_path / "killed", checkpoint_every_seconds=0.0, **settings)
    with monkeypatch.context() as patch:
        _die_at(patch, settings["algorithm"], whole.result["steps"] // 2 + 3)
        with pytest.raises(Killed):
            train.run(config)
    with pytest.raises(ValueError, match="unfinished run .* add --resume"):
        train.run(config)
    behind = runs.read_header(runs.checkpoints(config.run_dir)[-1])["seconds"]
    resumed = train.run(config, resume=True)
    _assert_same_end(whole.path, resumed.path)
    assert resumed.result["seconds"] > behind > 0


@pytest.mark.parametrize("name", [n for n in SETTINGS if n not in KILLED])
def test_what_is_there_in_the_middle_is_enough_to_reach_the_end(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory of a run as it is inside the second round, where a process could die: resumed, it ends where the run does."""
    settings = SETTINGS[name]
    config, left = (brief(tmp_path / name, checkpoint_every_seconds=0.0, **settings) for name in ("whole", "killed"))
    with monkeypatch.context() as patch:
        _copy_inside_the_second_round(patch, settings["algorithm"], config.run_dir, left.run_dir)
        whole = train.run(config)
    assert not (left.run_dir / "result.json").exists()
    copied = runs.checkpoints(left.run_dir)[-1]
    resumed = train.run(left, resume=True)
    assert copied.name < runs.checkpoints(resumed.path)[-1].name
    _assert_same_end(whole.path, resumed.path)


def _copy_inside_the_second_round(monkeypatch: pytest.MonkeyPatch, algorithm: str, folder: Path, copy: Path) -> None:
    """Copy the run directory before a step; later only the end is saved."""
    step, save = ALGORITHMS[algorithm].step, train._save

    def copying(self, state, batch, wire):
        if state.round == 1 and state.step_in_round >= 2 and not copy.exists():
            shutil.copytree(folder, copy)
        return step(self, state, batch, wire)

    def saving(saved, state, *, finished):
        return saved.folder if copy.exists() and not finished else save(saved, state, finished=finished)

    monkeypatch.setattr(ALGORITHMS[algorithm], "step", copying)
    monkeypatch.setattr(train, "_save", saving)


def test_metrics_written_ahead_of_the_checkpoint_are_cut_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No checkpoint inside a round: death after a sync leaves metrics that the resumed run must write again, not twice."""
    whole = train.run(brief(tmp_path / "whole"))
    config = brief(tmp_path / "killed", checkpoint_every_seconds=0.0)
    with monkeypatch.context() as patch:
        patch.setattr(train, "_save", _saving_at_round_ends(train._save))
        _die_at(patch, "monacosfl", 9)
        with pytest.raises(Killed):
            train.run(config)
    assert [p.name for p in runs.checkpoints(config.run_dir)] == ["step-00000005.safetensors"]
    lines = (config.run_dir / "metrics.jsonl").read_text()
    (config.run_dir / "metrics.jsonl").write_text(lines + '{"step": 9')  # a torn last line
    _assert_same_end(whole.path, train.run(config, resume=True).path)


def test_death_before_the_first_checkpoint_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train.run(brief(tmp_path / "whole"))
    config = brief(tmp_path / "killed")
    with monkeypatch.context() as patch:
        patch.setattr(train, "_save", lambda saved, state, *, finished: saved.folder)
        _die_at(patch, "monacosfl", 9)
        with pytest.raises(Killed):
            train.run(config)
    assert (config.run_dir / "metrics.jsonl").stat().st_size > 0
    _assert_same_end(whole.path, train.run(config).path)


def _saving_at_round_ends(save):
    def saving(saved, state, *, finished):
        return save(saved, state, finished=finished) if state.step_in_round == 0 else saved.folder

    return saving


def _start(config: Config, *flags: str) -> subprocess.Popen:
    path = Path(config.out) / "config.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    import yaml

    path.write_text(yaml.safe_dump(config.to_dict()))
    command = [sys.executable, "-m", "ssl_split.train", "--config", str(path), *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env={**os.environ, "OMP_NUM_THREADS": "1"})


def _wait_for_checkpoint(config: Config, process: subprocess.Popen, *, after: str = "", seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        if any(path.name > after for path in runs.checkpoints(config.run_dir)):
            return
        time.sleep(0.02)
    raise AssertionError(f"no checkpoint: {process.communicate()}")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_sigterm_saves_and_names_resume_and_kill_9_loses_nothing(tmp_path: Path) -> None:
    settings = {"rounds": 20, "validate_every_rounds": 0}
    config = brief(tmp_path / "killed", checkpoint_every_seconds=0.0, **settings)
    first = _start(config)
    _wait_for_checkpoint(config, first)
    first.send_signal(signal.SIGTERM)
    _, errors = first.communicate(timeout=60)
    assert first.returncode == 143, errors
    assert "--resume" in errors.splitlines()[-1]
    second = _start(config, "--resume")
    _wait_for_checkpoint(config, second, after=runs.checkpoints(config.run_dir)[-1].name)
    second.kill()
    second.communicate()
    assert not (config.run_dir / "result.json").exists()
    assert train.run(config, resume=True).path == config.run_dir
    _assert_same_end(train.run(brief(tmp_path / "whole", **settings)).path, config.run_dir)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_kill_9_at_random_moments(tmp_path: Path) -> None:
    """Client rows in shards, a checkpoint at every step, ten kills at random times."""
    settings = {"algorithm": "mocosfl", "clients": 4, "clients_per_round": 2, "rounds": 10}
    whole = train.run(tiny(tmp_path / "whole", **settings))
    config = tiny(tmp_path / "killed", checkpoint_every_seconds=0.0, **settings)
    dice = random.Random(0)
    for _ in range(10):
        process = _start(config, "--resume")
        time.sleep(3 + 4 * dice.random())
        process.kill()
        process.communicate()
    process = _start(config, "--resume")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    _assert_same_end(whole.path, config.run_dir)
    assert not list(config.run_dir.rglob("*.tmp"))


def test_finished_run_is_returned_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = brief(tmp_path, max_steps=3)
    first = train.run(config)
    _die_at(monkeypatch, "monacosfl", 0)
    assert train.run(config).result == first.result


def test_superfluous_checkpoints_and_shards_are_deleted(tmp_path: Path) -> None:
    config = brief(tmp_path, algorithm="mocosfl", clients=4, clients_per_round=2, rounds=5, checkpoint_every_seconds=0.0)
    train.run(config)
    folder = config.run_dir / "checkpoints"
    kept = runs.checkpoints(config.run_dir)
    assert len(kept) == 2
    named = {shard for path in kept for shard in runs.read_header(path)["rows"].values()}
    assert {p.name for p in folder.glob("clients-*")} == named
    assert named
