"""Generated sentences in SST-2's format: a word decides, and `not` in front of it turns the label round."""

from __future__ import annotations

import random
from pathlib import Path

GOOD, BAD = ("great", "lovely", "moving", "funny"), ("dull", "awful", "clumsy", "cold")
NOUNS = ("film", "story", "plot", "cast", "score")


def sentence(source: random.Random) -> tuple[str, int]:
    """A sentence of 5 to 8 words and its label."""
    good, turned = source.random() < 0.5, source.random() < 0.3
    words = ["the", source.choice(NOUNS), "is", *["not"] * turned, source.choice(GOOD if good else BAD)]
    if source.random() < 0.5:
        words += ["and", "long"]
    return " ".join([*words, "."]), int(good != turned)


def write(folder: Path, *, train: int = 300, dev: int = 80, seed: int = 0) -> Path:
    """`train.tsv` and `dev.tsv`."""
    folder.mkdir(parents=True, exist_ok=True)
    source = random.Random(seed)
    for name, count in (("train", train), ("dev", dev)):
        rows = [f"{text}\t{label}" for text, label in (sentence(source) for _ in range(count))]
        (folder / f"{name}.tsv").write_text("\n".join(["sentence\tlabel", *rows]) + "\n", encoding="utf-8")
    return folder
