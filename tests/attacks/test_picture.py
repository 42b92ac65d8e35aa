"""The picture: the right pixels at the right places, nothing interpolated."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from attacks.picture import Row, draw, enlarged, layout, save


def _rows(side: int = 8, columns: int = 4) -> list[Row]:
    generator = torch.Generator().manual_seed(0)
    originals, found = torch.rand(2, columns, 3, side, side, generator=generator)
    return [Row("original", originals), Row("reconstruction\nfirst of 3 seeds", found, tuple(f"SSIM {i}" for i in range(columns))),
            Row("blind guess", originals.mean(0, keepdim=True).expand_as(originals))]


@pytest.mark.parametrize("side", [8, 32, 40, 224])
def test_every_pixel_is_a_square_in_its_place(tmp_path: Path, side: int) -> None:
    """Read back from the PNG: pixel (i, j) of the image in row r and column c fills a square of the layout's scale."""
    rows = _rows(side, 3)
    drawn = draw(rows, title="decoder at cut 13", subtitle="")
    save(drawn, tmp_path / "images.png")
    canvas = np.asarray(Image.open(tmp_path / "images.png").convert("RGB"))
    at = layout(rows, lines=1)
    assert canvas.shape == (at.height, at.width, 3)
    assert at.scale == max(1, 96 // side)
    for r, row in enumerate(rows):
        for c, pixels in enumerate(row.images):
            x, y = at.corner(r, c)
            block = canvas[y : y + at.tile, x : x + at.tile]
            expected = np.kron((pixels * 255).round().byte().permute(1, 2, 0).numpy(), np.ones((at.scale, at.scale, 1), np.uint8))
            assert np.array_equal(block, expected), (r, c)
            assert (canvas[y : y + at.tile, x + at.tile : x + at.tile + 3] == 255).all()


def test_labels_do_not_touch_the_images() -> None:
    """Text is drawn: in the label column, under the captioned row, and in the head; all else between images is paper."""
    rows = _rows()
    at = layout(rows, lines=1)
    canvas = np.asarray(draw(rows, title="title"))
    for r in range(3):
        y = at.corner(r, 0)[1]
        assert (canvas[y : y + at.tile, : at.corner(0, 0)[0] - 1] < 200).any()
    under = at.corner(1, 0)[1] + at.tile
    assert (canvas[under : at.corner(2, 0)[1], at.corner(0, 0)[0] :] < 200).any()
    between = canvas[at.corner(0, 0)[1] + at.tile : at.corner(1, 0)[1]]
    assert (between == 255).all()
    assert (canvas[: at.corner(0, 0)[1]] < 200).any()


def test_long_subtitles_are_wrapped() -> None:
    rows = _rows()
    short, long = draw(rows, title="t", subtitle="one line"), draw(rows, title="t", subtitle="a sentence of many words " * 12)
    assert long.width == short.width
    assert long.height > short.height


def test_values_are_rounded_to_eight_bits() -> None:
    pixels = torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1)
    assert enlarged(pixels, 2).getpixel((1, 1)) == (0, 128, 255)


def test_rows_must_agree() -> None:
    with pytest.raises(ValueError, match="must agree in shape"):
        draw([Row("a", torch.rand(3, 3, 8, 8)), Row("b", torch.rand(2, 3, 8, 8))], title="t")
