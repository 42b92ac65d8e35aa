"""`python -m ssl_split.models` prints the table, and one sentence for bad input."""

import subprocess
import sys

import pytest

from ssl_split.models.__main__ import COLUMNS, main


def _cells(output: str) -> dict[str, list[str]]:
    """Lines of the plain table by their first word."""
    return {line.split()[0]: line.split() for line in output.splitlines() if line.strip()}


def test_the_table_of_the_default_architecture(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    out = capsys.readouterr().out
    rows = _cells(out)
    assert rows["13"] == ["13", "stage", "3,", "block", "2", "7", "256x8x8", "16,384", "65,536", "2,775,104", "9,968,640",
                          "421,199,872", "135,790,592"]
    assert rows["0"][-6:] == ["3,072", "12,288", "0", "12,743,744", "0", "556,990,464"]
    assert rows["full"][1:4] == ["head", "9", "1024"]
    assert len(out.splitlines()) == 14  # title, names, 11 cuts, what to run next
    assert "backbone 11,168,832 parameters, head 1,574,912 parameters" in out
    assert out.splitlines()[-1] == "train with one: python -m ssl_split.train --cut 9"


def test_flags_reach_the_network(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--arch", "resnet50", "--width", "0.125", "--image-size", "64", "--stem", "imagenet", "--norm", "batch", "--head.out", "16"])
    rows = _cells(capsys.readouterr().out)
    assert rows["1"][3] == "8x16x16"
    assert rows["full"][3] == "16"
    assert len(rows) == 22


def test_a_bottleneck_stands_at_every_cut_in_turn(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--width", "0.25", "--bottleneck.channels", "4", "--bottleneck.stride", "2"])
    out = capsys.readouterr().out
    rows = _cells(out)
    assert "a bottleneck C4S2 at each cut" in out
    assert [row[-7] for cut, row in rows.items() if cut.isdigit()] == ["4x16x16"] * 3 + ["4x8x8"] * 2 + ["4x4x4"] * 2 + ["4x2x2"] * 2


def test_on_a_terminal_it_is_a_framed_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")
    main(["--arch", "mlp"])
    out = capsys.readouterr().out
    assert "┃" in out
    assert all(name in out for name in COLUMNS)
    assert "1,573,376" in out


@pytest.mark.parametrize(("flags", "message"), [
    (["--arch", "resnet19"], "arch = 'resnet19' does not exist: did you mean resnet1"),
    (["--width", "0"], "width = 0.0 is impossible"),
    (["--arch", "mlp", "--bottleneck.channels", "2"], "bottleneck.channels = 2 needs smashed data of shape (C, H, W)"),
    (["--image-sice", "3"], "unknown flag --image-sice: did you mean --image-size?"),
    (["--arch", "nowhere.py:build"], "arch = 'nowhere.py:build': there is no file nowhere.py"),
])
def test_bad_input_is_one_sentence(flags: list[str], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        main(flags)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_no_traceback_reaches_the_user() -> None:
    done = subprocess.run([sys.executable, "-m", "ssl_split.models", "--arch", "mlp", "--norm", "batch"], capture_output=True, text=True,
                          check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: norm = batch does not exist in mlp, only in resnet18, ")
    assert len(done.stderr.strip().splitlines()) == 1
