"""Public benchmark sets through torchvision, with the normalisation constants in common use."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_split.config import Config
from ssl_split.data.imageset import ImageSet, Source, Triple, resize

_TRAIN, _TEST = {"train": True}, {"train": False}


@dataclass(frozen=True)
class Public:
    """How torchvision calls a set.

    Attributes:
        loader: Class in `torchvision.datasets`.
        mean, std: Published constants; the CIFAR ones are those of the MocoSFL and MonAcoSFL scripts.
        train, test: Arguments that select a split.
        size: Default pixels per side.
    """

    loader: str
    mean: Triple
    std: Triple
    train: Mapping[str, Any] = field(default_factory=lambda: _TRAIN)
    test: Mapping[str, Any] = field(default_factory=lambda: _TEST)
    size: int = 32


SETS = {
    "cifar10": Public("CIFAR10", (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": Public("CIFAR100", (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "svhn": Public("SVHN", (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970), {"split": "train"}, {"split": "test"}),
    "stl10": Public("STL10", (0.4467, 0.4398, 0.4066), (0.2603, 0.2566, 0.2713), {"split": "train"}, {"split": "test"}, 96),
    "mnist": Public("MNIST", (0.1307,) * 3, (0.3081,) * 3),
    "fashion_mnist": Public("FashionMNIST", (0.2860,) * 3, (0.3530,) * 3),
}


def load(config: Config, size: int) -> Source:
    """A public set from `data_dir`, or fetched into it with `download`.

    Args:
        config: `dataset`, `data_dir` and `download` are read.
        size: Pixels per side. 28x28 images are padded with black to 32, every other change of size is a bilinear resize.

    Raises:
        FileNotFoundError: the data are not there, or cannot be fetched.
        ValueError: no `data_dir`.
    """
    public = SETS[config.dataset]
    if config.data_dir is None:
        raise ValueError(f"dataset {config.dataset} needs --data-dir DIR, the folder that holds it (with --download: the folder "
                         f"to fetch it into), or use the embedded --dataset digits")
    root = Path(config.data_dir).expanduser()
    if not root.is_dir() and not config.download:
        raise FileNotFoundError(f"the data directory {root} does not exist: name the folder that holds {config.dataset} with "
                                f"--data-dir, add --download to fetch it there, or use the embedded --dataset digits")
    train = _open(config.dataset, root, public.train, download=config.download)
    test = _open(config.dataset, root, public.test, download=config.download)
    classes = tuple(getattr(train, "classes", None) or map(str, range(10)))
    return Source(_image_set(train, size), _image_set(test, size), classes, public.mean, public.std)


def _open(name: str, root: Path, split: Mapping[str, Any], *, download: bool) -> Any:
    """The torchvision data set, or one sentence that says how to get it."""
    from torchvision import datasets

    loader = getattr(datasets, SETS[name].loader)
    try:
        return loader(str(root), download=download, **split)
    except (MemoryError, ImportError):
        raise
    except Exception as error:  # damaged files make torchvision raise many kinds
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        if download:
            raise FileNotFoundError(f"{name} could not be fetched into {root} ({reason}): name a folder that holds it with "
                                    f"--data-dir, or use the embedded --dataset digits") from None
        raise FileNotFoundError(f"{name} is not in {root} or is damaged: name the folder that holds it with --data-dir, add "
                                f"--download to fetch it there, or use the embedded --dataset digits") from None


def _image_set(split: Any, size: int) -> ImageSet:
    """A torchvision data set's arrays as one uint8 tensor; no picture object is kept."""
    labels = np.asarray(split.targets if hasattr(split, "targets") else split.labels)
    return ImageSet(_square(torch.as_tensor(split.data), size), torch.from_numpy(labels.astype(np.int64)))


def _square(data: Tensor, size: int) -> Tensor:
    """Uint8 (n, H, W), (n, H, W, 3) or (n, 3, H, W) as (n, 3, size, size)."""
    if data.dim() == 3:
        data = data[:, None]
    elif data.shape[-1] == 3:
        data = data.permute(0, 3, 1, 2)
    if data.shape[-1] == 28 and size == 32:
        data = F.pad(data, (2, 2, 2, 2))
    return resize(data, size).expand(-1, 3, -1, -1).contiguous()
