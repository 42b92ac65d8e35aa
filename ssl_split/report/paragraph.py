"""What was trained, in sentences for a paper: data, network, clients, optimisation, seeds. Only what the finished runs' files hold is said.

A sentence carries its citations as marks, which `cite` turns into author and year or into LaTeX.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ssl_split.defence_sections import DEFENCES
from ssl_split.names import ARCHITECTURES, FEDERATED, FEDERATED_SSL, SUPERVISED
from ssl_split.report import sources
from ssl_split.report.collect import FINISHED, Run
from ssl_split.report.table import APART, Study, depth

OPEN, CLOSE = "\ue000", "\ue001"
"""Around the keys of a citation: letters of the private use area, which are taken out of every text of a run."""

ALGORITHMS = {
    "mocosfl": "MocoSFL", "monacosfl": "MonAcoSFL", "moco": "centralised MoCo-v2", "fedmoco": "FedMoCo", "fedbyol": "FedBYOL",
    "fedema": "FedEMA", "sfl_v1": "SFL-V1", "sfl_v2": "SFL-V2", "minibatch_sfl": "MiniBatch-SFL", "smofi": "SMoFi",
    "mu_splitfed": "MU-SplitFed", "gas": "GAS", "split_learning": "split learning", "centralised": "centralised supervised training",
    "fedavg": "FedAvg", "fedavgm": "FedAvgM", "slowmo": "SlowMo", "fedprox": "FedProx", "scaffold": "SCAFFOLD", "fedcm": "FedCM",
    "fedsam": "FedSAM", "mofedsam": "MoFedSAM", "fedgamma": "FedGAMMA", "feddyn": "FedDyn", "fedsmoo": "FedSMOO",
    "fedlesam": "FedLESAM", "fedlesam_s": "FedLESAM-S", "fedlesam_d": "FedLESAM-D", "fedwmsam": "FedWMSAM",
}
DATASETS = {
    "digits": "the digits of scikit-learn", "photos": "crops of the sample photographs of scikit-learn", "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100", "svhn": "SVHN", "stl10": "STL-10", "mnist": "MNIST", "fashion_mnist": "Fashion-MNIST",
    "imagefolder": "images from a folder", "tsv": "sentences from a file",
}
NETWORKS = {
    "resnet18": "ResNet-18", "resnet34": "ResNet-34", "resnet50": "ResNet-50", "mobilenetv2": "MobileNetV2", "vgg11": "VGG-11",
    "vgg16": "VGG-16", "alexnet": "AlexNet", "cnn4": "a network of two convolutions and two dense layers", "mlp": "a multilayer perceptron",
    "vit": "a vision transformer", "opt": "an OPT transformer",
}
PARTITIONS = {
    "iid": "in equal random parts", "shards": "in label shards ({partition.classes} a client)",
    "classes": "with {partition.classes} classes a client", "dirichlet": "class by class by Dirichlet({partition.beta}) over clients",
    "dirichlet_balanced": "in equal sizes by Dirichlet({partition.beta}) over classes",
    "ratio": "with a share of {partition.ratio} from one main class", "quantity": "in sizes by Dirichlet({partition.beta})",
    "longtail": "with a long tail over the classes (imbalance {partition.imbalance})",
}
OPTIMISERS = {"sgd": "SGD", "nesterov": "SGD with Nesterov momentum", "adam": "Adam", "adamw": "AdamW"}
NORMALISED = {"resnet18", "resnet34", "resnet50", "mobilenetv2", "vgg11", "vgg16"}
"""Networks that read the field `norm`."""
CENTRAL = ("moco", "centralised")


def finished(study: Study) -> list[Run]:
    """The runs that a paper may speak of."""
    return [run for run in study.runs if run.state == FINISHED]


def cited(keys: Iterable[str]) -> str:
    """The mark of a citation, empty without keys."""
    joined = ",".join(dict.fromkeys(keys))
    return f"{OPEN}{joined}{CLOSE}" if joined else ""


def clean(value: object) -> str:
    """A text of a run in one line, without marks."""
    return " ".join(str(value).replace(OPEN, "").replace(CLOSE, "").split())


def listed(items: Iterable[str], word: str = "and") -> str:
    """a; a and b; a, b and c: each once."""
    known = list(dict.fromkeys(items))
    return known[0] if len(known) == 1 else f"{', '.join(known[:-1])} {word} {known[-1]}" if known else ""


def values(runs: Iterable[Run], key: str) -> list[Any]:
    """The values of a field of the configuration, each once, in order of appearance; a run that lacks it is left out."""
    seen: dict[str, Any] = {}
    for run in runs:
        if key in run.config:
            seen.setdefault(json.dumps(run.config[key], sort_keys=True, default=str), run.config[key])
    return list(seen.values())


def plainly(value: Any) -> str:
    """A value of a configuration as text."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else clean(value)


def told(runs: Iterable[Run], key: str, write: Callable[[Any], str] = plainly) -> str:
    """A field over the runs: 5; 5 or 20; ? where no run has it."""
    return listed((write(v) for v in values(runs, key)), "or") or "?"


def training(study: Study) -> list[str]:
    """The sentences on training."""
    runs = finished(study)
    if not runs:
        return ["No training of this study has finished."]
    return [_data(runs), _network(runs), *_families(runs), *_seeds(study), *_varied(runs)]


def _data(runs: Sequence[Run]) -> str:
    names = dict.fromkeys(r.algorithm for r in runs)
    algorithms = [ALGORITHMS.get(a, clean(a)) + cited(sources.keys(sources.ALGORITHMS, a)) for a in names]
    sets = [DATASETS.get(str(d), clean(d)) + cited(sources.keys(sources.DATASETS, str(d))) for d in values(runs, "dataset")]
    said = f"We trained {listed(algorithms)} on {listed(sets) or 'an unnamed data set'}"
    numbers = values(runs, "train_images")
    if any(n is not None for n in numbers):
        said += f", with {listed(('all' if n is None else plainly(n) for n in numbers), 'or')} training images"
    kept = told(runs, "validation_fraction", lambda share: f"{100 * share:g} %" if isinstance(share, int | float) else clean(share))
    return f"{said}; {kept} of the training split were kept for validation."


def _network(runs: Sequence[Run]) -> str:
    found = [str(a) for a in values(runs, "arch")]
    nets = [(NETWORKS[a] if a in ARCHITECTURES else "a network of our own") + cited(sources.keys(sources.ARCHITECTURES, a)) for a in found]
    said = f"The network was {listed(nets, 'or') or 'not recorded'}"
    norms = values(runs, "norm")
    if norms and set(found) <= NORMALISED:
        group = f"GroupNorm{cited(['wu2018groupnorm'])} and weight standardisation{cited(['qiao2019weightstandardization'])}"
        said += f" with {listed((group if n == 'group' else 'BatchNorm' for n in norms), 'or')}"
    if values(runs, "width") not in ([], [1.0]):
        said += f", at {told(runs, 'width')} times the published width"
    cuts = sorted({r.cut for r in runs if r.algorithm not in CENTRAL}, key=depth)
    where = " (spatial convolutions on the client)" if set(found) <= {"resnet18", "resnet34", "resnet50", "vgg11", "vgg16"} else ""
    numbered = [str(c) for c in cuts if isinstance(c, int)]
    if numbered:
        said += f", cut at {listed(numbered)}{where}"
    if "full" in cuts:
        said += f"{' or' if numbered else ','} whole on the client"
    if any(v for v in values(runs, "client_from") + values(runs, "server_from")):
        some = "" if all(r.config.get("client_from") or r.config.get("server_from") for r in runs) else "some "
        said += f"; {some}runs started from the weights of an earlier run"
    return said + "."


def _families(runs: Sequence[Run]) -> list[str]:
    """Clients and optimisation, for each kind of training by itself, since they read different fields."""
    kinds: dict[str, list[Run]] = {}
    for run in runs:
        kind = "supervised" if run.algorithm in SUPERVISED + FEDERATED else "fedssl" if run.algorithm in FEDERATED_SSL else "ssl"
        kinds.setdefault(f"{kind} central" if run.algorithm in CENTRAL else kind, []).append(run)
    said = []
    for kind, some in kinds.items():
        names = listed(ALGORITHMS.get(a, clean(a)) for a in dict.fromkeys(r.algorithm for r in some))
        lead = f"{names}: " if len(kinds) > 1 else ""
        if not kind.endswith("central"):
            said.append(_begin(lead, _clients(some)))
        said.append(_begin(lead, _optimisation(some, kind.split()[0])))
    return said


def _begin(lead: str, sentence: str) -> str:
    return lead + sentence if lead else sentence[0].upper() + sentence[1:]


def _clients(runs: Sequence[Run]) -> str:
    kinds = [str(k) for k in values(runs, "partition.kind")]
    rules = []
    for kind in kinds:
        text = PARTITIONS.get(kind, clean(kind))
        for name in ("classes", "beta", "ratio", "imbalance"):
            own = [r for r in runs if str(r.config.get("partition.kind")) == kind]
            text = text.replace(f"{{partition.{name}}}", told(own, f"partition.{name}"))
        rules.append(text + cited(sources.keys(sources.PARTITIONS, kind)))
    cohort = told(runs, "clients_per_round", lambda p: "all" if p is None else plainly(p))
    return f"the training data were dealt to {told(runs, 'clients')} clients {listed(rules, 'or')}; {cohort} of them took part in a round."


def _optimisation(runs: Sequence[Run], kind: str) -> str:
    known = [OPTIMISERS.get(str(o), clean(o)) for o in values(runs, "optimiser")] if kind == "supervised" else ["SGD"]
    said = (f"training took {told(runs, 'rounds')} rounds with batches of {_batch(runs)}, "
            f"{listed(known, 'or')} (momentum {told(runs, 'momentum')}, weight decay {told(runs, 'weight_decay')}), initial rates of "
            f"{told(runs, 'client_lr')} (client) and {told(runs, 'server_lr')} (server), {told(runs, 'schedule')} schedule, in "
            f"{told(runs, 'precision')}")
    if kind == "supervised":
        steps = [r for r in runs if r.config.get("local_steps") is not None]
        epochs = [r for r in runs if r.config.get("local_steps") is None]
        said += f"; local epochs a round: {told(epochs, 'local_epochs')}" if epochs else ""
        said += f"; local steps a round: {told(steps, 'local_steps')}" if steps else ""
        zeroth = {r.config.get("mu_splitfed.estimator") == "spsa" for r in runs if r.algorithm == "mu_splitfed"}
        some = "some runs of " if len(zeroth) == 2 else ""
        said += f"; {some}MU-SplitFed estimated gradients by two-point differences" if True in zeroth else ""
    else:
        said += "; " + _contrast(runs, kind)
    trials = sum(r.config.get("max_steps") is not None for r in runs)
    return f"{said}{f'; {trials} of the runs were trials that stopped early' if trials else ''}."


def _batch(runs: Sequence[Run]) -> str:
    """Images in a step: of a client, or of all of them where training is in one place."""
    if any(r.algorithm not in CENTRAL for r in runs):
        return f"{told(runs, 'batch_size')} images a client"
    sizes = [(r.config.get("clients_per_round") or r.config.get("clients"), r.config.get("batch_size")) for r in runs]
    return f"{listed((plainly(p * b) for p, b in sizes if isinstance(p, int) and isinstance(b, int)), 'or') or '?'} images"


def _contrast(runs: Sequence[Run], kind: str) -> str:
    queued = [r for r in runs if r.algorithm not in ("fedbyol", "fedema")]
    averaged = kind == "ssl" and any(r.algorithm not in CENTRAL for r in runs)
    parts = [f"{told(runs, 'syncs_per_round')} averagings a round"] if averaged else []
    if queued:
        parts.append(f"InfoNCE{cited(['he2020moco'])} at temperature {told(queued, 'temperature')} against a queue of "
                     f"{told(queued, 'queue_size')} keys (symmetric: {told(queued, 'symmetric')})")
    return ", ".join([*parts, f"momentum networks with decay {told(runs, 'ema')}"])


def _seeds(study: Study) -> list[str]:
    runs = finished(study)
    counts = sorted({len({r.seed for r in g.runs if r.state == FINISHED}) for g in study.groups} - {0})
    many = f"{counts[0]}" if counts[0] == counts[-1] else f"{counts[0]} to {counts[-1]}"
    seeds = listed(str(s) for s in sorted({r.seed for r in runs}, key=str))
    said = [f"Every setting was trained with {many} {'seed' if counts[-1] == 1 else 'seeds'} ({seeds}); "
            f"{len(runs)} {'run' if len(runs) == 1 else 'runs'} finished."]
    if any(g.repeated for g in study.groups):
        said.append("Some settings hold several runs of one seed, which are averaged inside that seed.")
    return said


def _varied(runs: Sequence[Run]) -> list[str]:
    """Fields that differ; options of a defence stand with the defences."""
    fields = [k for k in dict.fromkeys(k for r in runs for k in r.config) if k not in APART and k.split(".")[0] not in DEFENCES[1:]]
    names = [k for k in fields if len(values(runs, k)) > 1]
    if not names:
        return []
    shown = "; ".join(map(_field(runs), names))
    return [f"Besides algorithm, cut and seed, these fields of the configuration differ between runs: {shown}."]


def _field(runs: Sequence[Run]) -> Callable[[str], str]:
    def write(name: str) -> str:
        known = values(runs, name)
        if any(isinstance(v, str) and ("/" in v or "\\" in v) for v in known):  # a place on somebody's machine is no setting
            return f"{clean(name)} ({len(known)} values)"
        return f"{clean(name)} ({listed('none' if v is None else plainly(v) for v in known)})"

    return write
