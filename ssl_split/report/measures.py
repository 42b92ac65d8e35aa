"""What was measured, in sentences for a paper: traffic, probes, attacks, defences, intervals, versions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from probes.statistics import MIN_RUNS
from ssl_split.report import sources
from ssl_split.report.collect import Outcome, Run
from ssl_split.report.paragraph import CENTRAL, cited, clean, finished, listed, plainly, told, values
from ssl_split.report.table import BOUNDS, MONITORS, Group, Study, on_views, source

PROBES = {
    "linear": "a linear probe", "knn": "k nearest neighbours", "finetune": "fine-tuning on few labels",
    "classifier": "the run's own classifier",
}
INVERSION = {
    "blind": "the mean of the attacker's images", "ridge": "closed-form ridge regression from smashed data to pixels",
    "decoder": "a trained decoder", "oracle": "a decoder trained on the clients' own images, as a bound",
    "optimise": "a search for the image", "twoview": "a joint search on two views", "unsplit": "UnSplit", "fora": "FORA", "pcat": "PCAT",
    "sdar": "SDAR", "gradient": "gradient matching", "hijack": "feature-space hijacking",
}
CAPABILITIES = {
    "smashed": "the smashed data", "query": "the client's answers to own images", "weights": "the client's weights",
    "momentum_weights": "the momentum client's weights", "architecture": "the client's architecture",
    "server_model": "the server's network",
    "aux_same": "own images from the same distribution", "aux_other": "own images from another distribution",
    "aux_labels": "labels of own images", "labels": "labels of the clients' images", "server_training": "what passes during training",
    "gradient_control": "false gradients", "gradient_view": "the returned gradients", "weight_deltas": "a client's updates",
    "momentum_view": "the momentum activations", "second_view": "activations of a second view", "private_pairs": "the clients' own images",
}
DEFENCES = {
    "gaussian": "Gaussian noise", "laplace": "Laplace noise", "local_dp": "local differential privacy by clipping and Gaussian noise",
    "dropout": "dropout", "topk": "top-k sparsification", "quantise": "quantisation", "nopeek": "NoPeek", "shuffle": "shuffling",
    "ressfl": "ResSFL", "shredder": "Shredder", "adversarial": "adversarial noise", "dp_sgd": "DP-SGD of the client half",
}


def measured(study: Study) -> list[str]:
    """The sentences on measurement; none where no training has finished."""
    runs = finished(study)
    if not runs:
        return []
    return [*_traffic(runs), *_probes(study, runs), *_defences(runs), *_attacks(study, runs), *_intervals(study), *_versions(runs)]


_FACTS = {"aux": "{} own images", "targets": "{} targets", "budget": "budget {}", "preset": "preset {}"}


def outcomes(runs: Iterable[Run], kind: str) -> list[Outcome]:
    """All probes or attacks of runs."""
    return [o for run in runs for o in run.of(kind)]


def _traffic(runs: Sequence[Run]) -> list[str]:
    if all(r.number("mib_per_client") is None for r in runs if r.algorithm not in CENTRAL):
        return []
    codecs = listed(plainly(v) for name in ("activations", "gradients", "weights", "ema") for v in values(runs, f"wire.{name}"))
    header = values(runs, "wire.header_bytes")
    apart = "" if header in ([], [0]) else f", plus {told(runs, 'wire.header_bytes')} bytes a message"
    return ["Traffic is the size of all messages between a client and the server as encoded"
            f"{f' ({codecs})' if codecs else ''}{apart}, in both directions, in MiB (2^20 bytes) per client over the training."]


def _probes(study: Study, runs: Sequence[Run]) -> list[str]:
    said = []
    found = outcomes(runs, "probe")
    for name in dict.fromkeys(o.name for o in found):
        some = [o for o in found if o.name == name]
        where = listed(clean(f) for o in some if (f := o.values.get("features")))
        images = listed(plainly(int(n)) for o in some if (n := o.number("test_images")) is not None)
        said.append(f"{PROBES.get(name, clean(name))}{cited(sources.keys(sources.PROBES, name))}"
                    + (f" on {where} features" if where and name != "classifier" else "") + (f" ({images} test images)" if images else ""))
    if not said:
        monitored = study.accuracy in MONITORS.values()
        return [f"Accuracy is that of {study.accuracy}, as measured during training; no probe was run."] if monitored else []
    rulers = [text for key, text in (("raw_pixels", "raw pixels"), ("untrained", "the untrained network"))
              if any(o.number(key, "accuracy") is not None for o in found)]
    beside = f", each beside the same measurement on {listed(rulers)}" if rulers else ""
    return [f"Accuracy was measured by {listed(said)}{beside}."]


def _defences(runs: Sequence[Run]) -> list[str]:
    names = [str(d) for d in values(runs, "defence") if d not in (None, "none")]
    if not names:
        return []
    shown = [DEFENCES.get(n, clean(n)) + cited(sources.keys(sources.DEFENCES, n)) + _options(runs, n) for n in names]
    return [f"Clients defended their smashed data or their training by {listed(shown, 'or')}."]


def _options(runs: Sequence[Run], defence: str) -> str:
    """What a defence was set to: (sigma 0.5 or 2)."""
    own = [r for r in runs if r.config.get("defence") == defence]
    keys = dict.fromkeys(k for r in own for k in r.config if k.startswith(f"{defence}."))
    said = ", ".join(f"{clean(k.removeprefix(f'{defence}.'))} {told(own, k)}" for k in keys)
    return f" ({said})" if said else ""


def _attacks(study: Study, runs: Sequence[Run]) -> list[str]:
    found = outcomes(runs, "attack")
    rebuild = [o for o in found if o.number("mse") is not None]
    member = [o for o in found if o.number("auc") is not None and o.name.startswith("membership-")]
    label = [o for o in found if o.name.startswith("label-")]
    return [*_inversion(study, rebuild), *_told_apart("Membership was inferred by", member), *_told_apart("Labels were inferred by", label)]


def threat(found: Sequence[Outcome]) -> str:
    """What the attacker has, in words: the union of what the results declare."""
    needs = dict.fromkeys(str(n) for o in found for n in o.values.get("needs") or [])
    return listed(CAPABILITIES.get(n, clean(n)) for n in needs)


def _inversion(study: Study, found: Sequence[Outcome]) -> list[str]:
    """Who rebuilt what with which means, how it was scored, which attack counts."""
    if not found:
        return []
    return [_rebuilt(found), *_scored(found), *_chosen(study, found), *_against_defences(found)]


def _rebuilt(found: Sequence[Outcome]) -> str:
    said = []
    for name, recorded in dict.fromkeys((o.name, bool(o.values.get("wire"))) for o in found):
        some = [o for o in found if (o.name, bool(o.values.get("wire"))) == (name, recorded)]
        facts = [f"needs {threat(some)}"] if threat(some) else []
        facts += [said_as.format(known) for key, said_as in _FACTS.items() if (known := _texts(some, key))]
        seeds = sorted({len(s) for o in some if isinstance(s := o.values.get("seeds"), list)})
        facts += [f"{listed((str(n) for n in seeds), 'or')} attacker seeds"] if seeds and seeds[-1] > 1 else []
        facts += ["on recorded messages of the training"] if recorded else []
        said.append(f"{INVERSION.get(name, clean(name))}{cited(sources.keys(sources.ATTACKS, name))} ({'; '.join(facts)})")
    return f"Training images were rebuilt from what crosses the wire by {listed(said)}."


def _scored(found: Sequence[Outcome]) -> list[str]:
    sentences = []
    own = [o for o in found if {"aux_same", "aux_other"} & set(o.values.get("needs") or [])]
    if any(source(o) is None for o in own):
        sentences.append("The attacker's own images come from the test split, which no client holds.")
    if others := list(dict.fromkeys(clean(text) for o in own if (text := source(o)) is not None)):
        lead = "In some attacks they" if sentences else "The attacker's own images"
        sentences.append(f"{lead} come from {listed(others, 'or')}.")
    if any(on_views(o) and not o.values.get("wire") for o in found):
        sentences.append("Some attacks rebuilt random views of the images, made as clients make them in training.")
    ssim = f", SSIM{cited(['wang2004ssim', 'kastryulin2022piq'])} (11 x 11 Gaussian window, valid places)" if _any(found, "ssim") else ""
    r2 = ", and R2 = 1 - MSE / MSE of the blind guess (the mean of the attacker's images)" if _any(found, "r2") else ""
    beside = " Each attack stands beside the same attack on the untrained client." if _any(found, "untrained_mse") else ""
    sentences.append(f"Reconstructions were scored as numbers in [0, 1] by MSE{ssim}{r2}.{beside}")
    return sentences


def _chosen(study: Study, found: Sequence[Outcome]) -> list[str]:
    if not any(o.number("validation_mse") is not None for g in study.groups for _, o in g.strongest):
        return []
    bounds = listed(b for b in BOUNDS if any(o.name == b for o in found))
    return ["The strongest attack of a run is the one with the lowest error on the attacker's own validation images"
            f"{f'; {bounds} never counted as one' if bounds else ''}."]


def _against_defences(found: Sequence[Outcome]) -> list[str]:
    learns = {o.values.get("adaptive") for o in found} - {None}
    if not learns:
        return []
    who = "knew it and learned through it" if learns == {True} else "did not know it" if learns == {False} else "knew it in some results"
    beside = " Beside it stands an attacker who does not know the defence." if _any(found, "unaware", "r2") else ""
    return [f"Against a defence that changes what is sent, the attacker {who}.{beside}"]


def _told_apart(lead: str, found: Sequence[Outcome]) -> list[str]:
    said = []
    for name in dict.fromkeys(o.name for o in found):
        some = [o for o in found if o.name == name]
        facts = [f"needs {threat(some)}"] if threat(some) else []
        facts += [f"{_texts(some, k)} {word}" for k, word in (("members", "members"), ("nonmembers", "others")) if _texts(some, k)]
        kind = name.split("-", 1)[1]
        said.append(f"{clean(kind)}{cited(sources.keys(sources.ATTACKS, name))}" + (f" ({'; '.join(facts)})" if facts else ""))
    return [f"{lead} {listed(said)}."] if said else []


def _texts(found: Sequence[Outcome], key: str) -> str:
    return listed((plainly(v) for o in found if (v := o.values.get(key)) is not None), "or")


def _any(found: Iterable[Outcome], *keys: str) -> bool:
    return any(o.number(*keys) is not None for o in found)


def _intervals(study: Study) -> list[str]:
    seeds = {_seeds(group) for group in study.groups} - {0}
    said = []
    bootstrap = any(isinstance(o.values.get("intervals"), Mapping) for g in study.groups for _, o in g.strongest)
    probed = any(g.probed for g in study.groups) or study.accuracy in MONITORS.values()
    if 1 in seeds and (probed or bootstrap):
        kinds = [f"Wilson intervals{cited(['wilson1927interval'])} over images (accuracies)"] if probed else []
        kinds += [f"bootstrap intervals{cited(['efron1979bootstrap'])} over targets (reconstruction scores)"] if bootstrap else []
        said.append(f"For one seed, 95 % intervals are {listed(kinds)}.")
    if any(n > 1 for n in seeds):
        said.append("Over several seeds we give mean and standard deviation"
                    + ("; an attacker's own seeds are averaged inside a run" if any(g.strongest for g in study.groups) else "")
                    + (f"; from {MIN_RUNS} seeds on a 95 % t-interval." if max(seeds) >= MIN_RUNS else "; two seeds have no interval."))
    return said


def _seeds(group: Group) -> int:
    return max((v.n for v in group.values.values()), default=0)


def _versions(runs: Sequence[Run]) -> list[str]:
    def known(*path: str) -> str:
        found: list[str] = []
        for run in runs:
            inner: Any = run.environment
            for key in path:
                inner = inner.get(key) if isinstance(inner, Mapping) else None
            found += [] if inner is None else [clean(inner)]
        return listed(sorted(set(found)))

    results = listed(sorted({str(int(n)) for r in runs if (n := r.number("results_version")) is not None}))
    parts = [f"ssl_split {known('ssl_split')}" if known("ssl_split") else "ssl_split"]
    parts += [f"commit {known('commit')}"] if known("commit") else []
    parts += [f"RESULTS_VERSION {results}"] if results else []
    parts += [f"PyTorch{cited(['paszke2019pytorch'])} {known('packages', 'torch')}"] if known("packages", "torch") else []
    return [f"All numbers were computed by {', '.join(parts)}."]
