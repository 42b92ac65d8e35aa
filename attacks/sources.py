"""Where the attacker's own images come from if not from the test split, and which images are attacked instead of the members as they are.

Colluding clients (`--aux-clients`), another data set (`--aux-dataset`), or, in the preset `mocosfl_published` alone, the training split;
targets as random views (`--target-views`), or at the contrast of the published tensor.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attacks.api import MOCOSFL
from attacks.sets import Pool, Sets
from ssl_split.config import Config
from ssl_split.data import images
from ssl_split.data.images import Dataset, ImageSet, denormalise, normalise, to_float
from ssl_split.data.torchvision_sets import SETS
from ssl_split.fields import field
from ssl_split.names import DATASETS
from ssl_split.run import Checkpoint

EMBEDDED = ("digits", "photos")
"""Data sets that need no folder."""
TRAIN_SHARE = 0.01
"""Of the training split, in the preset `mocosfl_published`."""
OFFICIAL_STD = {"cifar10": (0.247, 0.243, 0.261)}
"""Deviations by which the published tensor of targets was normalised; the client is fed, and the truth computed, with the run's own."""


@dataclass(frozen=True)
class Sources:
    """Options of a command whose attacker may have other images than those of the test split."""

    aux_clients: tuple[int, ...] | None = field(None, "clients that collude with the attacker, who owns their training images; targets are "
                                                      "those of the others (default: none, the images of the test split)", low=0,
                                                section="the attacker's images on a run")
    aux_dataset: str | None = field(None, "another data set from which the attacker's images come (aux_other), without labels of the "
                                          "run's classes", choices=tuple(name for name in DATASETS if name != "tsv"))
    aux_data_dir: str | None = field(None, "folder that holds it")


NOTHING = {"aux_clients": None, "aux_dataset": None}
"""What a result records where no source is set; its name does not change by that."""


def refuse_elsewhere(options: Any) -> None:
    """Check that nothing that belongs to a run is set beside a client from elsewhere.

    Raises:
        ValueError: one sentence.
    """
    for name in ("aux_clients", "aux_dataset", "aux_data_dir", "target_views"):
        if getattr(options, name, None):
            raise ValueError(f"--{name.replace('_', '-')} belongs to a run, and --encoder names a client from elsewhere: its images are "
                             "the folders --targets and --aux")
    if getattr(options, "preset", None) == MOCOSFL:
        raise ValueError(f"--preset {MOCOSFL} takes images of a run's training split, and a client from elsewhere has none: use --preset "
                         "published with --aux DIR")


def check(options: Sources, config: Config) -> None:
    """Check that the sources go together and exist in a run.

    Raises:
        FileNotFoundError, ValueError: one sentence that says what is wrong.
    """
    chosen, name, where = options.aux_clients, options.aux_dataset, options.aux_data_dir
    if chosen is not None and name is not None:
        raise ValueError("--aux-clients and --aux-dataset are two sources of the attacker's images: give one of them")
    if getattr(options, "preset", None) == MOCOSFL and (chosen is not None or name is not None):
        raise ValueError(f"--preset {MOCOSFL} takes the attacker's images from the training split: leave --aux-clients and --aux-dataset "
                         "out, or use --preset published")
    if chosen is not None:
        _check_clients(chosen, config.clients)
    if name is None:
        if where is not None:
            raise ValueError("--aux-data-dir is the folder of another data set: name that with --aux-dataset")
        return
    if name not in EMBEDDED and where is None:
        raise ValueError(f"--aux-dataset {name} needs --aux-data-dir DIR, the folder that holds it")
    if where is not None and not Path(where).expanduser().is_dir():
        raise FileNotFoundError(f"--aux-data-dir {where}: there is no such folder")
    if name == config.dataset and (name != "imagefolder" or _same_folder(where, config.data_dir)):
        raise ValueError(f"--aux-dataset {name} is the run's own data set: without the flag the attacker has its test split")


def _check_clients(chosen: Sequence[int], clients: int) -> None:
    if not chosen:
        raise ValueError("aux_clients names no client: leave it out, or give the numbers of clients")
    if unknown := [c for c in chosen if c >= clients]:
        raise ValueError(f"aux_clients: client {unknown[0]} does not exist, there are {clients}, counted from 0")
    if twice := [c for i, c in enumerate(chosen) if c in chosen[:i]]:
        raise ValueError(f"aux_clients names client {twice[0]} twice")
    if len(chosen) == clients:
        raise ValueError(f"aux_clients names all clients ({clients}): none is left to be attacked")


def _same_folder(first: str | None, second: str | None) -> bool:
    return None not in (first, second) and Path(str(first)).expanduser().resolve() == Path(str(second)).expanduser().resolve()


def check_inversion(options: Any, config: Config, *, labelled: bool, sends_pairs: bool) -> None:
    """As `check`, of `attacks.invert`.

    Args:
        options: Of the command.
        config: Of the run.
        labelled: Whether the attack learns from labels of its own images.
        sends_pairs: Whether it rebuilds the images behind two views.

    Raises:
        FileNotFoundError, ValueError: one sentence that says what is wrong.
    """
    check(options, config)
    if labelled:
        refuse_labels(options, options.method)
    if options.target_views and (options.wire or sends_pairs):
        why = "what a run has sent (--wire) are views already" if options.wire else f"{options.method} has views of its own"
        raise ValueError(f"--target-views has no meaning here: {why}")
    if options.preset == MOCOSFL and (options.wire or options.target_views):
        raise ValueError(f"--preset {MOCOSFL} attacks images as they are: leave --wire and --target-views out, or use --preset published")


def refuse_labels(options: Sources, attack: str) -> None:
    """Check that an attack that learns from labels of its own images has some of the run's classes.

    Raises:
        ValueError: its images are of another data set.
    """
    if options.aux_dataset is not None:
        raise ValueError(f"the attack {attack} needs aux_labels, and labels of {options.aux_dataset} name other classes than those of the "
                         "run: leave --aux-dataset out, or use --aux-clients")


def pool(options: Any, checkpoint: Checkpoint) -> Pool | None:
    """What the attacker's images are drawn from; None for the test split.

    Args:
        options: Checked by `check`, with `data_dir`.
        checkpoint: Of the run.

    Raises:
        FileNotFoundError, ValueError: another data set that cannot be read.
    """
    if not named(options) and getattr(options, "preset", None) != MOCOSFL:
        return None
    dataset = checkpoint.dataset(options.data_dir)
    if options.aux_clients is not None:
        return _of_clients(sorted(options.aux_clients), dataset, checkpoint.parts(dataset))
    if (name := options.aux_dataset) is not None:
        return Pool(_other(options, checkpoint.config, dataset.size), f"data set {name}", f"{name} holds no more that no client has",
                    f"images of {name} that no client holds", kind="aux_other",
                    notice=f"the attacker's images are those of {name}, training and test images of another data set")
    scaled = "; as there, the targets have 0.77 to 0.82 of their contrast" if dataset.name in OFFICIAL_STD else ""
    return Pool(dataset.train, "the training split", "the training split holds no more that are no targets",
                "training images that are no targets", members=True,
                notice="the attacker's images are clients' training images, as in the published code; no honest-but-curious server has "
                       f"them{scaled}")


def _of_clients(chosen: Sequence[int], dataset: Dataset, parts: Sequence[Tensor]) -> Pool:
    one = len(chosen) == 1
    words = f"client{'' if one else 's'} {', '.join(map(str, chosen))}"
    return Pool(dataset.train.select(torch.cat([parts[c] for c in chosen])), words,
                f"{words} {'holds' if one else 'hold'} no more that no other client has", f"images of {words} that no other client holds",
                colluders=tuple(chosen),
                notice=f"the attacker's images are those of {words}, who {'colludes' if one else 'collude'} with it: the attacked client "
                       "half was trained on them, and images of the other clients alone are attacked")


def _other(options: Sources, config: Config, size: int) -> ImageSet:
    """Training and test images of another data set, at the run's size, without labels."""
    assert options.aux_dataset is not None
    asked = dataclasses.replace(Config(), dataset=options.aux_dataset, data_dir=options.aux_data_dir, image_size=size,
                                validation_fraction=0.0, threads=config.threads)
    try:
        found = images.load(asked)
    except FileNotFoundError:
        if options.aux_dataset in SETS:
            raise FileNotFoundError(f"{options.aux_dataset} is not in {options.aux_data_dir} or is damaged: name the folder that holds it "
                                    "with --aux-data-dir") from None
        raise
    return ImageSet(torch.cat([found.train.images, found.test.images]))


def wanted(options: Any, dataset: Dataset) -> int:
    """Images that an inversion's attacker would have if there were enough.

    Raises:
        ValueError: 1 % of the training split is no two images.
    """
    if options.preset != MOCOSFL or options.aux is not None:
        return int(options.aux_images)
    count = round(TRAIN_SHARE * len(dataset.train))
    if count < 2:
        raise ValueError(f"1 % of the {len(dataset.train)} training images are fewer than two, and --preset {MOCOSFL} takes so many: set "
                         "--aux N")
    return count


def named(options: Sources) -> dict[str, Any]:
    """The sources that are set, as a result records them; a folder where it says which data set it is."""
    made: dict[str, Any] = {}
    if options.aux_clients is not None:
        made["aux_clients"] = sorted(options.aux_clients)  # in any order the same attack
    if options.aux_dataset is not None:
        made["aux_dataset"] = options.aux_dataset
    if options.aux_dataset == "imagefolder":
        made["aux_data_dir"] = options.aux_data_dir
    return made


def digest(found: Pool | None) -> dict[str, str]:
    """A hash of another data set's images, which names a result beside the set's name; nothing where the run's images are used."""
    if found is None or found.kind != "aux_other":
        return {}
    return {"aux_images": hashlib.sha256("".join(found.images.digests()).encode()).hexdigest()[:16]}


def told(made: Sets) -> Sets:
    """Sets whose targets are shown as random views, with words that say so."""
    said = "the targets are random views, as the run's clients make them in training, and so are the attacker's images"
    return dataclasses.replace(made, record={**made.record, "truth": "augmented view"}, notices=(*made.notices, said))


def classes_known(made: Sets) -> Sets:
    """Labelled sets, with words on classes of the targets that the attacker has no image of.

    Raises:
        ValueError: all images of the attacker have one label.
    """
    assert made.aux.labels is not None
    assert made.targets.labels is not None
    own, asked = set(made.aux.labels.tolist()), set(made.targets.labels.tolist())
    if len(own) < 2:
        raise ValueError(f"all images of the attacker ({made.record.get('aux_from', 'the test split')}) have one label: nothing can "
                         "be learnt from them; name other --aux-clients, or a larger --aux")
    if lacking := asked - own:
        said = f"the attacker has images of {len(own)} classes and cannot name {len(lacking)} of the {len(asked)} of the targets"
        return dataclasses.replace(made, notices=(*made.notices, said))
    return made


def true(pixels: Tensor, options: Any, dataset: Dataset) -> Tensor:
    """uint8 images `(n, 3, S, S)` in [0, 1] as the judge compares with them: as they are; in the preset `mocosfl_published` at the
    contrast of the published tensor of targets (`official`)."""
    return official(to_float(pixels), dataset) if options.preset == MOCOSFL else to_float(pixels)


def official(shown: Tensor, dataset: Dataset) -> Tensor:
    """Images in [0, 1], `(n, 3, S, S)`, normalised with other constants than those that undo it, as the published tensor of targets is.
    Data sets of which no such tensor was published stay as they are."""
    if (std := OFFICIAL_STD.get(dataset.name)) is None:
        return shown
    return denormalise(normalise(shown, dataset.mean, std), dataset.mean, dataset.std).clamp(0, 1)
