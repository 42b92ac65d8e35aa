"""Where everything that a study can use was published: names -> keys of `references.bib`, and the entries themselves.

An empty tuple says that the thing has no publication of its own (ours, or common practice). A test holds the tables against the names that
the program knows.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

FILE = Path(__file__).parent / "references.bib"

Keys = tuple[str, ...]

ALGORITHMS: Mapping[str, Keys] = {
    "mocosfl": ("li2023mocosfl",), "monacosfl": ("przewiezlikowski2024deepcut",), "moco": ("chen2020mocov2",),
    "fedmoco": ("chen2020mocov2", "zhuang2022fedema"), "fedbyol": ("grill2020byol", "zhuang2021fedu"), "fedema": ("zhuang2022fedema",),
    "sfl_v1": ("thapa2022splitfed",), "sfl_v2": ("thapa2022splitfed",), "minibatch_sfl": ("huang2023minibatchsfl",),
    "smofi": ("yang2026smofi",), "mu_splitfed": ("liang2025musplitfed",), "gas": ("yang2025gas",),
    "split_learning": ("gupta2018splitlearning",), "centralised": (),
    "fedavg": ("mcmahan2017fedavg",), "fedavgm": ("hsu2019fedavgm",), "slowmo": ("wang2020slowmo",), "fedprox": ("li2020fedprox",),
    "scaffold": ("karimireddy2020scaffold",), "fedcm": ("xu2021fedcm",), "fedsam": ("qu2022fedsam", "caldarola2022fedsam"),
    "mofedsam": ("qu2022fedsam",), "fedgamma": ("dai2023fedgamma",), "feddyn": ("acar2021feddyn",), "fedsmoo": ("sun2023fedsmoo",),
    "fedlesam": ("fan2024fedlesam",), "fedlesam_s": ("fan2024fedlesam",), "fedlesam_d": ("fan2024fedlesam",),
    "fedwmsam": ("li2025fedwmsam",),
}

ATTACKS: Mapping[str, Keys] = {
    "blind": (), "ridge": (), "decoder": ("li2022ressfl", "li2023mocosfl"), "oracle": (), "twoview": (),
    "optimise": ("mahendran2015understanding", "he2019inversion"), "unsplit": ("erdogan2022unsplit",), "fora": ("xu2024fora",),
    "pcat": ("gao2023pcat",), "sdar": ("zhu2025sdar",),
    "membership-norm": ("sun2025lpla",), "membership-alignment": ("liu2021encodermi",), "membership-encodermi": ("liu2021encodermi",),
    "membership-partcrop": ("zhu2024partcrop",), "membership-infonce": (), "membership-momentum-gap": (),
    "membership-loss": ("yeom2018privacy",), "membership-confidence": ("salem2019mlleaks",), "membership-rmia": ("zarifzadeh2024rmia",),
    "membership-lira": ("carlini2022lira",),
    "label-fewshot": (), "label-norm": ("li2022labelleakage",), "label-direction": ("li2022labelleakage",),
    "label-completion": ("fu2022label",),
    "gradient": ("zhu2019dlg", "geiping2020inverting"), "hijack": ("pasquini2021fsha",),
}
"""By the name in the result file."""

DEFENCES: Mapping[str, Keys] = {
    "none": (), "gaussian": (), "laplace": ("li2022ressfl",), "local_dp": ("balle2018gaussian",), "dropout": ("li2022ressfl",), "topk": (),
    "quantise": (), "nopeek": ("vepakomma2020nopeek",), "shuffle": ("yao2022shuffling",), "ressfl": ("li2022ressfl",),
    "shredder": ("mireshghallah2020shredder",), "adversarial": ("li2022ressfl", "goodfellow2015fgsm"),
    "dp_sgd": ("abadi2016dpsgd", "yousefpour2021opacus"),
}

DATASETS: Mapping[str, Keys] = {
    "digits": ("pedregosa2011sklearn",), "photos": ("pedregosa2011sklearn",), "cifar10": ("krizhevsky2009cifar",),
    "cifar100": ("krizhevsky2009cifar",), "svhn": ("netzer2011svhn",), "stl10": ("coates2011stl10",), "mnist": ("lecun1998mnist",),
    "fashion_mnist": ("xiao2017fashionmnist",), "imagefolder": (), "tsv": (),
}

ARCHITECTURES: Mapping[str, Keys] = {
    "resnet18": ("he2016resnet",), "resnet34": ("he2016resnet",), "resnet50": ("he2016resnet",), "mobilenetv2": ("sandler2018mobilenetv2",),
    "vgg11": ("simonyan2015vgg",), "vgg16": ("simonyan2015vgg",), "alexnet": ("krizhevsky2012alexnet",), "cnn4": ("mcmahan2017fedavg",),
    "mlp": (), "vit": ("dosovitskiy2021vit",), "opt": ("zhang2022opt",),
}

PARTITIONS: Mapping[str, Keys] = {
    "iid": (), "shards": ("mcmahan2017fedavg",), "classes": (), "dirichlet": ("yurochkin2019dirichlet",),
    "dirichlet_balanced": ("hsu2019fedavgm", "acar2021feddyn"), "ratio": (), "quantity": (), "longtail": ("cui2019longtail",),
}

PROBES: Mapping[str, Keys] = {
    "knn": ("wu2018instance",), "linear": (), "finetune": (), "classifier": (), "sharpness": ("foret2021sam",),
}

TEXTBOOK: Mapping[str, str] = {
    "{\\k{e}}": "ę", "{\\'z}": "ź", "{\\'n}": "ń", "{\\'S}": "Ś", "{\\'e}": "é", "{\\'i}": "í", "{\\`e}": "è", '{\\"u}': "ü",
    '{\\"o}': "ö", '{\\"e}': "ë", "{\\u{g}}": "ğ", "{\\c{c}}": "ç", "{\\c{C}}": "Ç", "\\&": "&", "--": "–",
}
"""The accents that occur in `references.bib`."""

OGONEK = r'@preamble{ "\ProvideTextCommandDefault{\k}[1]{\c{#1}}" }'
"""The old default encoding OT1 has no such accent and stops at it; T1 prints its own."""


def keys(table: Mapping[str, Keys], name: str) -> Keys:
    """Where something was published; nothing for a name that the table does not know, such as a user's own network."""
    return table.get(name, ())


@cache
def entries() -> Mapping[str, str]:
    """All entries of `references.bib`, verbatim, by key.

    Raises:
        ValueError: the same key twice.
    """
    found: dict[str, str] = {}
    for text in re.split(r"\n(?=@)", FILE.read_text(encoding="utf-8")):
        known = re.match(r"@\w+\{([^,\s]+),", text)
        if known:
            if known[1] in found:
                raise ValueError(f"references.bib has {known[1]} twice")
            found[known[1]] = text.strip()
    return found


def value(key: str, name: str) -> str | None:
    """A field of an entry as plain text, without LaTeX: `value("wilson1927interval", "year")`."""
    known = re.search(rf"^\s*{name} = \{{(.*)\}},?$", entries()[key], re.MULTILINE)
    return plain(known[1]) if known else None


def plain(text: str) -> str:
    """Text of an entry without its LaTeX."""
    for written, letter in TEXTBOOK.items():
        text = text.replace(written, letter)
    return unicodedata.normalize("NFC", re.sub(r"[{}]", "", text))


def short(key: str) -> str:
    """An entry in running text: Li et al. 2023; Gao and Zhang 2023; Wilson 1927."""
    surnames = [name.split(",")[0].strip() for name in (value(key, "author") or "").split(" and ")]
    who = surnames[0] if len(surnames) == 1 else f"{surnames[0]} and {surnames[1]}" if len(surnames) == 2 else f"{surnames[0]} et al."
    return f"{who} {value(key, 'year')}"


def bibliography(used: Sequence[str]) -> str:
    """Entries as a BibTeX file, each once, in the order of first use; it needs no T1 fonts.

    Raises:
        KeyError: a key that `references.bib` does not have.
    """
    text = "\n\n".join(entries()[key] for key in dict.fromkeys(used)) + ("\n" if used else "")
    return f"{OGONEK}\n\n{text}" if "{\\k{" in text else text
