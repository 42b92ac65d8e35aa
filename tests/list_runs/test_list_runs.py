"""The list of runs shows what their files hold, and a damaged file stops nothing but its own number."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import synthetic_runs as made

from ssl_split import fields, locks, runs
from ssl_split.list_runs import listing
from ssl_split.list_runs.__main__ import main


def listed(capsys: pytest.CaptureFixture, *words: object) -> list[dict[str, Any]]:
    """What `--json` prints."""
    assert main([*map(str, words), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, list)
    return found


def unfinished(out: Path, **values: Any) -> Path:
    """A run that was killed in its eleventh round (metrics end in round number 10, counted from 0); its lock is free."""
    run = made.make_run(out, finished=False, rounds=200, **values)
    (run / ".lock").touch()
    return run


def error(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> str:
    """The one sentence of a refusal."""
    monkeypatch.setattr("sys.argv", ["list_runs", *words])
    assert fields.command(main) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


def test_numbers_are_those_of_the_files(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """2 algorithms x 2 cuts x 2 seeds; ridge is the strongest on validation images though the decoder is better on the targets."""
    made.make_study(tmp_path, cuts=(1, 9), seeds=2)
    found = listed(capsys, tmp_path)
    assert len(found) == 8
    for row in found:
        place = (row["algorithm"], row["cut"], row["seed"])
        accuracy, mse = made.accuracy_of(*place), made.mse_of(*place)
        assert tuple(row) == runs.COLUMNS
        assert (row["accuracy"], row["accuracy_low"], row["accuracy_high"]) == (accuracy, accuracy - 0.01, accuracy + 0.01)
        assert (row["attack"], row["attack_measure"], row["attack_value"]) == ("ridge", "R2", 1 - mse / made.BLIND_MSE)
        assert row["mib_per_client"] == 100 + row["cut"] * (20 if row["algorithm"] == "monacosfl" else 10)
        assert (row["state"], row["round"], row["rounds"], row["problems"]) == ("finished", 10, 10, None)
        assert row["bytes_on_disk"] == sum(p.stat().st_size for p in Path(row["directory"]).rglob("*") if p.is_file())


def test_sweeps_below_a_folder_are_found_and_attacks_are_no_runs(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    made.make_study(tmp_path / "sweeps" / "a", cuts=(1,), seeds=1)
    made.make_run(tmp_path / "runs", cut=3)
    inner = made.make_run(tmp_path / "runs" / ".rulers", cut=5)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "config.yaml").write_text("algorithm: moco\n")
    assert inner.is_dir()
    found = sorted((row["cut"], row["algorithm"]) for row in listed(capsys, tmp_path))
    assert found == [(1, "mocosfl"), (1, "monacosfl"), (3, "monacosfl")]


def test_states(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Stopped, running (its lock is held by another process), finished."""
    made.make_run(tmp_path, cut=1)
    unfinished(tmp_path, cut=3)
    held = unfinished(tmp_path, cut=5)
    hold = ("import pathlib, sys\nfrom ssl_split import locks\n"
            "with locks.hold(pathlib.Path(sys.argv[1])) as free:\n    print(free, flush=True)\n    sys.stdin.read()")
    with subprocess.Popen([sys.executable, "-c", hold, str(held / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"True\n"
        found = {row["cut"]: listing.state(row) for row in listed(capsys, tmp_path)}
        assert process.stdin is not None
        process.stdin.close()
    assert found == {1: "finished", 3: "stopped at round 11 of 200", 5: "running in round 11 of 200"}
    assert {row["cut"]: row["state"] for row in listed(capsys, tmp_path)}[5] == "stopped"


def test_looking_at_a_lock_does_not_take_it(tmp_path: Path) -> None:
    file = tmp_path / ".lock"
    assert not locks.is_held(file)
    with locks.hold(file) as free:
        assert free
        assert locks.is_held(file)
        with locks.hold(file) as again:
            assert not again
    assert not locks.is_held(file)
    with locks.hold(file) as free:
        assert free


def test_jobs_of_a_sweep_say_why_a_training_failed(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """One failed after its first steps, one before it made a directory; one has not begun, and is no run yet."""
    run = unfinished(tmp_path / "runs", cut=1)

    def job(name: str, state: str, reason: str | None) -> dict[str, Any]:
        return {"label": "train", "state": state, "reason": reason, "run": f"runs/{name}", "stage": None, "setting": {"cut": 9}}

    made.write_json(tmp_path / "jobs.json", {"jobs": [job(run.name, "failed", "the loss is nan"), job("gone", "failed", "no such images"),
                                                      job("later", "waiting", None)]})
    for directory in (tmp_path, tmp_path / "runs"):
        found = {row["run"]: (row["state"], row["reason"]) for row in listed(capsys, directory)}
        assert found == {run.name: ("failed", "the loss is nan"), "gone": ("failed", "no such images")}


@pytest.mark.parametrize(("file", "said"), [
    ("result.json", "result.json in NAME is damaged"), ("config.yaml", "config.yaml in NAME is damaged"),
    ("env.json", "env.json in NAME is damaged"), ("probes/*/result.json", "result.json in linear-backbone"),
    ("attacks/ridge*/result.json", "result.json in ridge-")])
@pytest.mark.parametrize("cut_off", [True, False])
def test_a_damaged_file_is_said_and_the_others_are_listed(file: str, said: str, cut_off: bool, tmp_path: Path,
                                                          capsys: pytest.CaptureFixture) -> None:
    """Truncated in the middle, or overwritten with what is no text."""
    made.make_study(tmp_path, cuts=(1,), seeds=2, algorithms=("mocosfl",))
    broken = sorted((tmp_path / "runs").iterdir())[0]
    (path,) = broken.glob(file)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] + (b": {" if path.suffix == ".yaml" else b"") if cut_off else b"\x00\xff\xfe")
    found = {row["run"]: row for row in listed(capsys, tmp_path)}
    assert len(found) == 2
    assert said.replace("NAME", broken.name) in found.pop(broken.name)["problems"]
    assert [row["problems"] for row in found.values()] == [None]
    assert main([str(tmp_path)]) == 0
    assert "is damaged" in capsys.readouterr().out


def test_a_damaged_job_list_is_said(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    made.make_run(tmp_path / "runs")
    (tmp_path / "jobs.json").write_text('{"jobs": [')
    assert main([str(tmp_path)]) == 0
    shown = capsys.readouterr()
    assert "jobs.json is damaged" in shown.err
    assert "monacosfl-cifar10-cut13" in shown.out


def test_a_lost_configuration_is_still_a_run(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (made.make_run(tmp_path) / "config.yaml").unlink()
    (row,) = listed(capsys, tmp_path)
    assert (row["algorithm"], row["state"]) == ("?", "finished")


def test_leakage_where_nothing_was_rebuilt(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Membership before labels, the higher AUC of two."""
    run = made.make_run(tmp_path)
    for name, values in (("membership-norm", {"auc": 0.55}), ("membership-lira", {"auc": 0.6, "low": 0.58, "high": 0.62}),
                         ("label-fewshot", {"rows": [{"accuracy": 0.9}], "chance": 0.1})):
        made.write_json(run / "attacks" / f"{name}-1" / "result.json", {"kind": "attack", "name": name, "options": {}, **values})
    (row,) = listed(capsys, tmp_path)
    assert (row["attack"], row["attack_measure"], row["attack_value"], row["attack_low"], row["attack_high"]) == (
        "membership-lira", "AUC", 0.6, 0.58, 0.62)


@pytest.mark.parametrize(("where", "cuts"), [
    (["cut=9"], [9, 9]), (["cut=1,9"], [1, 1, 9, 9]), (["cut!=9"], [1, 1, 17, 17]), (["algorithm=monacosfl", "cut=17"], [17]),
    (["algorithm=mona*"], [1, 9, 17]), (["width=1.0", "cut=1"], [1, 1]), (["clients_per_round=none", "cut=1"], [1, 1]),
    (["partition.kind=shards", "cut=1", "algorithm=mocosfl"], [1]), (["state=stopped"], [])])
def test_where(where: list[str], cuts: list[int], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    made.make_study(tmp_path, seeds=1)
    assert sorted(row["cut"] for row in listed(capsys, tmp_path, "--where", *where)) == cuts


def test_sorting_puts_what_is_not_known_last(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    made.make_study(tmp_path, seeds=1, algorithms=("mocosfl",))
    unfinished(tmp_path / "runs", cut=3)
    for words, cuts in ((["--sort", "accuracy"], [17, 9, 1, 3]), (["--sort", "accuracy", "--reverse"], [1, 9, 17, 3]),
                        (["--sort", "cut"], [1, 3, 9, 17])):
        assert [row["cut"] for row in listed(capsys, tmp_path, *words)] == cuts


def test_csv_and_further_columns(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    made.make_run(tmp_path, width=0.5)
    assert main([str(tmp_path), "--csv", "--show", "width", "partition.kind"]) == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert tuple(row) == (*runs.COLUMNS, "width", "partition.kind")
    assert (row["width"], row["partition.kind"], row["accuracy"]) == ("0.5", "shards", "0.5")


def test_comparison_shows_what_differs_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    a, b = (made.make_run(tmp_path, seed=seed, partition={"kind": "dirichlet", "beta": 0.1 + seed}) for seed in (0, 1))
    made.write_json(b / "env.json", {"ssl_split": "0.1.0", "commit": "def5678", "python": "3.11", "processor": "test machine",
                                     "packages": {"torch": "2.7"}})
    made.add_probe(a, 0.5)
    made.add_attack(b, 0.03)
    assert main([str(tmp_path), "--compare", a.name, str(b), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["configuration"] == {"seed": [0, 1], "partition.beta": [0.1, 1.1]}
    assert found["environment"] == {"commit": ["abc1234", "def5678"], "packages.torch": ["2.6", "2.7"]}
    assert found["results"][0]["linear accuracy"] == {"value": 0.5, "low": 0.49, "high": 0.51}
    assert found["results"][0]["linear accuracy, untrained"]["value"] == made.UNTRAINED
    assert found["results"][1]["ridge mse"] == {"value": 0.03, "low": 0.03 - 0.001, "high": 0.03 + 0.001}
    assert main(["--compare", str(a), str(b)]) == 0
    lines = {line.split("  ")[0]: line for line in capsys.readouterr().out.splitlines()}
    assert lines["partition.beta"].split() == ["partition.beta", "0.1", "1.1"]
    assert lines["ridge mse"].split(maxsplit=2)[2] == "–                  0.03 [0.029, 0.031]"
    assert "width" not in lines


@pytest.mark.parametrize(("words", "said"), [
    (["--where", "algoritm=moco"], "did you mean algorithm?"), (["--where", "cut"], "no FIELD=VALUE"), (["--sort", "acuracy"], "accuracy"),
    (["--compare", "cut1"], "two runs or more"), (["--compare", "cut1-", "cut99"], "there is no run cut99"),
    (["--compare", "monacosfl", "cut1-"], "may be any of"), (["--json", "--csv"], "not both"), (["--yes"], "--remove"),
    (["--remove"], "by name or by --where"), (["--shw", "cut"], "--shw"), (["--show", "widht"], "did you mean width?")])
def test_refusals(words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    for cut in (1, 3):
        made.make_run(tmp_path, cut=cut)
    assert said in error([str(tmp_path), *words], monkeypatch, capsys)


def test_a_folder_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    assert error([str(tmp_path / "none")], monkeypatch, capsys) == f"error: there is no directory {tmp_path / 'none'}"


def test_help_and_list_do_not_import_pytorch(tmp_path: Path) -> None:
    """A list is looked at often."""
    made.make_study(tmp_path, cuts=(1,), seeds=1)
    program = ("import sys; from ssl_split.list_runs.__main__ import main; main([sys.argv[1]]); "
               "print([m for m in ('torch', 'pandas', 'tensorboard', 'matplotlib') if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert len(done.stdout.splitlines()) == 4
