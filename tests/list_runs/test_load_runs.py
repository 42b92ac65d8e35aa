"""The tables for notebooks hold the numbers of the files; without pandas one sentence says what is missing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import synthetic_runs as made

import ssl_split
from ssl_split import runs
from ssl_split.report import rows

pandas = pytest.importorskip("pandas", reason="pandas is not installed (extra: analysis)")


def test_one_row_for_each_run_with_configuration_results_and_paths(tmp_path: Path) -> None:
    made.make_study(tmp_path, cuts=(1, 9), seeds=2)
    table = ssl_split.load_runs(tmp_path)
    assert len(table) == 8
    assert list(table.columns[: len(runs.COLUMNS)]) == list(runs.COLUMNS)
    assert table["cut"].dtype == "int64"
    assert table["accuracy"].dtype == "float64"
    assert str(table["changed"].dtype).startswith("datetime64")
    for _, row in table.iterrows():
        place = (row["algorithm"], row["cut"], row["seed"])
        accuracy, mse = made.accuracy_of(*place), made.mse_of(*place)
        assert (row["probe.linear.accuracy"], row["probe.linear.low"]) == (accuracy, accuracy - 0.01)
        assert row["probe.linear.untrained_accuracy"] == made.UNTRAINED
        assert (row["attack.ridge.mse"], row["attack.ridge.mse_low"], row["attack.ridge.mse_high"]) == (mse, mse - 0.001, mse + 0.001)
        assert row["attack.decoder.mse"] == mse - 0.0001
        assert row["attack_value"] == row["attack.ridge.r2"]
        assert row["result.mib_per_client"] == row["mib_per_client"] == 100 + row["cut"] * (20 if place[0] == "monacosfl" else 10)
        assert row["result.bytes.up.act_up"] == 1048576
        assert (row["partition.kind"], row["width"], row["environment.commit"]) == ("shards", 1.0, "abc1234")
        assert (Path(row["directory"]) / "config.yaml").is_file()
    assert len(table.query("algorithm == 'monacosfl' and cut == 9")) == 2


def test_leakage_that_is_no_picture_has_its_columns(tmp_path: Path) -> None:
    run = made.make_run(tmp_path)
    made.write_json(run / "attacks" / "m-1" / "result.json", {"kind": "attack", "name": "membership-norm", "options": {}, "auc": 0.6,
                                                              "low": 0.58, "high": 0.62})
    (row,) = ssl_split.load_runs(tmp_path).to_dict("records")
    assert [row[f"attack.membership-norm.auc{end}"] for end in ("", "_low", "_high")] == [0.6, 0.58, 0.62]


def test_curves_in_long_form(tmp_path: Path) -> None:
    """Ten lines with four numbers, two validations with three, from each of two runs."""
    for cut in (1, 3):
        run = made.make_run(tmp_path, cut=cut)
    table = ssl_split.load_curves(tmp_path)
    assert len(table) == 2 * (10 * 4 + 2 * 3)
    own = table[table["run"] == run.name]
    loss = own[own["metric"] == "loss"].set_index("step")["value"]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert loss.to_dict() == {line["step"]: line["loss"] for line in lines if "loss" in line}
    assert own[own["metric"] == "validation_knn.accuracy"]["value"].tolist() == [0.45, 0.5]


def test_outcomes_are_the_rows_of_the_report(tmp_path: Path) -> None:
    made.make_study(tmp_path, cuts=(1,), seeds=1)
    table = ssl_split.load_outcomes(tmp_path)
    assert tuple(table.columns) == rows.COLUMNS
    assert sorted(table["name"]) == sorted(2 * ["linear", "ridge", "decoder", "blind"])


def test_damaged_files_and_job_lists_are_told(tmp_path: Path) -> None:
    run = made.make_run(tmp_path / "runs")
    (run / "result.json").write_text('{"finished": tr')
    (tmp_path / "jobs.json").write_text("[]")
    with pytest.warns(UserWarning, match=r"jobs\.json is damaged"):
        (row,) = ssl_split.load_runs(tmp_path).to_dict("records")
    assert row["problems"] == f"result.json in {run.name} is damaged"
    assert pandas.isna(row["accuracy"])


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no run in"):
        ssl_split.load_runs(tmp_path)


def test_without_pandas_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made.make_run(tmp_path)
    monkeypatch.setitem(sys.modules, "pandas", None)
    for load in (ssl_split.load_runs, ssl_split.load_curves, ssl_split.load_outcomes):
        with pytest.raises(ValueError, match=r"needs the package pandas: pip install 'ssl_split\[analysis\]'"):
            load(tmp_path)


def test_the_package_alone_imports_nothing_heavy() -> None:
    program = "import ssl_split, sys; print([m for m in ('torch', 'pandas', 'yaml') if m in sys.modules]); ssl_split.nothing"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]"
    assert "AttributeError: module 'ssl_split' has no attribute 'nothing'" in done.stderr
