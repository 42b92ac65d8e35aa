"""Other images than those of the test split for the attacker, and other targets than the members as they are."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from attacks import invert, judge, label, ridge, rulers, sets, sources, wire
from attacks.victim import Victim
from attacks.view import View
from ssl_split import record, rng, train
from ssl_split.config import RESULTS_VERSION
from ssl_split.data import augment, embedded
from ssl_split.data.images import ImageSet, to_float
from ssl_split.files import read_tensors
from ssl_split.sweep import jobs, plan
from tests.train.tiny import tiny

SMALL: dict[str, Any] = {"targets": 8, "aux": 40}
WORDS = ["--targets", "8", "--aux", "40"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MonAcoSFL with three clients of 40 images, its last two steps recorded."""
    out = tmp_path_factory.mktemp("runs")
    return train.run(tiny(out, algorithm="monacosfl", cut=1, syncs_per_round=10, record_wire=2), on_log=lambda line: None).path


@pytest.fixture(scope="module")
def supervised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("supervised")
    return train.run(tiny(out, algorithm="sfl_v1", cut=1, max_steps=2), on_log=lambda line: None).path


@pytest.fixture
def run_dir(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "runs" / trained.name))


def _case(run: Path, **options: Any) -> invert.Case:
    return invert.Case(invert.Options(checkpoint=str(run), **{"method": "ridge", **SMALL, **options}))


def _held(case: Any) -> list[set[str]]:
    """Content hashes of every client's images."""
    data = case.checkpoint.dataset()
    return [set(data.train.select(part).digests()) for part in case.checkpoint.parts(data)]


def _result(run: Path, *words: str) -> dict[str, Any]:
    before = set(run.glob("attacks/*/result.json"))
    invert.main(["--checkpoint", str(run), *WORDS, *words])
    (file,) = set(run.glob("attacks/*/result.json")) - before
    values: dict[str, Any] = json.loads(file.read_text())
    return values


@pytest.mark.parametrize("on_wire", [False, True])
def test_colluders_images_are_the_attackers_and_nobody_elses(trained: Path, on_wire: bool) -> None:
    """Targets, the judge's images and what a server has collected are the other clients'; the attacker owns the rest, un-augmented."""
    case = _case(trained, method="oracle", aux_clients=(0, 2), wire=on_wire)
    first, second, third = _held(case)
    chosen = case.sets
    assert set(chosen.clients.tolist()) == {1}
    assert len(chosen.targets) == len(set(chosen.targets.digests())) == 8
    for others in (chosen.targets, chosen.private, chosen.gallery):
        assert set(others.digests()) <= second
    assert len(chosen.private) == len(chosen.gallery) > 0
    assert set(chosen.aux.digests()) <= (first | third) - second
    assert len(chosen.aux) == 40
    assert chosen.record["aux_from"] == "clients 0, 2"
    assert chosen.notices[0].startswith("the attacker's images are those of clients 0, 2, who collude with it")
    if on_wire:
        assert case.recording is not None
        assert set(case.recording["clients"].tolist()) == {1}
        file = read_tensors(trained / record.FILE)
        rows, data = (file["clients"] == 1).nonzero().flatten(), case.checkpoint.dataset().train
        attacked = set(chosen.targets.digests())
        rows = rows[[digest not in attacked for digest in data.select(file["sources"][rows]).digests()]]
        assert torch.equal(case.heard["z"], file["z"][rows])
        assert not torch.equal(case.own.fit, sets.split(chosen.aux.images).fit)  # views, as what is to be rebuilt
    else:
        assert torch.equal(case.own.fit, sets.split(chosen.aux.images).fit)


def test_targets_come_in_the_order_that_they_have_without_colluders(trained: Path) -> None:
    """The same list with the colluders' images left out, so that attacks with and without them can be compared."""
    plain, without = (_case(trained, targets=100, aux_clients=chosen).sets for chosen in (None, (1,)))
    stay = plain.clients != 1
    assert plain.targets.images[stay].equal(without.targets.images[: int(stay.sum())])
    assert plain.clients[stay].equal(without.clients[: int(stay.sum())])


def test_a_result_with_colluders_has_a_name_a_ruler_and_a_source_of_its_own(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain, colluding = (_result(run_dir, "--method", "ridge", *words) for words in ([], ["--aux-clients", "0"]))
    shown = capsys.readouterr().out
    assert plain["needs"] == colluding["needs"] == ["smashed", "query", "aux_same"]
    assert len(list((run_dir.parent / ".rulers").glob("invert-ridge-untrained-*.json"))) == 2
    assert _case(run_dir, aux_clients=(2, 0)).directory == _case(run_dir, aux_clients=(0, 2)).directory
    assert plain["options"]["aux_clients"] is None
    assert colluding["options"]["aux_clients"] == [0]
    assert colluding["sets"]["aux_from"] == "client 0"
    assert "aux_from" not in plain["sets"]
    assert "Note: the attacker's images are those of client 0, who colludes with it" in shown


def test_another_data_set_is_flagged_and_brought_to_size(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Training and test images of the photographs at 16 pixels; every result says aux_other, and the blind guess is their mean."""
    case = _case(run_dir, aux_dataset="photos")
    pool = embedded.photos(16)
    assert set(case.sets.aux.digests()) <= set(pool.train.digests()) | set(pool.test.digests())
    assert case.sets.aux.labels is None
    assert case.sets.targets.images.equal(_case(run_dir).sets.targets.images)
    made = {method: _result(run_dir, "--method", method, "--aux-dataset", "photos") for method in ("blind", "ridge")}
    assert made["blind"]["needs"] == ["aux_other"]
    assert made["ridge"]["needs"] == ["smashed", "query", "aux_other"]
    assert "needs smashed, query, aux_other" in capsys.readouterr().out
    blind = to_float(case.sets.aux.images).mean(0, keepdim=True)
    assert made["ridge"]["blind_mse"] == pytest.approx((blind - case.targets).square().mean().item(), rel=0.15)
    assert made["ridge"]["sets"]["aux_from"] == "data set photos"
    assert made["ridge"]["options"]["aux_dataset"] == "photos"
    own = _result(run_dir, "--method", "ridge")
    assert own["untrained_mse"] != made["ridge"]["untrained_mse"]
    assert len(list((run_dir.parent / ".rulers").glob("invert-ridge-untrained-*.json"))) == 2


def test_members_in_another_data_set_are_dropped_and_its_content_names_the_result(trained: Path, tmp_path: Path) -> None:
    """A folder of pictures, one of which is a member's digit."""
    data = _case(trained).checkpoint.dataset()
    folder = tmp_path / "own"
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    for i in range(12):
        pixels = data.train.images[3] if i == 7 else torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8, generator=generator)
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(folder / f"{i:02}.png")
    case = _case(trained, aux_dataset="imagefolder", aux_data_dir=str(folder))
    assert (case.sets.record["aux_dropped_members"], len(case.sets.aux)) == (1, 11)
    assert not set(case.sets.aux.digests()) & set(data.train.digests())
    assert case.facts()["options"]["aux_data_dir"] == str(folder)
    name = case.directory.name
    (folder / "03.png").unlink()
    assert _case(trained, aux_dataset="imagefolder", aux_data_dir=str(folder)).directory.name != name


@pytest.mark.parametrize(("options", "mark"), [({"aux_dataset": "photos"}, "aux_other"), ({"aux_clients": (1,)}, "aux_same")])
def test_with_a_recording_own_images_of_every_source_are_views(trained: Path, options: dict[str, Any], mark: str) -> None:
    case = _case(trained, wire=True, **options)
    views = wire.own_views(case.sets.aux.images, case.checkpoint.config.augmentation)
    assert torch.equal(case.own.fit, sets.split(views).fit)
    assert case.aux_kind == mark


def test_target_views_are_views_of_the_runs_own_family(run_dir: Path) -> None:
    """Targets, own images and the judge's by hand; the numbers are those of a ridge that meets the client at the views."""
    case, plain = _case(run_dir, target_views=True), _case(run_dir)
    assert case.sets.targets.images.equal(plain.sets.targets.images)

    def views(images: Tensor, purpose: str) -> Tensor:
        draws = augment.draw(len(images), rng.generator(0, purpose))
        return augment.views(images, draws, case.checkpoint.config.augmentation, mean=(0.0,) * 3, std=(1.0,) * 3).clamp(0, 1)

    truth, own = views(case.sets.targets.images, "views of the targets"), sets.split(views(case.sets.aux.images, "own views"))
    assert torch.equal(case.targets, truth)
    assert (case.targets - plain.targets).abs().mean() > 0.05
    assert torch.equal(case.own.fit, own.fit)
    assert torch.equal(case.gallery.images, views(case.sets.gallery.images, "views of the gallery"))
    oracle = _case(run_dir, method="oracle", target_views=True)
    assert oracle.private is not None
    assert torch.equal(oracle.private.fit, sets.split(views(case.sets.private.images, "views of the bound")).fit)
    seen = _case(run_dir, method="fora", target_views=True)
    assert torch.equal(seen.others, views(case.sets.private.images, "views of the bound"))
    data = case.checkpoint.dataset()
    victim = Victim(case.checkpoint.network().client, data.mean, data.std)
    view = View({"smashed": victim.release(truth), "query": victim.query, "aux_same": own}, ("smashed", "query", "aux"), attack="ridge")
    result = _result(run_dir, "--method", "ridge", "--target-views")
    assert result["mse"] == pytest.approx(judge.score(ridge.attack(view, case.options, 0).images, truth).mse.mean().item(), rel=1e-4)
    assert result["options"]["target_views"] is True
    assert result["sets"]["truth"] == "augmented view"
    assert result["wire"] is None
    stored = read_tensors(next(run_dir.glob("attacks/ridge-*/reconstructions.safetensors")))["targets"]
    assert (stored.float() / 255 - truth).abs().max() < 0.003


def test_the_published_protocol_owns_training_images_that_are_no_targets(trained: Path) -> None:
    """1 % of the training split, else as many as asked for; the judge has none of them."""
    case = _case(trained, method="decoder", preset="mocosfl_published", aux=30)
    data = case.checkpoint.dataset()
    chosen = case.sets
    targets, own, judged = (set(part.digests()) for part in (chosen.targets, chosen.aux, chosen.gallery))
    assert own <= set(data.train.digests())
    assert not own & targets
    assert not own & judged
    assert len(own) == 30
    assert len(judged) == len(set(data.train.digests())) - 30 - 8
    assert chosen.record["aux_from"] == "the training split"
    assert "no honest-but-curious server has them" in chosen.notices[0]
    assert chosen.targets.images.equal(_case(trained).sets.targets.images)
    with pytest.raises(ValueError, match="1 % of the 120 training images are fewer than two"):
        _ = _case(trained, method="decoder", preset="mocosfl_published", aux=None).sets
    many = ImageSet(data.train.images[:1].expand(4500, -1, -1, -1))
    large = invert.Options(preset="mocosfl_published")
    assert sources.wanted(large, _with_train(data, many)) == 45
    assert sources.wanted(invert.Options(preset="published"), _with_train(data, many)) == 500


def _with_train(data: Any, images: ImageSet) -> Any:
    return dataclasses.replace(data, train=images)


def test_the_published_contrast_is_that_of_the_published_tensor(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CIFAR-10: black and white become .087 and .908 at the outermost, contrast .77 to .82; other data sets stay as they are."""
    data = _case(trained).checkpoint.dataset()
    cifar = dataclasses.replace(data, name="cifar10", mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010))
    ends = sources.official(torch.stack([torch.zeros(3, 2, 2), torch.ones(3, 2, 2)]), cifar)
    assert (ends[1] - ends[0]).mean((1, 2)).tolist() == pytest.approx([0.819, 0.821, 0.770], abs=1e-3)
    assert (ends.min().item(), ends.max().item()) == pytest.approx((0.087, 0.908), abs=2e-3)
    case = _case(trained, method="decoder", preset="mocosfl_published", aux=30)
    assert torch.equal(case.targets, to_float(case.sets.targets.images))
    monkeypatch.setitem(sources.OFFICIAL_STD, "digits", (0.647,) * 3)
    case = _case(trained, method="decoder", preset="mocosfl_published", aux=30)
    expected = 0.3055 + (to_float(case.sets.targets.images) - 0.3055) * 0.3235 / 0.647
    torch.testing.assert_close(case.targets, expected)
    torch.testing.assert_close(case.gallery.images, 0.3055 + (to_float(case.sets.gallery.images) - 0.3055) / 2)
    assert torch.equal(case.own.fit, sets.split(case.sets.aux.images).fit)
    assert torch.equal(_case(trained, method="decoder", preset="published").targets, to_float(case.sets.targets.images))


def test_few_labels_of_colluders(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--checkpoint", str(run_dir), "--targets", "30", "--aux-clients", "0", "2"]
    label.main(words)
    (file,) = run_dir.glob("attacks/label-fewshot-*/result.json")
    result = json.loads(file.read_text())
    assert result["needs"] == ["smashed", "query", "aux_same", "aux_labels"]
    assert (result["sets"]["aux_from"], result["aux"], result["targets"]) == ("clients 0, 2", 80, 30)
    assert result["options"]["aux_clients"] == [0, 2]
    assert "Note: the attacker's images are those of clients 0, 2" in capsys.readouterr().out
    case = label.Case(label.Options(checkpoint=str(run_dir), targets=30, aux_clients=(0, 2)))
    assert set(case.sets.clients.tolist()) == {1}
    first, second, third = _held(case)
    assert set(case.sets.aux.digests()) == (first | third) - second
    assert case.sets.aux.labels is not None
    known = dict(zip(case.checkpoint.dataset().train.digests(), case.checkpoint.dataset().train.labels.tolist(), strict=True))
    assert [known[d] for d in case.sets.aux.digests()] == case.sets.aux.labels.tolist()


def test_classes_that_colluders_do_not_hold_are_counted() -> None:
    images = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)

    def made(own: list[int], asked: list[int]) -> sets.Sets:
        aux, targets = (ImageSet(images, torch.tensor(labels)) for labels in (own, asked))
        return sets.Sets(targets, torch.zeros(4), aux, targets, targets, {"aux_from": "client 3"}, ("first",))

    assert sources.classes_known(made([0, 1, 1, 2], [0, 1, 2, 2])).notices == ("first",)
    lacking = sources.classes_known(made([0, 1, 1, 1], [0, 2, 2, 4]))
    assert lacking.notices == ("first", "the attacker has images of 2 classes and cannot name 2 of the 3 of the targets")
    with pytest.raises(ValueError, match=r"all images of the attacker \(client 3\) have one label"):
        sources.classes_known(made([1, 1, 1, 1], [0, 1, 2, 2]))


@pytest.mark.parametrize(("options", "message"), [
    ({"aux_clients": (7,)}, "client 7 does not exist, there are 3, counted from 0"),
    ({"aux_clients": (0, 1, 2)}, r"names all clients \(3\): none is left"),
    ({"aux_clients": (1, 1)}, "names client 1 twice"),
    ({"aux_clients": ()}, "names no client"),
    ({"aux_clients": (-1,)}, "aux_clients = -1 is impossible"),
    ({"aux_clients": (0,), "aux_dataset": "photos"}, "are two sources"),
    ({"aux_dataset": "tsv"}, "aux_dataset = 'tsv' does not exist"),
    ({"aux_dataset": "cifar100"}, "--aux-dataset cifar100 needs --aux-data-dir DIR"),
    ({"aux_dataset": "cifar100", "aux_data_dir": "nowhere"}, "--aux-data-dir nowhere: there is no such folder"),
    ({"aux_dataset": "cifar100", "aux_data_dir": "."}, "cifar100 is not in . or is damaged: .* with --aux-data-dir$"),
    ({"aux_dataset": "digits"}, "is the run's own data set"),
    ({"aux_data_dir": "."}, "name that with --aux-dataset"),
    ({"method": "twoview", "target_views": True}, "--target-views has no meaning here: twoview has views of its own"),
    ({"wire": True, "target_views": True}, "--target-views has no meaning here: .* are views already"),
    ({"preset": "mocosfl_published"}, "goes with --method decoder alone: leave it out with ridge"),
    ({"method": "decoder", "preset": "mocosfl_published", "target_views": True}, "attacks images as they are: leave --wire"),
    ({"method": "decoder", "preset": "mocosfl_published", "aux_clients": (0,)}, "takes the attacker's images from the training split"),
])
def test_what_does_not_go_together_is_one_sentence(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                   options: dict[str, Any], message: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as raised:
        _ = _case(trained, **options).directory
    assert "\n" not in str(raised.value)


def test_labels_of_another_data_set_and_attacks_without_images_are_refused(supervised: Path) -> None:
    with pytest.raises(ValueError, match="the attack pcat needs aux_labels, and labels of photos name other classes"):
        _case(supervised, method="pcat", aux_dataset="photos")
    assert _case(supervised, method="ridge", aux_dataset="photos").aux_kind == "aux_other"
    for method in ("fewshot", "completion"):
        with pytest.raises(ValueError, match=f"the attack {method} needs aux_labels"):
            label.Case(label.Options(checkpoint=str(supervised), method=method, aux_dataset="photos"))
    with pytest.raises(ValueError, match="the attack norm owns no images"):
        label.Case(label.Options(checkpoint=str(supervised), method="norm", aux_clients=(0,)))


@pytest.mark.parametrize("words", [["--aux-clients", "0"], ["--target-views"], ["--aux-dataset", "photos"],
                                   ["--preset", "mocosfl_published", "--method", "decoder"]])
def test_a_client_from_elsewhere_has_none_of_it(words: list[str], tmp_path: Path) -> None:
    folders = ["--encoder", "a.py:build", "--targets", str(tmp_path), "--aux", str(tmp_path)]
    with pytest.raises(ValueError, match=rf"^{words[0]}.* a client from elsewhere"):
        invert.main([*folders, *words])
    if words[0].startswith("--aux"):
        with pytest.raises(ValueError, match=rf"^{words[0]} belongs to a run"):
            label.main([*folders, *words])


def _name(prefix: str, identity: Mapping[str, Any], file: str, step: int) -> str:
    text = json.dumps([RESULTS_VERSION, {**identity, "checkpoint": {"file": file, "step": step}}], sort_keys=True)
    return f"{prefix}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def test_results_keep_their_names_where_nothing_new_is_set(trained: Path) -> None:
    """The options that named results before there were sources, written out; each new one gives another name."""
    at = _case(trained).checkpoint
    plain = {"method": "ridge", "aux": 40, "targets": 8}
    assert _case(trained).directory.name == _name("ridge", plain, at.path.name, at.step)
    span = [at.step - 2, at.step - 1]
    assert _case(trained, wire=True).directory.name == _name("ridge", {**plain, "wire": span, "others": "views"}, at.path.name, at.step)
    labels = label.Case(label.Options(checkpoint=str(trained)))
    named = {"targets": 1000, "aux": 5000, "seed": 0, "headline": "own images"}
    assert labels.directory.name == _name("label-fewshot", named, at.path.name, at.step)
    new: list[dict[str, Any]] = [{}, {"aux_clients": (0,)}, {"aux_clients": (1,)}, {"aux_dataset": "photos"}, {"target_views": True},
                                 {"aux_clients": (0,), "target_views": True}]
    assert len({_case(trained, **options).directory.name for options in new}) == len(new)


def test_rulers_are_of_the_images_that_were_used(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every source and every kind of targets has a ruler of its own, whichever attack it is."""
    keys: list[dict[str, Any]] = []
    monkeypatch.setattr(rulers, "cached", lambda folder, key, compute: keys.append(json.loads(json.dumps(key))))
    for options in ({}, {"aux_clients": (0,)}, {"aux_dataset": "photos"}, {"target_views": True}):
        for method in ("ridge", "oracle", "fora"):
            _case(trained, method=method, **options).untrained()
    parts = [json.dumps({k: v for k, v in key.items() if k != "options"}, sort_keys=True) for key in keys]
    assert len(set(parts)) == len(parts) == 12
    assert [("own" in key) for key in keys] == [False] * 9 + [True] * 3


def test_a_sweep_stage_with_colluders_is_another_stage(run_dir: Path, tmp_path: Path) -> None:
    """Lists in a sweep file are the words of the flag, and a result of the plain attack is not taken for that with colluders."""
    stages = "[{attack: ridge, targets: 8, aux: 40}, {attack: ridge, targets: 8, aux: 40, aux_clients: [0, 2]}]"
    (tmp_path / "trial.yaml").write_text(f"fixed: {{dataset: digits, image_size: 16, cut: 1}}\nstages: {stages}\n")
    plain, colluding = plan.read(tmp_path / "trial.yaml").stages
    words = colluding.arguments(run_dir, {})
    assert words[-3:] == ("--aux-clients", "0", "2")
    assert jobs.stage_result(run_dir, plain) is jobs.stage_result(run_dir, colluding) is None
    invert.main(plain.arguments(run_dir, {})[1:])
    assert jobs.stage_result(run_dir, plain) is not None
    assert jobs.stage_result(run_dir, colluding) is None
    invert.main(words[1:])
    found = [jobs.stage_result(run_dir, stage) for stage in (plain, colluding)]
    assert None not in found
    assert found[0] != found[1]
