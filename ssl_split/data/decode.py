"""One picture file as square RGB pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

EXTENSIONS = frozenset({".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga",
                        ".tif", ".tiff", ".webp"})
"""Lower-case endings of the files that are read as pictures."""

VERSION = 1
"""Raised by hand whenever the same file gives other pixels than before; part of the cache key."""

_ORIENTATION = 0x0112  # EXIF tag
_WHITE = (255, 255, 255, 255)


def decode(path: Path, size: int) -> np.ndarray:
    """A picture turned upright, laid over white, cropped to its central square and resized.

    The first frame of an animation counts. Grey becomes three equal channels, 16-bit grey is divided by 257. The resize is
    bilinear, with a kernel as wide as the step where it shrinks.

    Args:
        path: A picture file.
        size: Pixels per side.

    Returns:
        uint8 (size, size, 3).

    Raises:
        ValueError: the file cannot be read as a picture.
    """
    try:
        with Image.open(path) as image:
            image.draft(None, (2 * size, 2 * size))  # JPEG may decode at 1/2, 1/4 or 1/8 as long as it stays twice too large
            rgb = _rgb(ImageOps.exif_transpose(image) if image.getexif().get(_ORIENTATION, 1) != 1 else image)
    except Exception as error:  # damaged files make Pillow raise many kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"cannot read the image {path}: {reason}") from None
    side = min(rgb.size)
    left, top = (rgb.width - side) // 2, (rgb.height - side) // 2
    square = rgb.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
    return np.asarray(square)


def _rgb(image: Image.Image) -> Image.Image:
    """Any mode as RGB."""
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range, save the picture with 8 or 16 bits")
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("32-bit pixels have no known range, save the picture with 8 or 16 bits")
        image = Image.fromarray(np.round(values / 257.0).astype(np.uint8))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, _WHITE), image.convert("RGBA"))
    return image.convert("RGB")
