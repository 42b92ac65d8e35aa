"""Runs whose clients send two views of every image, one of them through a momentum encoder: what a checkpoint or a recording gives the
two-view attack.

In MonAcoSFL the server averages the momentum clients and knows them. In MocoSFL they are private; the server takes the average of the
averaged clients that it has seen, the initial one among them, with the run's decay.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import fields

import torch
from torch import Tensor, nn

from attacks import pairs, rows
from attacks.members.victims import ema_of_path
from attacks.pairs import WITH_TWO_VIEWS, Pair, TwoViews
from attacks.victim import Victim
from attacks.view import CapabilityError
from attacks.wire import Recording
from ssl_split import run as runs
from ssl_split.config import Config
from ssl_split.files import read_tensors
from ssl_split.run import Checkpoint


def refuse_one_view(config: Config) -> None:
    """Check that clients of this run send two views of an image.

    Raises:
        CapabilityError: they do not.
    """
    if config.algorithm not in WITH_TWO_VIEWS:
        raise CapabilityError(f"the attack twoview needs momentum_view and second_view, and clients of {config.algorithm} send "
                              f"neither; legal: runs of {' and '.join(WITH_TWO_VIEWS)}")


def views(checkpoint: Checkpoint, sources: Tensor, recording: Recording | None) -> Pair:
    """The two views of each target: those of the recording, else drawn.

    Args:
        checkpoint: The run.
        sources: The targets, uint8 `(n, 3, S, S)`.
        recording: Of these targets.
    """
    family = checkpoint.config.augmentation
    if recording is None:
        return pairs.drawn(sources, family)
    return pairs.pair(sources, torch.stack([recording["draws"], recording["key_draws"]]), family)


def of_checkpoint(checkpoint: Checkpoint, victim: Victim, shown: Pair, clients: Tensor) -> TwoViews:
    """The clients of a checkpoint, each with its own momentum encoder, sending these views of their images."""
    encoders = {c: _momentum_client(checkpoint, _half(victim), c) for c in sorted(set(clients.tolist()))}
    known = checkpoint.momentum_client() if checkpoint.config.algorithm == "monacosfl" else None
    guess = None if known else _guess(checkpoint, {k: v.float() for k, v in read_tensors(checkpoint.path, runs.CLIENT).items()},
                                      step=checkpoint.step)
    return pairs.sending(victim, shown, [encoders[c] for c in clients.tolist()], averaged=_with(_half(victim), known),
                         guess=_with(_half(victim), guess))


def of_recording(checkpoint: Checkpoint, victim: Victim, shown: Pair, recording: Recording) -> TwoViews:
    """What the run really sent of these views."""
    device = shown.views.device
    known = dict(recording.momentum) or None
    guess = None if known else _guess(checkpoint, {k: v.float() for k, v in recording.weights.items()}, step=recording.span[0])
    given = {f.name: getattr(victim, f.name) for f in fields(Victim)}
    return TwoViews(**given, pair=shown, sent=tuple(z.float().to(device) for z in recording.of_pairs()),
                    averaged=_with(_half(victim), known), guess=_with(_half(victim), guess))


def of_untrained(victim: Victim, shown: Pair) -> TwoViews:
    """Clients before training: their momentum encoder is the client."""
    return pairs.sending(victim, shown, [_half(victim)], averaged=_half(victim), guess=None)


def _half(victim: Victim) -> nn.Module:
    assert isinstance(victim.client, nn.Module)
    return victim.client


def _with(half: nn.Module, weights: Mapping[str, Tensor] | None) -> nn.Module | None:
    """A copy with other weights; None without any."""
    if weights is None:
        return None
    made = copy.deepcopy(half)
    made.load_state_dict({k: v.float() for k, v in weights.items()})
    return made.eval()


def _momentum_client(checkpoint: Checkpoint, half: nn.Module, client: int) -> nn.Module:
    """The momentum encoder that a client holds: its own, or the shared one where it has none."""
    row = rows.kept(checkpoint, "momentum", client)
    held = read_tensors(checkpoint.path, "client.momentum/") if row is None else rows.by_name(checkpoint, half, row)
    made = _with(half, held)
    assert made is not None
    return made


def _guess(checkpoint: Checkpoint, last: dict[str, Tensor], *, step: int) -> dict[str, Tensor]:
    """The momentum client as one guesses it from the initial client, those of kept checkpoints before `step`, and the last one."""
    seen = {0: {k: v.float() for k, v in checkpoint.untrained().client.state_dict().items()}}
    for path in runs.checkpoints(checkpoint.run_dir):
        at = int(runs.read_header(path)["step"])
        if 0 < at < step:
            seen[at] = {k: v.float() for k, v in read_tensors(path, runs.CLIENT).items()}
    return ema_of_path([*sorted(seen.items(), key=lambda pair: pair[0]), *([(step, last)] if step else [])], checkpoint.config.ema)
