"""Bytes in closed form, to check the ledger against and to compare with published figures.

Symbols: E rounds in which a client takes part, S syncs and T steps per round, B images per client and step, D = T B images per round,
h elements of the smashed data of one image, c state entries of the client half.
"""

from __future__ import annotations

from ssl_split.config import Config

MIB = 2**20


def split_ssl_bytes(config: Config, *, steps: int, h: int, c: int) -> dict[str, int]:
    """Bytes by kind of one client in one round of MocoSFL or MonAcoSFL in float32, `lazy` weights.

    Args:
        config: The run; B, S, the symmetric variant and the algorithm are read.
        steps: T.
        h: Elements of the smashed data of one image.
        c: State entries of the client half; 0 at cut 0, where neither gradients nor weights cross.

    Returns:
        Bytes per message kind; per client and round the sum is f [3 r D h + 2 S (1 + m) c].
    """
    views = 2 if config.symmetric == "stacked" else 1
    activation = 4 * views * steps * config.batch_size * h
    weights = 4 * min(config.syncs_per_round, steps) * c
    ema = weights if config.algorithm == "monacosfl" and config.monacosfl.align == "average" else 0
    return {"act_up": activation, "key_act_up": activation, "pert_act_up": 0, "label_up": 0,
            "grad_down": activation if c or config.defence == "shredder" else 0, "scalar_up": 0, "scalar_down": 0, "model_up": weights,
            "model_down": weights, "ema_up": ema, "ema_down": ema, "control_up": 0, "control_down": 0}


def supervised_sfl_bytes(config: Config, *, steps: int, visits: int, h: int, c: int) -> dict[str, int]:
    """Bytes by kind of the supervised split algorithms in float32, `lazy` weights, all clients together.

    Args:
        config: The run; algorithm, B and the bytes of a label are read.
        steps: Local steps K, summed over rounds and clients.
        visits: Rounds that a client takes part in, summed over clients.
        h: Elements of the smashed data of one image.
        c: State entries of the client half; 0 at cut 0, where neither answers nor weights cross (Shredder learns from answers alone).

    Returns:
        Bytes per message kind; per client R [K B (2 h f + 8) + 2 c f];
        zeroth order (MU-SplitFed) R [K B (3 h f + 8) + K f + 2 c f].
    """
    images = steps * config.batch_size
    activation, weights = 4 * images * h, 4 * visits * c
    zeroth = config.algorithm == "mu_splitfed" and config.mu_splitfed.estimator == "spsa"
    answered = (c or config.defence == "shredder") and not zeroth
    return {"act_up": activation, "pert_act_up": 2 * activation if zeroth and c else 0, "label_up": config.wire.label_bytes * images,
            "grad_down": activation if answered else 0, "scalar_down": 4 * steps if c and zeroth else 0, "model_up": weights,
            "model_down": weights}


VECTORS_DOWN = {"scaffold": 1, "fedcm": 1, "mofedsam": 1, "fedgamma": 1, "feddyn": 1, "fedsmoo": 3, "fedlesam_s": 1, "fedlesam_d": 1,
                "fedwmsam": 1}
"""Vectors of the size of the weights that a participant gets in a round beside the weights."""
TWICE = ("fedsam", "mofedsam", "fedgamma", "fedsmoo")
"""Methods that look at each minibatch twice."""


def federated_bytes(config: Config, *, steps: int, visits: int, h: int, c: int, d: int, apart: bool, clients: int = 0) -> dict[str, int]:
    """Bytes by kind of the federated methods in float32, `lazy` weights, all clients together.

    Args:
        config: The run.
        steps, visits, h: As in `supervised_sfl_bytes`.
        c: State entries of the client part; the whole network at cut `full`.
        d: Trainable entries among them.
        apart: Whether both halves have weights.
        clients: That took part at all; FedEMA has nothing to compare with at their first time.

    Returns:
        Bytes per message kind. At cut `full` R [c f] up and R [(1 + vectors) d f] down; split as SFL-V1, twice for methods that look twice,
        and one number in either direction for each norm over both halves. Without labels (FedMoCo, FedBYOL, FedEMA) the smashed data of
        the target go up as well, all that for both views with `symmetric: stacked`.
    """
    if config.federated_ssl:
        return _federated_ssl_bytes(config, images=steps * config.batch_size, visits=visits, h=h, c=c,
                                    norms=visits - clients if config.algorithm == "fedema" and apart else 0)
    options, algorithm = config.federated, config.algorithm
    down = VECTORS_DOWN.get(algorithm, 0) + (options.lesam_previous_round and algorithm.startswith("fedlesam"))
    up = (algorithm == "fedsmoo") + (algorithm == "fedwmsam" and options.wmsam_mean_gradient)
    weights = 4 * visits * c
    made = {"model_up": weights, "model_down": weights, "control_up": 4 * visits * d * up, "control_down": 4 * visits * d * down}
    if config.cut == "full":
        return made
    images, looks = steps * config.batch_size, 1 + (algorithm in TWICE)
    activation = 4 * images * h * looks
    norms = algorithm in TWICE or algorithm.startswith("fedlesam") or (
        algorithm == "fedwmsam" and config.rho > 0 and options.wmsam_momentum)
    number = 4 * steps * norms * apart
    return made | {"act_up": activation, "grad_down": activation if c else 0, "label_up": config.wire.label_bytes * images,
                   "scalar_up": number, "scalar_down": number}


def _federated_ssl_bytes(config: Config, *, images: int, visits: int, h: int, c: int, norms: int) -> dict[str, int]:
    made = {"model_up": 4 * visits * c, "model_down": 4 * visits * c}
    if config.cut == "full":
        return made
    activation = 4 * images * h * (2 if config.symmetric == "stacked" else 1)
    return made | {"act_up": activation, "key_act_up": activation, "grad_down": activation if c else 0, "scalar_up": 4 * norms,
                   "scalar_down": 4 * norms}


def published_mocosfl(epochs: float, epochs_per_sync: float, images: float, c: int, h: int) -> tuple[float, float]:
    """The communication formula of the MocoSFL code (SonyAI/MocoSFL), kept for comparison: one direction of the weights, activation and
    gradient of one view, no momentum activation.

    Args:
        epochs: E.
        epochs_per_sync: s; 1 / S for S syncs per epoch.
        images: D.
        c: Client parameters.
        h: Elements of the smashed data of one image.

    Returns:
        Weights and latents in bytes per client: 4 floor(E / s) c and 8 E D h.
    """
    return 4.0 * int(epochs / epochs_per_sync + 1e-9) * c, 8.0 * epochs * images * h
