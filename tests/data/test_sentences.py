"""TSV files of sentences: tokens, labels, splits, and one sentence for every mistake."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import phrases
import pytest
import torch

from ssl_split import config as configuration
from ssl_split.config import Config
from ssl_split.data import images
from ssl_split.data.sentences import BEGIN, PADDING, read


def options(folder: Path, **text: object) -> Config:
    return configuration.from_dict({"algorithm": "sfl_v1", "dataset": "tsv", "arch": "opt", "data_dir": str(folder), "cut": 1,
                                    "text": {"tokens": 8, "vocabulary": 40, **text}})


def rows(folder: Path, name: str, *lines: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_tokens_are_padded_on_the_right_and_cut_off(tmp_path: Path) -> None:
    rows(tmp_path, "train.tsv", "sentence\tlabel", *["a A b\t0", "b , c d e f g h i\t1"] * 4)
    made = images.load(options(tmp_path, tokens=6).replace(validation_fraction=0))
    assert made.is_text
    assert made.size == 6
    ids = {tuple(row) for row in made.train.images.tolist()}
    short, long = sorted(ids, key=lambda row: row.count(PADDING), reverse=True)
    assert (short[0], short[1], short[4:]) == (BEGIN, short[2], (PADDING, PADDING))  # case does not matter
    assert PADDING not in long
    assert min(long[1:]) > 3  # every word is known
    assert made.classes == ("0", "1")


def test_words_beyond_the_vocabulary_are_unknown(tmp_path: Path) -> None:
    rows(tmp_path, "train.tsv", "sentence\tlabel", *["a a b\t0", "a b c\t1"] * 4)
    made = images.load(options(tmp_path, tokens=5, vocabulary=8).replace(validation_fraction=0))
    assert made.train.images.max() <= 6  # four special tokens and three words
    rows(tmp_path, "dev.tsv", "sentence\tlabel", "zebra a\t1")
    assert images.load(options(tmp_path, tokens=5, vocabulary=8)).test.images.tolist() == [[2, 3, 4, 1, 1]]


def test_test_file_is_used_only_if_it_has_labels(tmp_path: Path) -> None:
    phrases.write(tmp_path, train=40, dev=12)
    rows(tmp_path, "test.tsv", "index\tsentence", "0\tno labels here")
    assert len(images.load(options(tmp_path)).test) == 12
    rows(tmp_path, "test.tsv", "label\tsentence", "1\tthe film is great .")
    assert len(images.load(options(tmp_path)).test) == 1
    (tmp_path / "test.tsv").unlink()
    (tmp_path / "dev.tsv").unlink()
    assert len(images.load(options(tmp_path)).test) == 8


def test_the_same_file_gives_the_same_tokens_in_another_process(tmp_path: Path) -> None:
    phrases.write(tmp_path, train=200)
    here = images.load(options(tmp_path)).digest
    code = ("import sys; from ssl_split import config; from ssl_split.data import images; options = {'algorithm': 'sfl_v1', 'cut': 1, "
            "'dataset': 'tsv', 'arch': 'opt', 'data_dir': sys.argv[1], 'text': {'tokens': 8, 'vocabulary': 40}}; "
            "print(images.load(config.from_dict(options)).digest)")
    there = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True, text=True).stdout
    assert there.strip() == here


@pytest.mark.parametrize(("lines", "says"), [
    (["text\tlabel", "a\t0"], "needs the columns sentence and label"),
    (["sentence\tlabel", "a\t0", "b"], "line 3"),
    (["sentence\tlabel", "a\t0", " \t1"], "line 3"),
    (["sentence\tlabel"], "holds no sentences"),
    (["sentence\tlabel", "a\t0", "b\t0"], "the label 0 alone"),
])
def test_a_bad_file_is_one_sentence(lines: list[str], says: str, tmp_path: Path) -> None:
    rows(tmp_path, "train.tsv", *lines)
    with pytest.raises(ValueError, match=says):
        images.load(options(tmp_path))


def test_other_refusals(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"train\.tsv"):
        images.load(options(tmp_path))
    (tmp_path / "train.tsv").write_bytes(b"sentence\tlabel\n\xff\xfe\t1\n")
    with pytest.raises(ValueError, match="UTF-8"):
        read(tmp_path / "train.tsv")
    phrases.write(tmp_path)
    rows(tmp_path, "dev.tsv", "sentence\tlabel", "a\t7")
    with pytest.raises(ValueError, match="labels that train.tsv lacks: 7"):
        images.load(options(tmp_path))


@pytest.mark.parametrize(("changes", "says"), [
    ({"algorithm": "monacosfl"}, "random views"),
    ({"arch": "resnet18"}, "reads images"),
    ({"dataset": "digits"}, "reads sentences"),
    ({"algorithm": "gas"}, "gas.generate"),
    ({"wire": {"activations": "int8"}}, "padding"),
    ({"cut": 0, "wire": {"activations": "bf16"}}, "token ids"),
    ({"width": 0.5}, "width"),
    ({"text": {"hidden": 30, "heads": 4}}, "multiple"),
])
def test_what_has_no_meaning_for_sentences_is_refused(changes: dict[str, object], says: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=says):
        options(tmp_path).replace(**changes)


def test_tokens_are_integers_that_a_float_holds(tmp_path: Path) -> None:
    made = images.load(options(phrases.write(tmp_path)))
    assert made.train.images.dtype == torch.int32
    assert torch.equal(made.train.images.float().long(), made.train.images.long())
