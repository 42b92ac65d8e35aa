"""Event files hold what the run's files hold, once, and the training knows nothing of them."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import synthetic_runs as made

from ssl_split import events, fields, runs, train
from ssl_split.list_runs.__main__ import main
from tests.train.tiny import tiny

needs_tensorboard = pytest.mark.skipif(not find_spec("tensorboard"),
                                       reason="tensorboard is not installed (extra: tensorboard)")


def read(run: Path) -> Any:
    """All that TensorBoard sees of a run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    return found.Reload()


def scalars(run: Path, name: str) -> list[tuple[int, float]]:
    """Step and value of a scalar, in the order of the file."""
    return [(e.step, e.value) for e in read(run).Scalars(name)]


def logged(run: Path, name: str) -> list[tuple[int, float]]:
    """The same from `metrics.jsonl`."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [(line["step"], pytest.approx(line[name], rel=1e-6)) for line in lines if name in line]


@needs_tensorboard
def test_runs_that_exist_get_event_files(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Metrics, results, verdicts and pictures; a second time changes nothing."""
    run = made.make_run(tmp_path)
    made.add_probe(run, 0.5)
    made.add_attack(run, 0.03)
    (_, changed) = runs.disk(run)
    for _ in range(2):
        assert main([str(tmp_path), "--tensorboard"]) == 0
        assert "tensorboard --logdir" in capsys.readouterr().out
        assert scalars(run, "training/loss") == logged(run, "loss")
        assert scalars(run, "divergence/online_to_momentum") == logged(run, "online_to_momentum")
        assert scalars(run, "validation/validation_knn.accuracy") == [(50, pytest.approx(0.45)), (100, pytest.approx(0.5))]
        assert scalars(run, "probe linear/accuracy") == [(100, 0.5)]
        assert scalars(run, "attack ridge/mse") == [(100, pytest.approx(0.03))]
        assert scalars(run, "result/attack_r2") == [(100, pytest.approx(1 - 0.03 / made.BLIND_MSE))]
        assert scalars(run, "result/mib_per_client") == [(100, 360.0)]
        found = read(run)
        (picture,) = found.Images("attack ridge/images")
        assert (picture.width, picture.height) == (8 * 34, 3 * 34)
        (text,) = found.Tensors("attack ridge/text_summary")
        assert text.tensor_proto.string_val[0] == b"A sentence."
        assert "_hparams_/session_start_info" in found.summary_metadata
    assert len(list((run / "tensorboard").iterdir())) == 2
    assert runs.disk(run)[1] == changed


@needs_tensorboard
def test_a_damaged_run_does_not_stop_the_others(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    bad, good = made.make_run(tmp_path, cut=1), made.make_run(tmp_path, cut=3)
    (bad / "result.json").write_text("{")
    assert main([str(tmp_path), "--tensorboard"]) == 1
    shown = capsys.readouterr()
    assert "result.json is damaged" in shown.err
    assert "wrote the event files of 1 run" in shown.out
    assert scalars(good, "training/loss") == logged(good, "loss")


@needs_tensorboard
def test_training_is_the_same_with_and_without(tmp_path: Path) -> None:
    """Name, metrics and last checkpoint's weights, bit by bit; the events are the metrics."""
    plain, watched = train.run(tiny(tmp_path / "a")), train.run(tiny(tmp_path / "b", tensorboard=True))
    assert plain.path.name == watched.path.name
    assert (plain.path / "metrics.jsonl").read_text() == (watched.path / "metrics.jsonl").read_text()
    weights = [run.checkpoint().network().state_dict() for run in (plain, watched)]
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0])
    assert not (plain.path / "tensorboard").exists()
    assert scalars(watched.path, "training/loss") == logged(watched.path, "loss") != []
    assert scalars(watched.path, "validation/validation_knn") == logged(watched.path, "validation_knn") != []
    assert len(scalars(watched.path, "result/mib_per_client")) == 1


@needs_tensorboard
def test_no_step_is_doubled_after_a_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after it has logged further than its checkpoint: those lines, and their events, are written anew."""
    config = tiny(tmp_path, tensorboard=True, checkpoint_every_seconds=0.0)
    real, calls = train._check_loss, []

    def break_off(loss: float, *others: Any) -> None:
        calls.append(loss)
        if len(calls) == 12:
            raise FloatingPointError("stopped")
        real(loss, *others)

    monkeypatch.setattr(train, "_check_loss", break_off)
    with pytest.raises(FloatingPointError, match="stopped"):
        train.run(config)
    ahead = {"step": 12, "round": 1, "loss": 99.0}
    with (config.run_dir / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(ahead) + "\n")
    events.write(config.run_dir)
    assert scalars(config.run_dir, "training/loss")[-1] == (12, 99.0)
    train.run(config, resume=True)
    found = scalars(config.run_dir, "training/loss")
    assert found == logged(config.run_dir, "loss")
    assert len({step for step, _ in found}) == len(found) > 3
    assert (12, 99.0) not in found


@needs_tensorboard
def test_lines_are_copied_while_they_are_written(tmp_path: Path) -> None:
    """A line without its end is left for the next time."""
    run = made.make_run(tmp_path, finished=False)
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "lo')
    follower = events.Follower(run)
    follower.catch_up()
    assert scalars(run, "training/loss") == [(1, 0.5)]
    with (run / "metrics.jsonl").open("a") as file:
        file.write('ss": 0.25}\n')
    follower.close()
    assert scalars(run, "training/loss") == [(1, 0.5), (2, 0.25)]


@needs_tensorboard
def test_a_failure_of_the_event_file_is_told_and_the_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                                      capsys: pytest.CaptureFixture) -> None:
    run = made.make_run(tmp_path)

    def full(self: events.Follower) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(events.Follower, "catch_up", full)
    with events.following(run):
        pass
    assert "No space left on device" in capsys.readouterr().err


def test_without_tensorboard_one_sentence_before_anything_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                                 capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    config = tiny(tmp_path / "new", tensorboard=True)
    with pytest.raises(ValueError, match=r"needs the package tensorboard: pip install 'ssl_split\[tensorboard\]'"):
        train.run(config)
    assert not config.run_dir.exists()
    made.make_run(tmp_path / "old")
    monkeypatch.setattr("sys.argv", ["list_runs", str(tmp_path / "old"), "--tensorboard"])
    assert fields.command(main) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
