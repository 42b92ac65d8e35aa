"""Bad input: one sentence, a non-zero exit, nothing lost."""

import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from tiny import TINY, tiny

from ssl_split import fields, files, resume, train
from ssl_split import run as runs
from ssl_split.algorithms.table import ALGORITHMS


def _main(argv: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> tuple[int, str]:
    monkeypatch.setattr("sys.argv", ["train", *argv])
    code = fields.command(train.main)
    return code, capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize(("argv", "message"), [
    (["--cut", "4"], "cut 4 does not exist in resnet18: legal cuts are 0, 1, 3, 5, 7, 9, 11, 13, 15, 17, full"),
    (["--algorithm", "mocofl"], "did you mean mocosfl?"),
    (["--dataset", "cifar10", "--data-dir", "/nonexistent-folder"], "/nonexistent-folder"),
    (["--dataset", "imagefolder"], "data"),
    (["--clients", "5000"], "5000"),
    (["--device", "cuda:99"], "cuda:99"),
    (["--device", "tpu9"], "tpu9"),
    (["--train-images", "999999"], "999999"),
    (["--partition.kind", "classes", "--partition.classes", "11"], "11"),
    (["--algorithm", "smofi", "--dataset", "photos"], "smofi learns from labels, and photos has none"),
    (["--algorithm", "smofi", "--optimiser-state", "keep"], "smofi.carry"),
    (["--clip-norm", "1"], "clip_norm is not read by monacosfl"),
    (["--algorithm", "smofi", "--clients-at-once", "2"], "clients_at_once is not read by smofi"),
    (["--optimiser", "adam"], "optimiser is not read by monacosfl"),
])
def test_commands_that_cannot_run(argv: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                  capsys: pytest.CaptureFixture) -> None:
    code, last = _main([*argv, "--out", str(tmp_path)], monkeypatch, capsys)
    assert code == 2
    assert last.startswith("error: ")
    assert message in last
    assert not list(tmp_path.iterdir()), "nothing was started"


def test_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = ALGORITHMS["monacosfl"].step

    def poisoned(self, state, batch, wire):
        metrics = original(self, state, batch, wire)
        return {**metrics, "loss": float("nan")} if state.step == 7 else metrics

    monkeypatch.setattr(ALGORITHMS["monacosfl"], "step", poisoned)
    config = tiny(tmp_path, checkpoint_every_seconds=0.0)
    with pytest.raises(FloatingPointError, match=r"loss is nan at step 7 .*step-00000006\.safetensors.*--client-lr"):
        train.run(config)
    assert runs.open_checkpoint(str(config.run_dir)).step == 6


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    config = tiny(tmp_path)
    training = train.Training(config)
    state = training.algorithm.init()
    saved = resume.Checkpoints(config.run_dir, {"config": config.to_dict(), "data_digest": "", "image_size": 16}, keep=2)
    saved.save(state, finished=False)
    state.trees["server.online"].flat[3] = float("inf")
    state.step = 1
    with pytest.raises(FloatingPointError, match=r"server\.online"):
        saved.save(state, finished=False)
    assert [p.name for p in runs.checkpoints(config.run_dir)] == ["step-00000000.safetensors"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train.run(tiny(tmp_path_factory.mktemp("runs"), max_steps=2)).path


def _copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / finished.name))


def test_truncated_checkpoint(finished: Path, tmp_path: Path) -> None:
    copy = _copy(finished, tmp_path)
    file = runs.checkpoints(copy)[-1]
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ValueError, match="truncated or damaged"):
        runs.open_checkpoint(str(copy)).network()


def test_pickle_is_not_read(tmp_path: Path) -> None:
    for name, save in (("old.pth", lambda p: pickle.dump({}, p.open("wb"))), ("new.pth", lambda p: torch.save({}, p))):
        save(tmp_path / name)
        with pytest.raises(ValueError, match="is a pickle"):
            runs.open_checkpoint(str(tmp_path / name))


def test_checkpoint_of_another_architecture(finished: Path, tmp_path: Path) -> None:
    copy = _copy(finished, tmp_path)
    file = runs.checkpoints(copy)[-1]
    header = runs.read_header(file)
    header["config"]["arch"] = "resnet34"
    files.write_tensors(file, runs.read_tensors(file), header)
    with pytest.raises(ValueError, match="do not fit resnet34"):
        runs.open_checkpoint(str(file)).network()


def test_missing_run_and_empty_runs_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        runs.open_checkpoint(str(tmp_path / "nothing"))
    with pytest.raises(FileNotFoundError, match="no finished run"):
        runs.open_checkpoint(None, out=str(tmp_path))
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        runs.open_checkpoint(str(tmp_path))


def test_newest_finished_run_is_taken_and_named(finished: Path, capsys: pytest.CaptureFixture) -> None:
    assert runs.open_checkpoint(None, out=str(finished.parent)).run_dir == finished
    assert finished.name in capsys.readouterr().err


def test_directory_of_another_configuration(finished: Path, tmp_path: Path) -> None:
    config = tiny(tmp_path, max_steps=3)
    shutil.copytree(finished, config.run_dir)
    (config.run_dir / "result.json").unlink()
    with pytest.raises(ValueError, match="another configuration"):
        train.run(config, resume=True)


def test_two_processes_cannot_train_in_one_directory(tmp_path: Path) -> None:
    config = tiny(tmp_path)
    with runs.locked(config.run_dir), pytest.raises(ValueError, match="another process"):
        train.run(config)


def test_full_disk_while_saving_keeps_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                          capsys: pytest.CaptureFixture) -> None:
    """The write of the third checkpoint fails as on a full disk."""


    real, calls = safetensors.torch.save_file, []

    def full(tensors, path, metadata):
        calls.append(path)
        if len(calls) == 3:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        real(tensors, path, metadata)

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    import yaml

    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({**TINY, "out": str(tmp_path / "runs"), "checkpoint_every_seconds": 0.0}))
    code, last = _main(["--config", str(path)], monkeypatch, capsys)
    assert code == 1
    assert "the disk is full" in last
    left = next((tmp_path / "runs").iterdir())
    assert [p.name for p in runs.checkpoints(left)] == ["step-00000001.safetensors", "step-00000002.safetensors"]
    assert not list(left.rglob("*.tmp"))


def test_ten_clients_on_uneven_data_all_train(tmp_path: Path) -> None:
    done = train.run(tiny(tmp_path, clients=10, partition={"kind": "quantity", "beta": 0.3}, max_steps=4))
    assert done.result["steps"] == 4


def test_a_reader_that_goes_away_is_no_error() -> None:
    """`... | head -1`: nothing on stderr. More is printed than a pipe holds, so that the writer always meets the closed end."""
    code = "import sys; from ssl_split import fields; sys.exit(fields.command(lambda words: print('\\n'.join(['line'] * 10**6))))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "line\n"
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1


def test_exhausted_memory_is_one_sentence_and_other_errors_are_not_hidden(capsys: pytest.CaptureFixture) -> None:
    def fail(text: str):
        def main(argv):
            raise RuntimeError(text)

        return main

    assert fields.command(fail("[enforce fail] DefaultCPUAllocator: can't allocate memory")) == 1
    assert "out of memory" in capsys.readouterr().err
    with pytest.raises(RuntimeError, match="shape"):
        fields.command(fail("shape mismatch"))


def test_a_trial_that_stops_between_syncs_leaves_the_trained_client(tmp_path: Path) -> None:
    done = train.run(tiny(tmp_path, max_steps=2))
    checkpoint = done.checkpoint()
    trained, initial = checkpoint.network().client.state_dict(), checkpoint.untrained().client.state_dict()
    assert any(not torch.equal(trained[name], initial[name]) for name in trained)
