"""Configuration: one sentence per mistake, and a fingerprint that follows the numbers."""

import pytest
import yaml

from ssl_split import config as configuration
from ssl_split import fields
from ssl_split.config import Config
from ssl_split.train import parse


@pytest.mark.parametrize(("values", "message"), [
    ({"cuts": 3}, "unknown key 'cuts': did you mean cut?"),
    ({"partition": {"kin": "iid"}}, "unknown key 'partition.kin': did you mean kind?"),
    ({"algorithm": "monacosf"}, "did you mean monacosfl?"),
    ({"dataset": "cifar"}, "dataset = 'cifar' does not exist"),
    ({"arch": "resnet19"}, "did you mean resnet18?"),
    ({"batch_size": 0}, "batch_size = 0 is impossible: it must be at least 1"),
    ({"batch_size": 2.5}, "batch_size must be int, not 2.5"),
    ({"batch_size": True}, "batch_size must be int, not True"),
    ({"width": "wide"}, "width must be float, not 'wide'"),
    ({"client_lr": float("nan")}, "client_lr must be float"),
    ({"temperature": 0}, "it must be more than 0"),
    ({"std": [0.2, 0.0, 0.2]}, "it must be more than 0"),
    ({"mean": [0.5, 0.5]}, "mean must be"),
    ({"cut": -1}, "cut = -1 is impossible"),
    ({"cut": "half"}, "cut must be a number or full"),
    ({"clients": 3, "clients_per_round": 4}, "more than the 3 clients"),
    ({"partition": 3}, "partition is a section"),
    ({"name": "../x"}, "cannot name a folder"),
])
def test_one_sentence_names_the_mistake(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=None) as caught:
        configuration.from_dict(values)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_numbers_that_yaml_reads_as_text_are_numbers() -> None:
    assert configuration.from_dict(yaml.safe_load("weight_decay: 5e-4")).weight_decay == 5e-4


def test_flag_and_file_agree() -> None:
    config, resume = parse(["--cut", "3", "--partition.kind", "dirichlet", "--partition.beta", "0.2", "--clients-per-round", "2",
                            "--resume"])
    base = fields.read_yaml(configuration.find("default.yaml"))
    same = configuration.from_dict(fields.merge(base, {"cut": 3, "partition": {"kind": "dirichlet", "beta": 0.2}, "clients_per_round": 2}))
    assert config == same
    assert resume
    assert parse(["--cut", "full"])[0].cut == "full"
    assert parse(["--mean", ".1", ".2", ".3"])[0].mean == (0.1, 0.2, 0.3)
    assert parse(["--symmetric", "none", "--max-steps", "none", "--name", "3"])[0].symmetric == "none"
    assert parse(["--name", "3", "--download"])[0].name == "3"


@pytest.mark.parametrize(("argv", "message"), [
    (["--cuts", "3"], "unknown flag --cuts: did you mean --cut?"),
    (["--wibble", "3"], "unknown argument --wibble"),
    (["--batch-size"], "expected one argument"),
    (["--batch-size", "many"], "batch_size must be int, not 'many'"),
    (["--config", "nowhere.yaml"], "there is no configuration file nowhere.yaml"),
])
def test_bad_flags(argv: list[str], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        parse(argv)
    assert message in str(caught.value)


def test_fingerprint_ignores_where_and_how_but_not_what() -> None:
    base = Config()
    for field, value in {"device": "cpu", "threads": 2, "out": "elsewhere", "data_dir": "x", "name": "n", "download": True,
                         "checkpoint_every_seconds": 5.0, "keep_checkpoints": 3, "allocator": False, "engine": "loop"}.items():
        assert base.replace(**{field: value}).fingerprint == base.fingerprint, field
    changed = [base.replace(**c).fingerprint for c in (
        {"seed": 1}, {"cut": 1}, {"partition": {"seed": 1}}, {"precision": "bf16"}, {"wire": {"ema": "bf16"}}, {"max_steps": 5})]
    assert len({base.fingerprint, *changed}) == 7


def test_fingerprint_follows_the_text_of_a_users_network(tmp_path) -> None:
    path = tmp_path / "mine.py"
    prints = []
    for text in ("a = 1", "a = 2", "a = 1"):
        path.write_text(text)
        prints.append(Config(arch=f"{path}:build").fingerprint)
    assert prints[0] == prints[2] != prints[1]


def test_round_trip_through_yaml(tmp_path) -> None:
    config = Config(mean=(0.1, 0.2, 0.3)).replace(cut="full")
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config.to_dict()))
    assert configuration.load(path) == config


def test_damaged_yaml_is_one_sentence(tmp_path) -> None:
    path = tmp_path / "bad.yaml"
    for text, message in (("a: [1", "not valid YAML"), ("- 1\n- 2", "must hold `key: value` lines")):
        path.write_text(text)
        with pytest.raises(ValueError, match=message) as caught:
            configuration.load(path)
        assert "\n" not in str(caught.value)


def test_help_names_every_field() -> None:
    text = fields.flags(Config, "train", "").format_help()
    names = [name.replace("_", "-") for name in Config.__dataclass_fields__ if name not in
             ("partition", "augment", "head", "bottleneck", "monacosfl", "wire")]
    assert len(names) > 45
    assert not [name for name in names if f"--{name}" not in text]
