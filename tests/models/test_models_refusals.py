"""Cuts, bottlenecks, norms and stems that an architecture does not have are refused in one sentence that says what is legal."""

import pytest
from tiny_networks import CUTS, options, tiny

from ssl_split.models.split import build


@pytest.mark.parametrize(("arch", "cut", "message"), [
    ("resnet18", 4, "cut 4 does not exist in resnet18: legal cuts are 0, 1, 3, 5, 7, 9, 11, 13, 15, 17, full"),
    ("resnet34", 35, "cut 35 does not exist in resnet34: legal cuts are 0, 1, 3, "),
    ("mobilenetv2", 10, "legal cuts are 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, full"),
    ("cnn4", 4, "legal cuts are 0, 1, 2, 3, full"),
    ("vit", 8, "legal cuts are 0, 1, 2, 3, 4, 5, 6, 7, full"),
])
def test_an_illegal_cut_names_the_legal_ones(arch: str, cut: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(options(arch, cut), image_size=16)


@pytest.mark.parametrize("arch", CUTS)
def test_the_legal_cuts_are_the_specified_ones(arch: str) -> None:
    assert tiny(arch).legal_cuts == (0, *CUTS[arch], "full")


@pytest.mark.parametrize(("arch", "changes", "message"), [
    ("resnet18", {"cut": 0, "bottleneck": {"channels": 4}}, "has no place at cut 0"),
    ("resnet18", {"cut": "full", "bottleneck": {"channels": 4}}, "has no place at cut full"),
    ("mlp", {"bottleneck": {"channels": 4}}, r"needs smashed data of shape \(C, H, W\): at cut 1 mlp sends \(64,\)"),
    ("vit", {"bottleneck": {"channels": 4}}, r"at cut 1 vit sends \(16, 24\)"),
    ("cnn4", {"cut": 3, "bottleneck": {"channels": 4}}, "at cut 3 cnn4 sends"),
    ("alexnet", {"norm": "batch"}, "norm = batch does not exist in alexnet, only in resnet18, "),
    ("vgg11", {"stem": "imagenet"}, "stem = imagenet does not exist in vgg11, only in resnet18, "),
])
def test_what_an_architecture_does_not_have(arch: str, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(options(arch, **changes), image_size=16)


def test_patches_must_fill_the_image() -> None:
    with pytest.raises(ValueError, match="image_size = 30 is no multiple of vit's patch of 4 pixels"):
        build(options("vit"), image_size=30)
