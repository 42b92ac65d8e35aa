"""`results.parquet` is `results.csv` with types."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import synthetic_runs as made

from ssl_split.report import build, parquet, rows
from ssl_split.report.collect import collect
from ssl_split.report.table import study


@pytest.mark.usefixtures("undrawn")
def test_same_rows_and_columns_with_types(tmp_path: Path) -> None:
    """A run without probes and attacks has a row too: its cells are empty there and null here."""
    reader = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed (extra: analysis)")
    made.make_study(tmp_path, cuts=(1, 9), seeds=1)
    made.make_run(tmp_path / "runs", cut=3, finished=False)
    build.write(tmp_path)
    table = reader.read_table(tmp_path / build.PARQUET)
    assert tuple(table.column_names) == rows.COLUMNS
    assert {name: str(table.schema.field(name).type) for name in ("cut", "accuracy", "strongest", "run", "target_accuracy", "verdict")} == {
        "cut": "int64", "accuracy": "double", "strongest": "bool", "run": "string", "target_accuracy": "double", "verdict": "string"}
    with (tmp_path / build.CSV).open(newline="", encoding="utf-8") as file:
        written = list(csv.DictReader(file))
    found = table.to_pylist()
    assert len(found) == len(written) == 17
    for ours, theirs in zip(found, written, strict=True):
        for name, value in ours.items():
            assert value == (float(theirs[name]) if isinstance(value, float) else theirs[name]) if isinstance(value, float | str) else (
                str(value) == theirs[name] if value is not None else theirs[name] == ""), name


def test_a_column_of_numbers_and_words_is_one_of_words(tmp_path: Path) -> None:
    reader = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed (extra: analysis)")
    made.make_run(tmp_path, cut=3)
    (made.make_run(tmp_path, cut=5) / "config.yaml").write_text("algorithm: fedavg\ncut: full\n")
    assert parquet.write(study(collect(tmp_path)), tmp_path / "results.parquet")
    table = reader.read_table(tmp_path / "results.parquet")
    assert sorted(table["cut"].to_pylist()) == ["3", "full"]


def test_without_the_extra_there_is_no_file_and_no_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made.make_run(tmp_path)
    (tmp_path / "results.parquet").write_text("of an earlier report")
    monkeypatch.setattr(parquet, "find_spec", lambda name: None)
    assert not parquet.write(study(collect(tmp_path)), tmp_path / "results.parquet")
    assert not (tmp_path / "results.parquet").exists()
