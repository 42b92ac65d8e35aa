"""Labelled sentences from TSV files in the format of SST-2: a header line, and columns `sentence` and `label`.

The folder holds `train.tsv`, and for testing `test.tsv` if that has labels (GLUE publishes none), else `dev.tsv`; without either a fifth
of the training sentences is held out. Tokens are the pretrained folder's where it has a tokeniser, else the most frequent words of the
training sentences (lower case, punctuation by itself), with OPT's four special tokens in front. Every sentence begins with `</s>`, as
OPT's do.
"""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ssl_split import rng
from ssl_split.config import Config, TextOptions
from ssl_split.data.imageset import ImageSet, Source, TextSet, cut_off
from ssl_split.fields import extra

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
"""OPT's special tokens, ids 0 to 3."""
BEGIN, PADDING = 2, 1


@dataclass(frozen=True)
class Table:
    """The rows of one file."""

    path: Path
    sentences: list[str]
    labels: list[str]


def load(config: Config) -> Source:
    """Token ids of both splits, int32 `(n, L)`.

    Raises:
        ValueError, FileNotFoundError: one sentence that names the file and the line.
    """
    if config.data_dir is None:
        raise ValueError("dataset tsv needs --data-dir DIR with train.tsv and dev.tsv: a header line, then sentence<TAB>label")
    root = Path(config.data_dir).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"the data directory {root} does not exist")
    train = read(root / "train.tsv")
    candidates = [root / name for name in ("test.tsv", "dev.tsv") if (root / name).is_file()]
    held_out = next((read(path) for path in candidates if "label" in _header(path)), None)
    names = _classes(train)
    if held_out is not None and (unknown := sorted(set(held_out.labels) - set(names))):
        raise ValueError(f"{held_out.path} has labels that {train.path.name} lacks: {', '.join(unknown[:5])}")
    encode = _encoder(config.text, train.sentences)
    whole = _set(train, names, encode)
    if held_out is not None:
        return _source(whole, _set(held_out, names, encode), names)
    rest, part = cut_off(whole, 0.2, rng.generator(0, "tsv test split"))
    return _source(rest, part, names)


def read(path: Path) -> Table:
    """Sentences and labels of a file; further columns are passed over.

    Raises:
        ValueError, FileNotFoundError: one sentence that names the file and the line.
    """
    header = _header(path)
    missing = {"sentence", "label"} - set(header)
    if missing:
        raise ValueError(f"{path} needs the columns sentence and label in its first line, which has: {', '.join(header)}")
    made = Table(path, [], [])
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
                sentence, label = row["sentence"], row["label"]
                if not (sentence and sentence.strip() and label and label.strip()):
                    line = len(made.labels) + 2
                    raise ValueError(f"{path}, line {line}: a sentence, a tab and a label were expected")
                made.sentences.append(sentence.strip())
                made.labels.append(label.strip())
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no UTF-8 text") from None
    if not made.labels:
        raise ValueError(f"{path} holds no sentences")
    return made


def _header(path: Path) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.readline().rstrip("\r\n").split("\t")


def _classes(train: Table) -> tuple[str, ...]:
    """Labels in the order of their numbers, or of the alphabet."""
    found = set(train.labels)
    if len(found) < 2:
        raise ValueError(f"{train.path} has the label {found.pop()} alone: nothing can be learnt from it")
    return tuple(sorted(found, key=lambda name: (0, int(name), "") if name.isdigit() else (1, 0, name)))


class _Words:
    """The tokeniser made from the training sentences."""

    def __init__(self, options: TextOptions, sentences: list[str]) -> None:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # otherwise it warns whenever a process is forked
        tokenizers = extra("tokenizers", "text")
        self._made = tokenizers.Tokenizer(tokenizers.models.WordLevel(unk_token="<unk>"))
        self._made.normalizer = tokenizers.normalizers.Lowercase()
        self._made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        trainer = tokenizers.trainers.WordLevelTrainer(vocab_size=options.vocabulary, special_tokens=list(SPECIAL), show_progress=False)
        self._made.train_from_iterator(sentences, trainer)

    def __call__(self, sentences: list[str]) -> list[list[int]]:
        return [[BEGIN, *found.ids] for found in self._made.encode_batch(sentences)]


class _Pretrained:
    """The tokeniser in a pretrained folder."""

    def __init__(self, folder: Path) -> None:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        try:
            self._made = extra("transformers", "text").AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        except Exception as error:  # whatever the files may hold
            raise ValueError(f"the tokeniser in {folder} cannot be read: {str(error).strip().splitlines()[0]}") from error
        if self._made.pad_token_id != PADDING:
            raise ValueError(f"the tokeniser in {folder} pads with token {self._made.pad_token_id}, OPT with {PADDING}")

    def __call__(self, sentences: list[str]) -> list[list[int]]:
        found: list[list[int]] = self._made(sentences)["input_ids"]
        return found


class _Encoder:
    """Sentences to token ids `(n, L)`."""

    def __init__(self, tokenise: _Words | _Pretrained, tokens: int) -> None:
        self._tokenise, self._tokens = tokenise, tokens

    def __call__(self, sentences: list[str]) -> Tensor:
        made = torch.full((len(sentences), self._tokens), PADDING, dtype=torch.int32)
        for row, ids in zip(made, self._tokenise(sentences), strict=True):
            kept = torch.tensor(ids[: self._tokens], dtype=torch.int32)
            row[: len(kept)] = kept
        return made


def _encoder(options: TextOptions, sentences: list[str]) -> _Encoder:
    folder = Path(options.pretrained).expanduser() if options.pretrained else None
    if folder is not None and any(folder.glob("tokenizer*")) | (folder / "vocab.json").is_file():
        return _Encoder(_Pretrained(folder), options.tokens)
    return _Encoder(_Words(options, sentences), options.tokens)


def _set(table: Table, names: tuple[str, ...], encode: _Encoder) -> TextSet:
    index = {name: i for i, name in enumerate(names)}
    return TextSet(encode(table.sentences), torch.tensor([index[label] for label in table.labels], dtype=torch.int64))


def _source(train: ImageSet, test: ImageSet, names: tuple[str, ...]) -> Source:
    return Source(train, test, names, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
