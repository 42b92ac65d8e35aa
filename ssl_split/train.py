"""The only training loop, and its command line."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from probes import classifier, knn
from ssl_split import allocator, display, events, fields, precision, record
from ssl_split import config as configuration
from ssl_split import resume as resuming
from ssl_split import run as runs
from ssl_split.algorithms.api import State
from ssl_split.channel import Channel, Tap
from ssl_split.clock import Clock, absent
from ssl_split.config import Config
from ssl_split.data.images import Dataset
from ssl_split.data.partition import describe
from ssl_split.delivery import Delivery
from ssl_split.summary import summarise
from ssl_split.traffic import MIB
from ssl_split.training import Training


@dataclass(frozen=True)
class Run:
    """A finished run: its directory and its `result.json`."""

    path: Path
    result: dict[str, Any]

    def checkpoint(self) -> runs.Checkpoint:
        """The last checkpoint, for probes and attacks."""
        return runs.open_checkpoint(str(self.path))


class Stopped(Exception):
    """Training was asked to stop and has saved its state."""

    def __init__(self, path: Path, step: int, code: int) -> None:
        super().__init__(f"stopped at step {step}; the same command with --resume goes on from {path}")
        self.code = code


def run(config: Config, *, resume: bool = False, tamper: Tap | None = None, on_log: Callable[[str], None] | None = None,
        dataset: Dataset | None = None) -> Run:
    """Train to the end, or go on with a run that was interrupted.

    Args:
        config: What to train.
        resume: Go on from the newest checkpoint instead of refusing an unfinished run.
        tamper: A malicious server's hand on the wire. What it did is not in a checkpoint, so such a run cannot be resumed, and it must
            not be in the place of an honest one: give it a `name` or `out` of its own.
        on_log: Receives the lines that say what is trained; default: stderr.
        dataset: Images to train on instead of the configured ones, for an attacker who trains encoders of his own. The run's name does
            not tell them apart: other images belong into another `config.out`.

    Returns:
        The finished run; one that had finished before is returned as it is. Where its `result.json` is damaged it is not finished.

    Raises:
        ValueError, FileNotFoundError: the configuration cannot run; nothing is lost.
        FloatingPointError: the loss is not finite; the last good checkpoint stays.
        Stopped: SIGTERM or Ctrl-C, after saving.
    """
    log = on_log or (lambda line: print(line, file=sys.stderr))
    folder = config.run_dir
    if tamper is not None and (resume or folder.exists()):
        raise ValueError(f"{folder} exists or is to be resumed: a run whose wire is tampered with starts in a folder of its own")
    if tamper is not None and config.record_wire:
        raise ValueError("record_wire keeps what an honest server sends; it cannot be had with tamper")
    if config.tensorboard:
        events.check()
    if (known := _result(folder)) is not None:
        if config.tensorboard:
            events.write(folder)
        return Run(folder, known)
    newest = resuming.newest_readable(folder)
    if newest is not None and not resume:
        raise ValueError(f"{folder} holds an unfinished run (step {runs.read_header(newest)['step']}): add --resume to go on with it")
    if config.threads:
        torch.set_num_threads(config.threads)
    training = Training(config, dataset)
    with runs.locked(folder):
        runs.claim(folder, config, training.dataset.digest)
        header = {"format": 1, "config": config.to_dict(), "data_digest": training.dataset.digest, "image_size": training.dataset.size,
                  "classes": training.classes}
        saved = resuming.Checkpoints(folder, header, keep=config.keep_checkpoints)
        state = training.algorithm.init()
        state.tensors.setdefault("clock", torch.zeros(len(state.positions), dtype=torch.float64))
        state.tensors.setdefault("flops", torch.zeros(len(state.positions) + 1, dtype=torch.float64))
        state.tensors.setdefault("presence", absent(len(state.positions)))
        if newest is not None:
            saved.load(newest, state)
        else:
            training.pretrain_defence()
        runs.cut_back(folder, step=state.step, round=state.round)
        if newest is not None:
            log(f"resuming {folder} at step {state.step} of {training.total_steps}")
        log(_headline(training))
        with events.following(folder) if config.tensorboard else nullcontext():
            with _stop_signals() as stopped:
                seconds = -time.monotonic()
                seen = _loop(training, state, saved, stopped, tamper)
                seconds += time.monotonic()
            result = summarise(training, state, images=seen, seconds=seconds, before=saved.before)
            runs.write_json(folder / "result.json", result)
    return Run(folder, result)


def _result(folder: Path) -> dict[str, Any] | None:
    """What a finished run's `result.json` says; None where there is none, or a damaged one, which is written anew."""
    file = folder / "result.json"
    try:
        values = runs.read_json(file) if file.is_file() else None
    except ValueError:
        return None
    return values if isinstance(values, dict) and values.get("finished") else None


def _headline(training: Training) -> str:
    config, dataset = training.config, training.dataset
    held = f"sentences of {dataset.size} tokens" if dataset.is_text else f"images of {dataset.size}x{dataset.size}"
    slow = precision.advice(config.precision, training.device)
    return (f"{config.algorithm} on {dataset.name} ({len(dataset.train)} training {held}), {config.arch} "
            f"x{config.width:g} cut at {config.cut}, {config.cohort_size} of {config.clients} clients, B {config.batch_size}, "
            f"{config.rounds} rounds of {_span(training.lengths)} steps, {config.precision} on {training.device}\n"
            + describe(training.parts, dataset.train.labels) + (f"\nnote: {slow}" if slow else ""))


def _span(lengths: list[int]) -> str:
    return str(lengths[0]) if min(lengths) == max(lengths) else f"{min(lengths)} to {max(lengths)}"


def _loop(training: Training, state: State, saved: resuming.Checkpoints, stopped: list[int], tamper: Tap | None) -> int:
    """Rounds and steps until the end.

    Returns:
        Images seen by this process.
    """
    config, algorithm, total = training.config, training.algorithm, training.total_steps
    clock = Clock(config.network, state.tensors["clock"], seed=config.seed, active=config.cohort_size, work=state.tensors["flops"],
                  presence=state.tensors["presence"])
    delivery = Delivery(config.loss, seed=config.seed)
    dataset = training.dataset
    recorder = record.recorder(config, total, mean=dataset.mean, std=dataset.std)
    wire = Channel(config.wire, state.ledger, clock=clock, delivery=delivery, tap=tamper or recorder)
    folder, start, seen = config.run_dir, time.monotonic(), 0
    last_saved = start
    with display.progress(total, f"{config.algorithm} cut {config.cut}") as bar:
        bar.advance(state.step)
        while state.step < total:
            clock.enter(state.round)
            delivery.at(round=state.round, step=state.step)
            if state.step_in_round == 0:
                algorithm.begin_round(state, training.cohort(state.round), wire)
                training.point_uphill(state)
            batch = training.next_batch(state)
            if recorder is not None:
                recorder.begin(state, batch)
            metrics = algorithm.step(state, batch, wire)
            seen += batch.views[0].shape[:2].numel()
            if "loss" in metrics:  # nothing was learnt in a step of which every message was lost
                _check_loss(metrics["loss"], state, folder)
            if len(metrics) > 1 or state.step == total:
                runs.append_metrics(folder, {"step": state.step, "round": state.round, **metrics, "virtual_seconds": clock.now})
            rate = seen / (time.monotonic() - start)
            shown = metrics.get("loss", "all lost")
            bar.advance(round=f"{state.round + 1}/{config.rounds}", loss=shown, images_per_s=round(rate, 1))
            ended = state.step_in_round == training.lengths[state.round] or state.step == total
            if ended:
                rows = _end_round(training, state, wire)
                runs.append_ledger(folder, rows)
                _validate(training, state, saved, bar)
                _measure(training, state)
            since = time.monotonic() - last_saved
            if state.step == total or stopped or since >= config.checkpoint_every_seconds * (0.1 if ended else 1.0):
                path = _save(saved, state, finished=state.step == total)
                last_saved = time.monotonic()
                if stopped and state.step < total:
                    raise Stopped(path, state.step, 128 + stopped[0])
    if recorder is not None and not recorder.save(folder):
        bar.note("nothing of the wire was recorded: no smashed data arrived in these steps, or they were made before this start")
    return seen


def _end_round(training: Training, state: State, wire: Channel) -> list[tuple[int, int, str, str, int, int, int]]:
    number = state.round
    training.algorithm.end_round(state, wire)
    return state.ledger.close_round(number)


def _save(saved: resuming.Checkpoints, state: State, *, finished: bool) -> Path:
    try:
        return saved.save(state, finished=finished)
    except FloatingPointError as error:
        raise FloatingPointError(f"{error} after step {state.step}; {_last_good(saved.run_dir)}") from None


def _check_loss(loss: float, state: State, folder: Path) -> None:
    if loss != loss or abs(loss) == float("inf"):
        raise FloatingPointError(f"the loss is {loss} at step {state.step} (round {state.round + 1}); {_last_good(folder)}; try smaller "
                                 "--client-lr and --server-lr")


def _last_good(folder: Path) -> str:
    kept = runs.checkpoints(folder)
    return f"the last good checkpoint is {kept[-1]}" if kept else "there is no checkpoint yet"


def _validate(training: Training, state: State, saved: resuming.Checkpoints, bar: display.Bar) -> None:
    """Accuracy on the validation images every few rounds and at the end, of the run's classifier or else by kNN; keeps the best weights
    (by test images if told to)."""
    config = training.config
    every = config.validate_every_rounds
    if not every or (state.round % every and state.step < training.total_steps):
        return
    network, computed = training.export(state), "bf16" if config.precision == "bf16" else "fp32"
    name, validate = ("accuracy", classifier.validate) if config.supervised else ("knn", knn.validate)
    rate = judge = validate(network, training.dataset, precision=computed)
    line: dict[str, float] = {}
    if rate is not None:
        line = {f"validation_{name}": rate.accuracy, "validation_low": rate.low, "validation_high": rate.high}
        bar.advance(0, **{name: rate.accuracy})
    if config.published_selection:  # also where no image is kept for validation, as in the papers' settings
        judge = validate(network, training.dataset, precision=computed, published_selection=True)
        line |= {f"published_test_{name}": judge.accuracy} if judge else {}
    if not line or judge is None:
        return
    sent = int(state.ledger.total[:, :, 2].sum())
    runs.append_metrics(config.run_dir, {"step": state.step, "round": state.round - 1, **line, "bytes": sent,
                                         "virtual_seconds": float(state.tensors["clock"].max())})
    best = saved.folder / "best.safetensors"
    if not best.is_file() or judge.accuracy > runs.read_header(best)["selected_by_accuracy"]:
        saved.save_best(state, judge.accuracy)


def _measure(training: Training, state: State) -> None:
    """Gradient divergence of a supervised run's model at the end of a round."""
    config = training.config
    if config.divergence_every_rounds and state.round % config.divergence_every_rounds == 0 and config.supervised:
        runs.append_metrics(config.run_dir, {"step": state.step, "round": state.round - 1, **training.divergence(state)})


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM instead of dying in the middle of a step; a second Ctrl-C stops at once."""
    received: list[int] = []

    def receive(number: int, frame: object) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    try:
        old = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread (a notebook's worker): signals stay with whoever has them
        yield received
        return
    try:
        yield received
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


DESCRIPTION = """Train split federated learning and leave a run directory that probes and attacks read.

Without --config the embedded default runs (configs/default.yaml: handwritten digits, about a minute on two cores). Any field of the
configuration is a flag; flags win over the file."""
EPILOG = """examples:
  python -m ssl_split.train --cut 13
  python -m ssl_split.train --config configs/cifar10.yaml --algorithm monacosfl --cut 13 --data-dir DIR
  python -m ssl_split.train --config configs/cifar10.yaml --cut 13 --data-dir DIR --resume"""


def parse(argv: Sequence[str]) -> tuple[Config, bool]:
    """The configuration and whether to resume, from the command line."""
    parser = fields.flags(Config, "python -m ssl_split.train", DESCRIPTION, EPILOG)
    parser.add_argument("--config", help="YAML file with fields of the configuration [configs/default.yaml]")
    parser.add_argument("--resume", nargs="?", const="true", metavar="BOOL", help="go on with an interrupted run, or start it [false]")
    arguments = parser.parse_args(list(argv))
    base = fields.read_yaml(configuration.find(getattr(arguments, "config", "default.yaml")))
    values = fields.set_flags(Config, arguments)
    return configuration.from_dict(fields.merge(base, values)), getattr(arguments, "resume", "false") == "true"


def main(argv: Sequence[str]) -> int:
    """`python -m ssl_split.train`."""
    config, resume = parse(argv)
    if config.allocator:
        allocator.keep_freed_memory()
    finished_before = _result(config.run_dir) is not None
    try:
        done = run(config, resume=resume)
    except Stopped as stop:
        print(stop, file=sys.stderr)
        return stop.code
    except FloatingPointError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if finished_before:
        print("this run had finished before; its result:")
        if config.record_wire and not (done.path / record.FILE).is_file():
            print("its wire was not recorded: train it in another --out for that", file=sys.stderr)
    _report(done, config)
    return 0


def _claim(config: Config, claim: dict[str, Any]) -> str:
    """What differential privacy there was, and what it does not cover."""
    if claim["epsilon_rdp"] is None:
        return f"client updates: no differential privacy. {claim['claim']}"
    given = "" if config.defence == "dp_sgd" else " of it, given the client's weights at each"
    spent = (f"{claim['epsilon_rdp']:.4g} (RDP; exact {claim['epsilon_exact']:.4g}) for all {claim['releases']}{given}, "
             f"delta {claim['delta']:g}. {claim['claim']}")
    if config.defence == "dp_sgd":
        return f"client updates: DP-SGD with noise multiplier {claim['sigma']:g}, epsilon for an image's part in the updates {spent}"
    return f"smashed data: local differential privacy, epsilon {claim['epsilon_of_one_release']:g} for one release of an image, {spent}"


def _report(done: Run, config: Config) -> None:
    result = done.result
    without = "none (no labelled validation images)" if config.validate_every_rounds else "not asked for"
    name, key = ("accuracy", "validation_accuracy") if config.supervised else ("kNN", "validation_knn")
    validated = f"{result[key]['accuracy']:.3f}" if result[key] else without
    loss = "none (every message was lost)" if result["loss"] is None else f"{result['loss']:.4f}"
    print(f"loss {loss}   validation {name} {validated}   {result['mib_per_client']:.1f} MiB per client   "
          f"{result['images_per_second']:.0f} images/s")
    if result.get("collapsed"):
        print(f"the projections have collapsed: their standard deviation over images is {result['collapse_std']:.2g}, and would be "
              f"{config.head.out ** -0.5:.2g} if they were spread evenly; the features are of little use")
    if claim := result.get("privacy"):
        print(_claim(config, claim))
    probe = "classifier" if config.supervised else "linear"
    if config.target_accuracy is not None:
        found = result["reached"]
        print(f"validation reached {found['accuracy']:.3f} (target {config.target_accuracy:g}) after {found['rounds']} rounds, "
              f"{found['bytes'] / MIB:.1f} MiB of all clients, {found['virtual_seconds']:.1f} virtual seconds" if found else
              f"validation never reached {config.target_accuracy:g}")
    attack = "probes.knn --features smashed" if config.dataset == "tsv" else "attacks.invert"
    commands = [attack] * config.sends_smashed_data + [f"probes.{probe}"]
    print("next: " + "   or   ".join(f"python -m {command} --checkpoint {done.path}" for command in commands))
    print(done.path)


if __name__ == "__main__":
    sys.exit(fields.command(main))
