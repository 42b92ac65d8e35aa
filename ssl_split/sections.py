"""The sections of a configuration: groups of fields that belong together."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from ssl_split.fields import field

CODECS = ("fp32", "fp16", "bf16", "int8", "int8_channel")


@dataclass(frozen=True)
class Partition:
    """How the training images are dealt to the clients."""

    kind: str = field("shards", "rule that deals the images", choices=("iid", "shards", "classes", "dirichlet",
                                                                     "dirichlet_balanced", "ratio", "quantity", "longtail"))
    classes: int = field(2, "classes per client (shards, classes)", low=1)
    beta: float = field(0.5, "Dirichlet concentration (dirichlet: over clients per class; dirichlet_balanced: over classes per client; "
                                  "quantity: over client sizes)", above=0)
    ratio: float = field(0.5, "share of a client's images from its main class (ratio)", low=0, high=1)
    imbalance: float = field(100.0, "largest class over smallest class of each client (longtail)", low=1)
    seed: int = field(0, "seed of the partition alone", low=0)


@dataclass(frozen=True)
class Augment:
    """Random views (MoCo v1: He et al. 2020; MoCo v2: Chen et al. 2020, crops and sizes as in the MocoSFL code)."""

    kind: str = field("auto", "family of views; the fields below replace single values of it. auto: mocov2, and standard (shifted by up "
                              "to an eighth of the side, mirrored) for supervised algorithms",
                      choices=("auto", "mocov2", "mocov1", "standard", "none"))
    crop_scale: float | None = field(None, "smallest crop area as a share of the image (mocov2 0.08, mocov1 0.2)", above=0, high=1)
    jitter: float | None = field(None, "brightness, contrast and saturation strength (0.4)", low=0, high=1)
    hue: float | None = field(None, "hue strength (mocov2 0.1, mocov1 0.4)", low=0, high=0.5)
    jitter_probability: float | None = field(None, "share of jittered views (mocov2 0.8, mocov1 1)", low=0, high=1)
    grayscale_probability: float | None = field(None, "share of grey views (0.2)", low=0, high=1)
    blur_probability: float | None = field(None, "share of blurred views (mocov2 0.5, mocov1 0)", low=0, high=1)
    flip_probability: float | None = field(None, "share of mirrored views (0.5)", low=0, high=1)
    padding: int | None = field(None, "pixels of black around the image before a crop of its own size (standard: an eighth of the side)",
                                low=0)


@dataclass(frozen=True)
class Head:
    """Projection head of the self-supervised algorithms; of the same size the predictor of fedbyol and fedema."""

    hidden: int = field(1024, "hidden units", low=1)
    out: int = field(1024, "dimensions of a key or projection", low=1)


@dataclass(frozen=True)
class Bottleneck:
    """CxSy bottleneck at the cut (MocoSFL, ResSFL): C4S2 is channels 4, stride 2."""

    channels: int = field(0, "channels on the wire (0: no bottleneck)", low=0)
    stride: int = field(1, "stride of the client's extra convolution", low=1)


@dataclass(frozen=True)
class Wire:
    """Encoding of what crosses between client and server."""

    activations: str = field("fp32", "codec of smashed data (act_up, key_act_up)", choices=CODECS)
    gradients: str = field("fp32", "codec of returned gradients (grad_down)", choices=CODECS)
    weights: str = field("fp32", "codec of online weights (model_up, model_down)", choices=CODECS)
    ema: str = field("fp32", "codec of momentum weights (ema_up, ema_down)", choices=CODECS)
    label_bytes: int = field(8, "bytes of a label (int64)", low=0)
    header_bytes: int = field(0, "constant added to every message", low=0)
    model_traffic: str = field("lazy", "lazy: cohort members fetch weights; broadcast: every client gets every average",
                               choices=("lazy", "broadcast"))


@dataclass(frozen=True)
class NetworkOptions:
    """Devices and links of the virtual clock; nothing of it changes what is learnt, except in `gas`, where the clock decides whose turn
    it is."""

    compute: str = field("constant", "speeds of clients: constant, lognormal, pareto; exponential (a random time for a round's work, MU-"
                                     "SplitFed); cell (1 to 10 GFLOP/s, GAS)",
                         choices=("constant", "lognormal", "pareto", "exponential", "cell"))
    compute_flops: float = field(1e10, "mean speed of a client, FLOP/s (constant, lognormal, pareto)", above=0)
    compute_spread: float = field(1.5, "lognormal: deviation of the logarithm; pareto: shape", above=0)
    compute_seconds: float = field(1.0, "mean time of a client's work in a round (exponential)", above=0)
    link: str = field("constant", "rates of links: constant, lognormal, pareto; cell (radio cell of 1 km, GAS)",
                      choices=("constant", "lognormal", "pareto", "cell"))
    link_bits_per_second: float = field(1e8, "mean rate of a link in either direction (constant, lognormal, pareto)", above=0)
    link_spread: float = field(1.5, "as compute_spread", above=0)
    latency_seconds: float = field(0.0, "added to every message", low=0)
    server_flops: float = field(1e12, "speed of the server, FLOP/s, shared by the clients it serves", above=0)
    per_round: bool = field(False, "draw devices and links anew in each round")
    share_band: bool = field(False, "cell: the clients at work divide the band (the published code gives each the whole)")


@dataclass(frozen=True)
class LossOptions:
    """Messages that do not arrive, each by itself, and clients that miss rounds."""

    probability: float = field(0.0, "of losing a message, for every kind that is not set below", low=0, high=1)
    act_up: float | None = field(None, "of losing smashed data", low=0, high=1)
    key_act_up: float | None = field(None, "of losing smashed data of a momentum client", low=0, high=1)
    pert_act_up: float | None = field(None, "of losing perturbed smashed data", low=0, high=1)
    label_up: float | None = field(None, "of losing labels", low=0, high=1)
    grad_down: float | None = field(None, "of losing a gradient", low=0, high=1)
    scalar_up: float | None = field(None, "of losing a number sent up", low=0, high=1)
    scalar_down: float | None = field(None, "of losing a number sent down", low=0, high=1)
    model_up: float | None = field(None, "of losing weights sent up", low=0, high=1)
    model_down: float | None = field(None, "of losing weights sent down", low=0, high=1)
    ema_up: float | None = field(None, "of losing momentum weights sent up", low=0, high=1)
    ema_down: float | None = field(None, "of losing momentum weights sent down", low=0, high=1)
    control_up: float | None = field(None, "of losing control vectors sent up", low=0, high=1)
    control_down: float | None = field(None, "of losing control vectors sent down", low=0, high=1)
    retransmit: bool = field(False, "repeat until it arrives: nothing is lost, every attempt costs bytes and time")
    dropout: float = field(0.0, "probability that a client misses a round: it sends and gets nothing", low=0, high=0.99)

    def of(self, kind: str) -> float:
        """The probability of losing a message of this kind."""
        own: float | None = getattr(self, kind)
        return self.probability if own is None else own

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of which messages can be lost."""
        names = [f.name for f in dataclasses.fields(self) if f.name.endswith(("_up", "_down"))]
        return tuple(n for n in names if self.of(n))

    @property
    def happens(self) -> bool:
        """Whether anything can fail to arrive."""
        return bool(self.dropout) or (not self.retransmit and bool(self.kinds))


@dataclass(frozen=True)
class MonacosflOptions:
    """How MonAcoSFL aligns momentum clients (the paper: average, at every sync)."""

    align: str = field("average", "average: mean of the momentum clients; online: copy of the averaged online client",
                       choices=("average", "online"))
    every_syncs: int = field(1, "align at every k-th sync", low=1)


@dataclass(frozen=True)
class AdamOptions:
    """Adam and AdamW; `momentum` is their first coefficient."""

    second_moment: float = field(0.999, "decay of the mean squared gradient", low=0, high=1)
    epsilon: float = field(1e-8, "added to the denominator", above=0)


@dataclass(frozen=True)
class Outer:
    """What the server does with the average at the end of a round (supervised algorithms)."""

    kind: str = field("none", "none: the average is the next model; fedavgm (Hsu et al. 2019) or slowmo (Wang et al. 2020): momentum "
                              "over rounds", choices=("none", "fedavgm", "slowmo"))
    momentum: float = field(0.9, "decay of that momentum", low=0, high=1)
    lr: float = field(1.0, "its step size", above=0)


@dataclass(frozen=True)
class SmofiOptions:
    """SMoFi's momentum fusion (arXiv 2511.09828)."""

    alpha: float = field(-0.1, "staleness exponent: a client that finished k steps ago counts (k + 1)^alpha; 0 keeps it in full", high=0)
    history: str = field("aligned", "aligned: finished clients count by alpha; ignored: not at all; adaptive: by the cosine of their last "
                                    "momentum to that of the active clients", choices=("aligned", "ignored", "adaptive"))
    moments: str = field("all", "Adam: fuse both moments, or the first only", choices=("all", "first"))
    weights: str = field("data", "weights of the fusion: data (client sizes) or uniform", choices=("data", "uniform"))
    renormalise: bool = field(False, "divide by the sum of the staleness-weighted shares")
    carry: bool = field(False, "keep the fused momentum for the next round (published: cleared)")


@dataclass(frozen=True)
class MuSplitfedOptions:
    """MU-SplitFed's unbalanced zeroth-order steps (arXiv 2510.21155)."""

    tau: int = field(2, "server steps per client step; 1 is zeroth-order SplitFed", low=1)
    estimator: str = field("spsa", "spsa: two function values; first_order: true gradients in the same schedule",
                           choices=("spsa", "first_order"))
    radius: float = field(0.005, "distance from the weights at which spsa evaluates, in units of the direction", above=0)
    global_lr: float = field(0.3, "step size over rounds, on the average", above=0)
    coupled: bool = field(False, "client rate = tau times the server's, as the theory asks (published: not)")


@dataclass(frozen=True)
class GasOptions:
    """GAS's buffers and generated activations (arXiv 2409.01251)."""

    buffer: int | None = field(None, "batches, and models, that a buffer holds, Q (default: P)", low=1)
    generate: bool = field(True, "balance a full buffer with generated activations")
    balance: str = field("batch", "top every label up to: batch (B), or equal_to_max (the most frequent label)",
                         choices=("batch", "equal_to_max"))
    covariance: str = field("kept", "kept: of the last 512 activations of a label; full: a matrix per label; diagonal",
                            choices=("kept", "full", "diagonal"))
    weight: str = field("linear", "weight of an activation in the statistics: its progress n, or constant",
                        choices=("linear", "constant"))
    adjust_logits: bool = field(True, "shift logits by the log of the client's label shares in its loss")


@dataclass(frozen=True)
class FederatedOptions:
    """Coefficients of the federated methods."""

    global_lr: float = field(1.0, "step size over rounds eta_g, on the average", above=0)
    prox: float = field(0.1, "mu of FedProx, lambda of FedDyn, FedSMOO and FedLESAM-D", low=0)
    alpha: float = field(0.1, "weight of the gradient beside the momentum (FedCM, MoFedSAM; FedWMSAM at the start)", above=0, high=1)
    rho: float | None = field(None, "radius of the perturbation (default: 0.01; FedSMOO 0.1)", low=0)
    correction_weight: float = field(1.0, "of c - c_i in FedLESAM-S (published code: the prox constant)", low=0)
    lesam_previous_round: bool = field(False, "FedLESAM: perturb along the last round's step, the same for all (published code)")
    wmsam_momentum: bool = field(True, "FedWMSAM: momentum; without it the gradient counts in full")
    wmsam_personalised: bool = field(True, "FedWMSAM: control variates in the momentum")
    wmsam_adapt: float = field(0.01, "FedWMSAM: share by which alpha follows the similarity in each round; 0: alpha stays", low=0, high=1)
    wmsam_similarity: str = field("update", "FedWMSAM: what alpha compares with the momentum: a client's update, or its m^k",
                                  choices=("update", "personalised"))
    wmsam_perturbation: str = field("toward", "FedWMSAM: where the perturbation points. toward x_r + b eta m; away from x_r - b eta m; "
                                              "unit_step: toward x_r + b m (published code)", choices=("toward", "away", "unit_step"))
    reset_key: bool = field(False, "FedMoCo: the momentum encoder starts every round as a copy of the model (else: kept by the client)")
    ema_autoscaler: float = field(0.7, "tau of FedEMA: share of its own model that a client keeps when it takes part again; 0 is FedBYOL",
                                  low=0, high=1)
    wmsam_mean_gradient: bool = field(False, "FedWMSAM: c_k is the mean of the raw gradients, one more vector up")


@dataclass(frozen=True)
class TextOptions:
    """Sentences (dataset tsv) and the transformer that reads them (arch opt)."""

    tokens: int = field(64, "tokens of a sentence: longer ones are cut off, shorter ones padded", low=2)
    pretrained: str | None = field(None, "folder of an OPT model as transformers saves it: its configuration replaces the fields below, "
                                         "its weights and tokeniser are used where it has them")
    vocabulary: int = field(8192, "most frequent words of the training sentences that get a token", low=8)
    hidden: int = field(128, "width of the hidden states", low=8)
    layers: int = field(4, "decoder blocks", low=1)
    heads: int = field(4, "attention heads", low=1)
    feed_forward: int = field(512, "hidden units of a block's dense layers", low=8)
