"""A picture of an attack: originals over reconstructions over the blind guess, every pixel enlarged to a square."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ssl_split.files import replace_file

TILE = 96
"""Wanted side of an image in the picture, pixels; images are enlarged by the whole number that comes nearest below."""
GAP, MARGIN, LABEL, LINE = 6, 16, 128, 19
"""Space between images, around everything, for the rows' names, and of a line of text, in pixels."""
INK, MUTED, PAPER = (28, 32, 38), (105, 112, 122), (255, 255, 255)


@dataclass(frozen=True)
class Row:
    """One row of images.

    Attributes:
        label: Its name, at the left; a line break starts a second, paler line.
        images: `(k, 3, S, S)` in [0, 1].
        captions: Under the images, one each, or none.
    """

    label: str
    images: Tensor
    captions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layout:
    """Where things are, in pixels."""

    size: int
    scale: int
    columns: int
    head: int
    captions: tuple[bool, ...]

    @property
    def tile(self) -> int:
        """Side of an enlarged image."""
        return self.size * self.scale

    def corner(self, row: int, column: int) -> tuple[int, int]:
        """Left upper corner of an image: x, y."""
        above = sum(self.tile + GAP + (LINE if captions else 0) for captions in self.captions[:row])
        return MARGIN + LABEL + column * (self.tile + GAP), self.head + above

    @property
    def width(self) -> int:
        """Of the picture."""
        return self.corner(0, self.columns)[0] - GAP + MARGIN

    @property
    def height(self) -> int:
        """Of the picture."""
        return self.corner(len(self.captions), 0)[1] - GAP + MARGIN


def layout(rows: Sequence[Row], *, lines: int) -> Layout:
    """The arrangement of rows of equally many images of one size, under `lines` lines of text."""
    columns, _, size, _ = rows[0].images.shape
    return Layout(size, max(1, TILE // size), columns, MARGIN + lines * LINE + GAP, tuple(bool(r.captions) for r in rows))


def draw(rows: Sequence[Row], *, title: str, subtitle: str = "") -> Image.Image:
    """Paint rows of images.

    Args:
        rows: Equally many images of one size in each.
        title: First line.
        subtitle: Text under it, wrapped to the width.

    Raises:
        ValueError: rows of different lengths or sizes.
    """
    if any(r.images.shape != rows[0].images.shape for r in rows):
        raise ValueError(f"rows of a picture must agree in shape, not {', '.join(str(tuple(r.images.shape)) for r in rows)}")
    wide = layout(rows, lines=0).width - 2 * MARGIN
    lines = textwrap.wrap(subtitle, max(20, int(wide / 6.6)))
    at = layout(rows, lines=1 + len(lines))
    canvas = Image.new("RGB", (at.width, at.height), PAPER)
    pen = ImageDraw.Draw(canvas)
    pen.text((MARGIN, MARGIN - 3), title, INK, font=_font(16))
    for i, line in enumerate(lines, 1):
        pen.text((MARGIN, MARGIN + i * LINE), line, MUTED, font=_font(13))
    for r, row in enumerate(rows):
        _label(pen, row.label, at, r)
        for c, pixels in enumerate(row.images):
            x, y = at.corner(r, c)
            canvas.paste(enlarged(pixels, at.scale), (x, y))
            if row.captions:
                pen.text((x + at.tile / 2, y + at.tile + 2), row.captions[c], MUTED, font=_font(12), anchor="ma")
    return canvas


def _label(pen: ImageDraw.ImageDraw, text: str, at: Layout, row: int) -> None:
    lines = text.split("\n")
    y = at.corner(row, 0)[1] + at.tile / 2 - LINE * len(lines) / 2
    for i, line in enumerate(lines):
        pen.text((MARGIN, y + i * LINE), line, INK if i == 0 else MUTED, font=_font(14 if i == 0 else 12))


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def enlarged(pixels: Tensor, scale: int) -> Image.Image:
    """An image `(3, S, S)` in [0, 1] at 8 bits, every pixel as a square of `scale` pixels."""
    eight = (pixels.detach().cpu().float() * 255).round().clamp(0, 255).to(torch.uint8)
    large = eight.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    return Image.fromarray(large.permute(1, 2, 0).contiguous().numpy())


def save(image: Image.Image, path: Path) -> None:
    """Write a PNG; the file is either absent, old or whole."""
    replace_file(path, lambda temporary: image.save(temporary, format="PNG"))
