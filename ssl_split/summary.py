"""`result.json` of a finished run."""

from __future__ import annotations

import json
import math
from statistics import stdev
from typing import Any

import torch

from ssl_split.algorithms.api import State
from ssl_split.clock import BUSY, waiting_shares
from ssl_split.config import RESULTS_VERSION, UNSPLIT, Config
from ssl_split.defences import dp_sgd, local_dp
from ssl_split.defences.dp_sgd import squared_uses
from ssl_split.models.memory import client_memory
from ssl_split.optim import Optimiser
from ssl_split.run import command_line
from ssl_split.traffic import MIB, TWICE, federated_bytes, published_mocosfl, split_ssl_bytes, supervised_sfl_bytes
from ssl_split.training import Training

COLLAPSED = 0.1
"""Share of the spread of evenly spread projections below which they have collapsed; trainings that worked here had .3 to .7."""


def summarise(training: Training, state: State, *, images: int, seconds: float, before: float = 0.0) -> dict[str, Any]:
    """Accuracy by validation, bytes by ledger and by closed form, sizes and speed.

    Args:
        training: The run.
        state: After the last step.
        images, seconds: Of this process.
        before: Seconds behind the checkpoint from which it went on.
    """
    config = training.config
    lines = [json.loads(line) for line in (config.run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    at_syncs = [line for line in lines if "loss" in line or "train_loss" in line] or [{}]  # every message may have been lost
    validation = {name: _validated(lines, name) for name in ("validation_knn", "validation_accuracy")}
    divergence = {k: at_syncs[-1].get(k) for k in ("online_to_mean", "momentum_to_mean", "online_to_momentum", "online_to_mean_l2")}
    return {
        "kind": "run", "algorithm": config.algorithm, "cut": config.cut, "seed": config.seed, "dataset": config.dataset,
        "defence": config.defence, "privacy": _privacy(training, state),
        "finished": True, "steps": state.step, "rounds": state.round, "loss": at_syncs[-1].get("train_loss", at_syncs[-1].get("loss")),
        "train_accuracy": at_syncs[-1].get("train_accuracy"), **validation, "reached": _reached(lines, config.target_accuracy),
        "collapse_std": at_syncs[-1].get("collapse_std"), "collapsed": collapsed(at_syncs[-1].get("collapse_std"), config.head.out),
        "late_oscillation": late_oscillation(lines),
        **_traffic(training, state), **_sizes(training), "client_memory_bytes": _client_memory(training),
        "divergence": divergence if divergence["online_to_mean"] is not None else None,
        **_work(state), "virtual_seconds": float(state.tensors["clock"].max()), **waiting(state), "seconds": round(before + seconds, 2),
        "images_per_second": round(images / seconds, 2),
        "results_version": RESULTS_VERSION, "command": command_line(),
    }


def _privacy(training: Training, state: State) -> dict[str, Any] | None:
    """What differential privacy the smashed data had, or the client's updates, for the client that gave away most; None without a claim."""
    config = training.config
    if config.defence not in ("local_dp", "dp_sgd"):
        return None
    sent = list(zip(state.positions.tolist(), training.parts, strict=True))
    if config.defence == "dp_sgd":
        uses = [squared_uses(training.streams.take(k, 0, seen), config.batch_size) for k, (seen, _) in enumerate(sent) if seen]
        return dp_sgd.account(config.dp_sgd, releases=max(uses))
    passes = max(math.ceil(seen / len(part)) for seen, part in sent if len(part))
    own = config.local_dp
    return local_dp.account(epsilon=own.epsilon, delta=own.delta, clip=own.clip, passes=passes, per_pass=tensors_per_pass(config))


def tensors_per_pass(config: Config) -> int:
    """Smashed data that are sent of an image each time it is used: with labels one, or two of methods that look twice and three of
    MU-SplitFed's zeroth order; without, one for each view and encoder, two or four."""
    if not config.supervised:
        return 4 if config.symmetric == "stacked" else 2
    zeroth_order = config.algorithm == "mu_splitfed" and config.mu_splitfed.estimator == "spsa" and config.cut != 0
    return 3 if zeroth_order else 1 + (config.algorithm in TWICE)


def collapsed(spread: float | None, dimensions: int) -> bool | None:
    """Whether projections of different images are nearly one vector; None where there are no projections.

    Unit vectors that are spread evenly have a standard deviation of `dimensions ** -0.5` in each dimension.

    Args:
        spread: Mean over dimensions of the standard deviation of normalised projections over a batch.
        dimensions: Of a projection.
    """
    return None if spread is None else spread * math.sqrt(dimensions) < COLLAPSED


def _validated(lines: list[dict[str, Any]], name: str) -> dict[str, float] | None:
    """The last validation of this kind, with its interval."""
    found = [line for line in lines if name in line]
    return {"accuracy": found[-1][name], "low": found[-1]["validation_low"], "high": found[-1]["validation_high"]} if found else None


def late_oscillation(lines: list[dict[str, Any]]) -> float | None:
    """Standard deviation of the last tenth of all validations, five at least; None where there are fewer."""
    found = [accuracy for line in lines if (accuracy := line.get("validation_accuracy", line.get("validation_knn"))) is not None]
    return stdev(found[-max(5, len(found) // 10):]) if len(found) >= 5 else None


def _work(state: State) -> dict[str, float]:
    """FLOPs of forward and backward passes (2 for a multiply-add): of the client that did most, of the mean client that took part, of the
    server."""
    clients, server = state.tensors["flops"][:-1], float(state.tensors["flops"][-1])
    worked = clients[clients > 0]
    return {"client_flops_most": float(clients.max()), "client_flops_mean": float(worked.mean()) if len(worked) else 0.0,
            "server_flops": server}


def waiting(state: State) -> dict[str, float | None]:
    """Which part of the virtual time of its rounds a client waits: the fastest one, and the mean over clients; None where nobody takes part
    in rounds. The fastest is the one with the fewest busy seconds per image that it went through, so that a client does not count as
    fast because it has few of them."""
    presence = state.tensors["presence"]
    shares, images = waiting_shares(presence, state.tensors["clock"]), state.positions
    known = (~shares.isnan() & (images > 0)).nonzero().flatten()
    if len(known) == 0:
        return {"waiting_share_fastest": None, "waiting_share_mean": None}
    fastest = known[(presence[BUSY, known] / images[known]).argmin()]
    return {"waiting_share_fastest": float(shares[fastest]), "waiting_share_mean": float(shares[known].mean())}


def _reached(lines: list[dict[str, Any]], target: float | None) -> dict[str, Any] | None:
    """When validation first reached the target: rounds, steps, bytes of all clients, virtual seconds; None where it never did."""
    for line in lines:
        accuracy = line.get("validation_accuracy", line.get("validation_knn"))
        if target is not None and accuracy is not None and accuracy >= target:
            return {"target": target, "accuracy": accuracy, "rounds": line["round"] + 1, "steps": line["step"], "bytes": line["bytes"],
                    "virtual_seconds": line["virtual_seconds"]}
    return None


def _traffic(training: Training, state: State) -> dict[str, Any]:
    """The ledger's bytes beside the closed form and the published formula, per client that took part."""
    config, ledger = training.config, state.ledger
    sent = ledger.bytes(2)
    took_part = int((ledger.total[:, :, 0].sum(0) > 0).sum())
    values: dict[str, Any] = {"bytes": sent, "bytes_raw": ledger.bytes(1), "clients_took_part": took_part}
    if training.algorithm.centralised:
        return values | {"mib_per_client": 0.0, "mib_per_client_closed_form": 0.0, "mib_per_client_published_formula": None}
    total = sum(sum(kinds.values()) for kinds in sent.values())
    h, c = math.prod(training.network.smashed_shape), training.client_entries
    if config.supervised or config.federated_ssl:
        closed_form = _closed_form_by_steps(training, state, h=h, c=c, clients=took_part)
        return values | {"mib_per_client": total / max(took_part, 1) / MIB, "mib_per_client_published_formula": None,
                         "mib_per_client_closed_form": closed_form and closed_form / took_part / MIB}
    taken = state.step / training.steps * len(state.cohort) / max(took_part, 1)  # rounds per client
    closed = sum(split_ssl_bytes(config, steps=training.steps, h=h, c=c).values()) * taken
    syncs = min(config.syncs_per_round, training.steps)
    published = sum(published_mocosfl(taken, 1 / syncs, training.steps * config.batch_size, c, h))
    return values | {"mib_per_client": total / max(took_part, 1) / MIB, "mib_per_client_closed_form": closed / MIB,
                     "mib_per_client_published_formula": published / MIB}


def _closed_form_by_steps(training: Training, state: State, *, h: int, c: int, clients: int) -> int | None:
    """Bytes of all clients where each makes its own number of steps; None for a trial, which ends in the middle of a round."""
    config = training.config
    if state.step != sum(training.lengths[: state.round]):
        return None
    if config.algorithm == "gas":  # clients join one by one, and those at work at the end have not handed in
        sent = supervised_sfl_bytes(config, steps=state.step, visits=state.counters["handed_in"], h=h, c=c)
        return sum(sent.values()) + 4 * c * (state.counters["joined"] - state.counters["handed_in"])
    local = training.algorithm.setup.local_steps
    cohorts = [training.cohort(round).tolist() for round in range(state.round)]
    steps = sum(local[client] for cohort in cohorts for client in cohort)
    visits = config.cohort_size * state.round
    if config.algorithm in UNSPLIT:
        d, apart = training.cost.client_parameters, bool(training.cost.client_parameters and training.cost.server_parameters)
        return sum(federated_bytes(config, steps=steps, visits=visits, h=h, c=c, d=d, apart=apart, clients=clients).values())
    return sum(supervised_sfl_bytes(config, steps=steps, visits=visits, h=h, c=c).values())


def _sizes(training: Training) -> dict[str, Any]:
    """Parameters and multiply-adds on either side of the cut."""
    row = training.cost
    return {"smashed_shape": list(row.smashed_shape), "client_parameters": row.client_parameters,
            "server_parameters": row.server_parameters, "client_macs_per_image": row.client_macs, "server_macs_per_image": row.server_macs}


def _client_memory(training: Training) -> dict[str, int] | None:
    """Bytes of one client in a step, term by term and in sum; None without clients that train.

    Counted at the precision in which weights are stored: under bf16 autocast a number counts as fp32, though some activations take half.
    """
    config = training.config
    if training.algorithm.centralised or config.freeze_client:
        return None
    rows = config.batch_size * (2 if not config.supervised and config.symmetric == "stacked" else 1)  # of the part that has a graph
    x = torch.empty(rows, *training.network.input_shape, device="meta")
    zeroth_order = config.algorithm == "mu_splitfed" and config.mu_splitfed.estimator != "first_order"
    return client_memory(training.network.client, x, moments=len(Optimiser.of(config).moments), dtype=training.dtype,
                         zeroth_order=zeroth_order, momentum_client=not config.supervised).to_dict()
