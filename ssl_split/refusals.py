"""Which values of single fields cannot stand together: refused with one sentence before anything is read or computed."""

from __future__ import annotations

from typing import Any

from ssl_split import defence_sections as defending
from ssl_split import fields
from ssl_split.names import ARCHITECTURES, FEDERATED, INDEXED, PERTURBED, SUPERVISED, UNSPLIT
from ssl_split.sections import TextOptions


def check(config: Any, *, known: Any) -> None:
    """Refuse what cannot run.

    Args:
        config: A `Config`.
        known: One with default values.

    Raises:
        ValueError: one sentence that names the value and what is legal.
    """
    if isinstance(config.cut, int) and config.cut < 0:
        raise ValueError(f"cut = {config.cut} is impossible: it must be 0, a positive number or full")
    if config.clients_per_round is not None and config.clients_per_round > config.clients:
        raise ValueError(f"clients_per_round = {config.clients_per_round} is more than the {config.clients} clients there are")
    for part in ("compute", "link"):
        if getattr(config.network, part) == "pareto" and getattr(config.network, f"{part}_spread") <= 1:
            spread = getattr(config.network, f"{part}_spread")
            raise ValueError(f"network.{part}_spread = {spread:g} is impossible with pareto, whose mean is finite only for a shape above 1")
    _loss(config)
    _unread(config, known)
    _text(config)
    defending.check(config, known=known)
    if config.freeze_client and config.algorithm in (*UNSPLIT, "centralised", "moco"):
        raise ValueError(f"freeze_client is not defined for {config.algorithm}, whose clients send weights: use a split algorithm")
    if config.arch not in ARCHITECTURES and ".py:" not in config.arch:
        raise ValueError(f"arch = {config.arch!r} does not exist: {fields.nearest(config.arch, ARCHITECTURES)} or FILE.py:build")
    if config.name is not None and (not config.name or set(config.name) & set('/\\:*?"<>|') or config.name.startswith(".")):
        raise ValueError(f"name = {config.name!r} cannot name a folder")


def _unread(config: Any, known: Any) -> None:
    """Refuse a field that the algorithm would not read: what is set is what runs."""
    unread = []
    if config.federated_ssl:
        unread = ["outer", "divergence_every_rounds", "client_grad_scale", "queue", "reset_momentum"]
        if config.symmetric == "original":
            raise ValueError(f"symmetric = 'original' is how MocoSFL divides two terms, not {config.algorithm}: use stacked or none")
    elif not config.supervised:
        unread = ["optimiser", "optimiser_state", "adam", "clip_norm", "outer", "local_steps", "clients_at_once", "divergence_every_rounds"]
        if config.schedule == "exponential":
            raise ValueError(f"schedule = 'exponential' falls from round to round, which {config.algorithm} does not know: use cosine or "
                             "constant")
    elif config.algorithm in FEDERATED:
        unread = ["outer"] * (config.algorithm not in ("fedavgm", "slowmo"))
    elif config.algorithm not in ("sfl_v1", "mu_splitfed"):
        unread = ["clients_at_once"] + ["outer"] * (config.algorithm == "centralised")
    if config.algorithm not in PERTURBED:
        unread += ["perturbation_every_rounds"]
    if config.algorithm not in INDEXED:
        unread += ["published_perturbation"]
    for name in unread:
        value, default = getattr(config, name), getattr(known, name)
        if value != default:
            raise ValueError(f"{name} is not read by {config.algorithm}: it belongs to other algorithms (docs/algorithms.md); leave it at "
                             "its default")


def _text(config: Any) -> None:
    """Refuse what has no meaning for sentences, and transformers of sentences on images."""
    own = ".py:" in config.arch
    if config.dataset != "tsv":
        if config.arch == "opt":
            raise ValueError(f"arch = 'opt' reads sentences, and {config.dataset} holds images: use --dataset tsv")
        if config.text != TextOptions():
            raise ValueError(f"text.* is read with dataset tsv alone, not with {config.dataset}")
        return
    if config.arch != "opt" and not own:
        raise ValueError(f"arch = {config.arch!r} reads images, and dataset tsv holds sentences: use --arch opt or FILE.py:build")
    if not config.supervised:
        raise ValueError(f"{config.algorithm} learns from random views of images, and dataset tsv holds sentences: choose a supervised "
                         f"algorithm ({', '.join(SUPERVISED)})")
    if config.algorithm == "gas" and config.gas.generate:
        raise ValueError("gas cannot generate smashed data of sentences, where rows of zeros are padding: set --gas.generate false")
    codec = config.wire.activations
    if codec.startswith("int8") or (codec != "fp32" and config.cut == 0):
        raise ValueError(f"wire.activations = {codec!r} would change "
                         f"{'token ids' if config.cut == 0 else 'rows of zeros, which are padding'}: use fp32"
                         f"{'' if config.cut == 0 else ', fp16 or bf16'}")
    if config.arch == "opt" and config.width != 1:
        raise ValueError("width is not read by arch opt: start from --config sentences.yaml, and set --text.hidden and --text.feed-forward")
    if config.text.hidden % config.text.heads:
        raise ValueError(f"text.hidden = {config.text.hidden} is no multiple of text.heads = {config.text.heads}")


def _loss(config: Any) -> None:
    """Refuse lost messages where nobody has said what they would mean."""
    loss = config.loss
    if loss.retransmit and any(loss.of(kind) == 1 for kind in loss.kinds):
        raise ValueError("loss.retransmit never ends with a probability of 1: choose a smaller one")
    if not loss.happens:
        return
    fixed = (("wire.model_traffic", config.wire.model_traffic, "lazy"), ("queue", config.queue, "shared"),
             ("monacosfl.align", config.monacosfl.align, "average"), ("published_pool_average", config.published_pool_average, False))
    for name, value, legal in fixed:
        if value != legal:
            raise ValueError(f"{name} = {value!r} is not defined with lost messages: use {legal!r}, or loss.retransmit")
