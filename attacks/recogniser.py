"""The judge's classifier: says what an image shows. It is a fixed recipe that has nothing to do with the attacked network.

Gradients of grey values (dense SIFT) and mean colours of 4-pixel squares at 32x32, and ridge regression to the classes. Every training
image counts three times: as it is, and twice shifted by up to 2 of 32 pixels, blurred and noisy. Reconstructions are, and SIFT brings the
gradients of every place to one length, so that on a flat ground noise that nobody sees weighs as much as an edge. Without these copies the
classifier knew .89 of 128 digits, .53 of their reconstructions at R2 .98 and .10 of them under noise of standard deviation .05.

Source: Lowe, IJCV 60(2), 2004 (SIFT, computed by kornia).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import functional as F

from attacks.fewshot import ENOUGH, PENALTIES, Rows
from ssl_split import rng
from ssl_split.config import RESULTS_VERSION
from ssl_split.files import write_tensors
from ssl_split.locks import once

COPIES = 2
"""Degraded copies of every training image."""
SHIFT, BLUR, NOISE = 2 / 32, 1.5 / 32, 0.15
"""The most of each: a share of the side, a standard deviation as a share of the side, a standard deviation of values in [0, 1]."""
FOLDS = 3
"""The penalty is chosen on one part of the images after another, on one alone from `fewshot.ENOUGH` images on."""
RECIPE = 2
"""Raised by hand when equal images give another classifier."""
SIDE, _BLOCK = 32, 256


@dataclass(frozen=True)
class Recogniser:
    """A linear classifier of `describe`'s features.

    Attributes:
        mean, scale: Of the training features, `(992,)`; constant features have scale inf.
        weights, bias: Features in these units -> a score for each class, `(classes, 992)` and `(classes,)`.
        classes: Labels in the order of the scores, int64.
    """

    mean: Tensor
    scale: Tensor
    weights: Tensor
    bias: Tensor
    classes: Tensor

    def says(self, images: Tensor) -> Tensor:
        """Classes of images in [0, 1] `(n, 3, S, S)`, int64 `(n,)`, on the CPU."""
        rows = (torch.from_numpy(describe(images)) - self.mean) / self.scale
        return self.classes[(rows @ self.weights.T + self.bias).argmax(1)]


def kept(folder: Path | None, images: Tensor, labels: Tensor) -> Recogniser:
    """The classifier that learns from these images: read if it was trained before, else trained and kept.

    It depends on nothing but the images, their labels and the recipe, so all attacks on the runs of one data set and size share it.

    Args:
        folder: Where classifiers are kept, made when needed; None keeps nothing.
        images, labels: As in `trained`.
    """
    if folder is None:
        return trained(images, labels)
    key = {"results_version": RESULTS_VERSION, "recipe": RECIPE, "size": images.shape[-1], "images": len(images),
           "content": _content(images, labels)}
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]
    path = folder / f"recogniser-{name}.safetensors"

    def make() -> Recogniser:
        made = trained(images, labels)
        write_tensors(path, {f.name: getattr(made, f.name) for f in fields(Recogniser)}, {"key": key})
        return made

    return once(path, lambda: _read(path, key), make)


def _content(images: Tensor, labels: Tensor) -> str:
    """A hash of labelled images in their order."""
    found = hashlib.sha256(images.detach().float().cpu().contiguous().numpy().tobytes())
    found.update(labels.to("cpu", torch.int64).contiguous().numpy().tobytes())
    return found.hexdigest()[:32]


def _read(path: Path, key: dict[str, Any]) -> Recogniser | None:
    """A kept classifier; None if there is none with this key, or its file is damaged, which costs a training and not the attack."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            if json.loads((file.metadata() or {})["key"]) != key:
                return None
            return Recogniser(**{f.name: file.get_tensor(f.name) for f in fields(Recogniser)})
    except (SafetensorError, KeyError, ValueError):
        return None


def trained(images: Tensor, labels: Tensor) -> Recogniser:
    """Learn classes from images and their degraded copies.

    Args:
        images: `(n, 3, S, S)` in [0, 1], n at least 10.
        labels: int64 `(n,)`, at least two classes.
    """
    from sklearn.linear_model import RidgeClassifier  # here, as kornia below, because they take seconds that no --help should
    from sklearn.model_selection import GridSearchCV, GroupKFold

    views = [images, *(degraded(images, number=i) for i in range(COPIES))]
    rows = np.concatenate([describe(view) for view in views])
    said = np.tile(labels.cpu().numpy(), len(views))
    mean, std = rows.mean(0), rows.std(0)
    scale = np.where(std > 1e-6 * std.max(), std, np.inf).astype(np.float32) * np.float32(np.sqrt(rows.shape[1]))
    rows = (rows - mean) / scale
    parts = list(GroupKFold(FOLDS).split(rows, said, np.tile(np.arange(len(images)), len(views))))  # an image's copies stay together
    search = GridSearchCV(RidgeClassifier(), {"alpha": PENALTIES}, cv=parts if len(images) < ENOUGH else parts[:1])
    model = search.fit(rows, said).best_estimator_
    weights = torch.from_numpy(np.atleast_2d(model.coef_).astype(np.float32))
    bias = torch.from_numpy(np.atleast_1d(model.intercept_).astype(np.float32))
    if len(weights) == 1:  # of two classes the library scores the second alone
        weights, bias = torch.cat([-weights, weights]), torch.cat([-bias, bias])
    return Recogniser(torch.from_numpy(mean), torch.from_numpy(scale), weights, bias, torch.from_numpy(model.classes_))


def degraded(images: Tensor, *, number: int) -> Tensor:
    """Copy `number` of every image in [0, 1] `(n, 3, S, S)`: shifted, blurred and noisy, each by an amount drawn for the image, on the CPU.

    The blur reaches three of its standard deviations, the shift repeats the border.
    """
    from kornia.filters import gaussian_blur2d

    x, generator = images.detach().float().cpu(), rng.generator(0, "recogniser", number)
    n, side = len(x), x.shape[-1]
    theta = torch.eye(2, 3).repeat(n, 1, 1)
    theta[:, :, 2] = 2 * SHIFT * (2 * torch.rand(n, 2, generator=generator) - 1)  # the side is 2 long here
    shifted = F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), padding_mode="border", align_corners=False)
    sigma = (BLUR * side * torch.rand(n, 1, generator=generator)).clamp(min=0.05).expand(n, 2)
    width = min(2 * int(np.ceil(3 * BLUR * side)) + 1, 2 * ((side - 1) // 2) + 1)
    blurred = gaussian_blur2d(shifted, (width, width), sigma)
    noise = NOISE * torch.rand(n, 1, 1, 1, generator=generator)
    return (blurred + noise * torch.randn(x.shape, generator=generator)).clamp(0, 1)


def describe(images: Tensor) -> Rows:
    """Features of the classifier: images in [0, 1] `(n, 3, S, S)` -> `(n, 992)`, on the CPU."""
    from kornia.color import rgb_to_grayscale
    from kornia.feature import DenseSIFTDescriptor

    sift = DenseSIFTDescriptor(num_ang_bins=8, num_spatial_bins=2, spatial_bin_size=8, stride=8, padding=4)
    parts = []
    with torch.no_grad():
        for part in images.split(_BLOCK):
            x = F.interpolate(part.detach().float().cpu(), size=(SIDE, SIDE), mode="bilinear", antialias=True)
            gradients = sift(rgb_to_grayscale(x))
            parts.append(torch.cat([gradients.flatten(1), F.adaptive_avg_pool2d(x, 8).flatten(1)], 1))
    rows: Rows = torch.cat(parts).numpy()
    return rows
