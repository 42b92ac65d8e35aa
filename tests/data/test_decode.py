"""One picture file of every kind as square RGB pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_split.data.decode import decode


def test_orientation_tag_is_applied(tmp_path: Path) -> None:
    """Stored red above blue with orientation 6 (turn clockwise): red must appear on the right."""
    stored = np.zeros((16, 16, 3), dtype=np.uint8)
    stored[:8, :, 0] = 255
    stored[8:, :, 2] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.png"
    Image.fromarray(stored).save(path, exif=exif)
    made = decode(path, 16)
    assert made[:, 12, 0].tolist() == [255] * 16
    assert made[:, 3, 2].tolist() == [255] * 16
    assert made[:, 3, 0].tolist() == [0] * 16


@pytest.mark.parametrize(("mode", "colour", "wanted"), [
    ("RGBA", (200, 100, 0, 255), (200, 100, 0)),
    ("RGBA", (200, 100, 0, 0), (255, 255, 255)),
    ("RGBA", (255, 55, 0, 51), (255, 215, 204)),
    ("LA", (100, 0), (255, 255, 255)),
    ("L", 77, (77, 77, 77)),
    ("1", 1, (255, 255, 255)),
    ("I;16", 257 * 40, (40, 40, 40)),
    ("I;16", 65535, (255, 255, 255)),
    ("I;16", 100, (0, 0, 0)),
])  # fmt: skip
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str, colour: int | tuple[int, ...], wanted: tuple[int, ...]) -> None:
    """Alpha a over white is `a c + (1 - a) 255`; 16 bits are divided by 257."""
    Image.new(mode, (12, 12), colour).save(tmp_path / "one.png")
    made = decode(tmp_path / "one.png", 8)
    assert made.shape == (8, 8, 3)
    assert np.abs(made.astype(int) - np.array(wanted)).max() <= 1


def test_palettes_with_transparency_and_cmyk(tmp_path: Path) -> None:
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([255, 0, 0, 0, 255, 0])
    palette.paste(0, (0, 0, 8, 4))
    palette.save(tmp_path / "palette.png", transparency=0)
    made = decode(tmp_path / "palette.png", 8)
    assert made[0, 0].tolist() == [255, 255, 255]
    assert made[7, 7].tolist() == [0, 255, 0]
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "print.jpg", quality=95)
    assert np.abs(decode(tmp_path / "print.jpg", 8)[4, 4].astype(int) - np.array([255, 0, 0])).max() <= 12


def test_pixels_without_a_known_range_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 0.5, dtype=np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(np.full((8, 8), 70_000, dtype=np.int32)).save(tmp_path / "wide.tif")
    for name in ("float.tif", "wide.tif"):
        with pytest.raises(ValueError, match=f"cannot read the image .*{name}: .* save the picture with 8 or 16 bits"):
            decode(tmp_path / name, 8)


@pytest.mark.parametrize(("width", "height"), [(40, 16), (16, 40)])
def test_the_central_square_is_kept(tmp_path: Path, width: int, height: int) -> None:
    """White bars outside the central square must leave no trace."""
    pixels = np.full((height, width, 3), 255, dtype=np.uint8)
    top, left = (height - 16) // 2, (width - 16) // 2
    square = np.random.default_rng(0).integers(0, 200, (16, 16, 3), dtype=np.uint8)
    pixels[top : top + 16, left : left + 16] = square
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    assert np.array_equal(decode(tmp_path / "wide.png", 16), square)


def test_large_photographs_shrink_as_the_full_decode_does(tmp_path: Path) -> None:
    """JPEG may be decoded at a fraction of its size; the result stays within a few grey levels of the slow way."""
    rows, columns = np.mgrid[0:500, 0:700] / 100
    waves = np.stack([np.sin(rows + columns), np.cos(rows * 2), np.sin(columns * 3)], -1) * 100 + 128
    path = tmp_path / "photo.jpg"
    Image.fromarray(waves.astype(np.uint8)).save(path, quality=95)
    with Image.open(path) as full:
        slow = full.convert("RGB").resize((32, 32), Image.Resampling.BILINEAR, box=(100, 0, 600, 500))
    assert np.abs(decode(path, 32).astype(int) - np.asarray(slow).astype(int)).mean() < 2


def test_animations_give_their_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    assert decode(tmp_path / "two.gif", 8)[0, 0].tolist() == [255, 0, 0]
