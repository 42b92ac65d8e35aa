"""Commands in the README and in the configurations' headers are ones that the programs accept."""

import re
import shlex
from pathlib import Path

import pytest

from attacks import gradient, hijack, invert, label, membership
from probes import classifier, finetune, knn, linear
from ssl_split import config as configuration
from ssl_split import fields, train
from ssl_split.list_runs import __main__ as list_runs
from ssl_split.sweep import plan
from ssl_split.sweep.__main__ import overrides, parser

ROOT = Path(__file__).parent.parent
OPTIONS = {"attacks.invert": invert.Options, "attacks.label": label.Options, "attacks.membership": membership.Options,
           "attacks.gradient": gradient.Options, "attacks.hijack": hijack.Options,
           "probes.linear": linear.Options, "probes.knn": knn.Options,
           "probes.finetune": finetune.Options, "probes.classifier": classifier.Options}


def _commands() -> list[list[str]]:
    texts = [(ROOT / "README.md").read_text(encoding="utf-8")]
    texts += [(ROOT / "docs" / "runs.md").read_text(encoding="utf-8")]
    texts += [p.read_text(encoding="utf-8") for p in sorted((ROOT / "configs").rglob("*.yaml"))]
    texts = [re.sub(r"\\\n#?\s*", "", text) for text in texts]  # commands that go on in the next line
    found = [match.group(1) for text in texts for match in re.finditer(r"python -m ([a-z_.]+[^`\n#]*)", text)]
    return [shlex.split(command.split("   ")[0]) for command in found]


def test_number_of_commands() -> None:
    assert len(_commands()) >= 20


@pytest.mark.parametrize("words", _commands(), ids=" ".join)
def test_command_is_accepted(words: list[str]) -> None:
    module, *argv = words
    if module in ("venv", "pip", "pytest", "ssl_split.report", "ssl_split.models"):
        return
    if module == "ssl_split.list_runs":
        list_runs.parser().parse_args(argv)
    elif module == "ssl_split.train":
        train.parse(argv)
    elif module == "ssl_split.sweep":
        known, flags = parser().parse_known_args(argv)
        assert plan.read(known.file, overrides=overrides(flags)).stages
    else:
        fields.parse(OPTIONS[module], argv, module, "")


def test_fields_in_the_notebook_example_exist() -> None:
    example = re.search(r"run\(Config\((.*)\)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert example is not None
    names = re.findall(r"(\w+)=", example.group(1))
    assert len(names) == 6
    assert set(names) <= set(configuration.Config.__dataclass_fields__)
