"""Real images that come with scikit-learn: handwritten digits, and crops of two photographs."""

from __future__ import annotations

import torch
from torch import Tensor

from ssl_split import rng
from ssl_split.data.imageset import ImageSet, Source, cut_off, resize

_TEST_COLUMN = 448
"""The photographs are 640 columns wide; test crops lie right of this column, training crops left of it."""


def digits(size: int) -> Source:
    """The 1797 digits of UCI's test set (8x8, 16 grey levels) as three channels, 20 % of each class set aside for testing."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    grey = (torch.from_numpy(bunch.images) * (255 / 16)).round().byte()  # (n, 8, 8)
    images = resize(grey[:, None], size).expand(-1, 3, -1, -1).contiguous()
    whole = ImageSet(images, torch.from_numpy(bunch.target).long())
    train, test = cut_off(whole, 0.2, rng.generator(0, "digits test split"))
    return Source(train, test, tuple(map(str, range(10))), mean=(0.3055,) * 3, std=(0.3235,) * 3)


def photos(size: int) -> Source:
    """Square crops of scikit-learn's pictures of a Chinese temple and a flower; training and test crops share no pixel.

    Windows of one, two and three times `size` are cut at steps of half of `size` and shrunk to it. They overlap inside a region.

    Raises:
        ValueError: crops so large that no test window fits.
    """
    from sklearn.datasets import load_sample_images

    pictures = [torch.from_numpy(p.copy()).permute(2, 0, 1) for p in load_sample_images().images]
    room = min(min(p.shape[1], p.shape[2] - _TEST_COLUMN) for p in pictures)
    if size > room:
        raise ValueError(f"image_size = {size} is too large for photos: at most {room}")
    train = torch.cat([_crops(p[:, :, :_TEST_COLUMN], size) for p in pictures])
    test = torch.cat([_crops(p[:, :, _TEST_COLUMN:], size) for p in pictures])
    return Source(ImageSet(train), ImageSet(test), (), mean=(0.4402, 0.4279, 0.3733), std=(0.3525, 0.2757, 0.3009))


def _crops(region: Tensor, size: int) -> Tensor:
    """All windows of a region (3, H, W) as (n, 3, size, size)."""
    step = max(size // 2, 1)
    cut = []
    for scale in (1, 2, 3):
        side = scale * size
        if side > min(region.shape[1:]):
            break
        windows = region.unfold(1, side, step).unfold(2, side, step)  # (3, rows, columns, side, side)
        cut.append(resize(windows.permute(1, 2, 0, 3, 4).reshape(-1, 3, side, side), size))
    return torch.cat(cut)
