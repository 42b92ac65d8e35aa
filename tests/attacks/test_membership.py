"""Membership attacks on clients of which the answer is known, and the command."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal

from attacks import membership
from attacks.members import lira, memoriser, shadows, training, victims
from attacks.members.api import METHODS, Shadow
from attacks.members.embed import Server
from attacks.members.shadows import halves
from attacks.membership import OwnEncoder, infer
from attacks.view import CapabilityError, View
from ssl_split import config as configuration
from ssl_split import train
from ssl_split.defences.noise import Gaussian
from ssl_split.models.split import Half
from ssl_split.run import open_checkpoint
from tests.train.tiny import TINY, tiny

IMAGES = memoriser.random_images(140, seed=3)
MEMBERS, OTHERS, OWN = IMAGES[:40], IMAGES[40:80], IMAGES[80:]


class Louder(nn.Module):
    """Twice as loud for the images that it knows."""

    def __init__(self, known: Tensor) -> None:
        super().__init__()
        self.known = {image.numpy().tobytes() for image in known}

    def forward(self, x: Tensor) -> Tensor:
        """`(B, 3, S, S)` -> `(B, 4)`."""
        factor = torch.tensor([2.0 if (image * 255).round().byte().numpy().tobytes() in self.known else 1.0 for image in x])
        return factor[:, None] * x.flatten(1)[:, :192].unflatten(1, (4, 48)).norm(dim=2)


def test_the_norm_finds_what_is_louder_on_members_and_only_that() -> None:
    found = infer(Louder(MEMBERS), MEMBERS, OTHERS, OWN, method="norm", untrained=Louder(OWN[:0]))
    assert found.best["auc"] > 0.95
    assert found.rows[1]["auc"] > 0.95
    assert found.rows[1]["notes"] == {"members_are": "larger"}
    assert found.best["untrained"]["low"] < 0.5 < found.best["untrained"]["high"]
    assert "Members can be told" in found.verdict
    nothing = infer(Louder(OWN[:0]), MEMBERS, OTHERS, OWN, method="norm")
    assert nothing.best["low"] < 0.5 < nothing.best["high"]


def _classifier(out: int = 5) -> Server:
    return Server(Half({}), out, supervised=True)


def test_odds_are_the_logit_of_the_labels_probability() -> None:
    out, labels = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 5
    p = out.softmax(1).gather(1, labels[:, None]).squeeze(1)
    torch.testing.assert_close(training.label_odds(out, labels), (p / (1 - p)).log())


def test_loss_and_confidence_read_a_classifier() -> None:
    """Members get the right label with confidence, others nothing: both scores tell them apart entirely."""
    known = Louder(MEMBERS).known

    def client(x: Tensor) -> Tensor:
        inside = torch.tensor([(image * 255).round().byte().numpy().tobytes() in known for image in x])
        return torch.nn.functional.one_hot(torch.full((len(x),), 2), 5) * torch.where(inside, 3.0, 0.5)[:, None]

    labels = torch.full((40,), 2)
    for method in ("loss", "confidence"):
        found = infer(client, MEMBERS, OTHERS, method=method, server=_classifier(), labels=(labels, labels))
        assert found.best["auc"] == 1
        assert found.best["needs"][:2] == ["query", "server_model"]
    wrong = infer(client, MEMBERS, OTHERS, method="loss", server=_classifier(), labels=(labels - 1, labels - 1))
    assert wrong.best["auc"] == 0


def test_what_is_not_declared_or_not_offered_is_named() -> None:
    with pytest.raises(CapabilityError, match="norm needs aux_same"):
        infer(nn.Identity(), MEMBERS, OTHERS, method="norm")
    with pytest.raises(CapabilityError, match="infonce needs server_model"):
        infer(nn.Identity(), MEMBERS, OTHERS, method="infonce")
    with pytest.raises(CapabilityError, match="infonce needs a queue"):
        infer(nn.Identity(), MEMBERS, OTHERS, method="infonce", server=_classifier())
    with pytest.raises(CapabilityError, match="loss needs labels"):
        infer(nn.Identity(), MEMBERS, OTHERS, method="loss", server=_classifier())
    with pytest.raises(ValueError, match="at least 2 encoders"):
        infer(nn.Identity(), MEMBERS, OTHERS, OWN, method="lira")
    with pytest.raises(ValueError, match="both among the members and among the attacker"):
        infer(nn.Identity(), MEMBERS, OTHERS, MEMBERS, method="norm")


def _encoders(count: int = len(OWN)) -> list[OwnEncoder]:
    return [OwnEncoder(nn.Identity(), seen, _classifier()) for seen in halves(count, 2)]


@pytest.mark.parametrize(("changes", "message"), [
    ({"nonmembers": OTHERS[:, :, :12, :12]}, "members have 3x16x16 and non-members 3x12x12 numbers: all images must be of one size"),
    ({"own": OWN[:, :, :8, :8]}, "members have 3x16x16 and attacker's own images 3x8x8 numbers"),
    ({"members": MEMBERS[:, 0]}, "images must be uint8"),
    ({"method": "lira", "online": True}, "online lira needs to know which of the images asked about"),
    ({"method": "lira", "own": OWN[:50]}, "an encoder of the attacker's own says of 60 images whether it was trained on them"),
    ({"method": "lira", "own_labels": torch.zeros(3, dtype=torch.int64)}, "there are 60 images of the attacker's own and 3 labels"),
    ({"method": "lira", "labels": (torch.zeros(40, dtype=torch.int64),) * 2}, "lira calibrates the loss of a classifier, which needs aux_"),
    ({"method": "lira", "score": "loss"}, "lira calibrates the loss of a classifier, which needs labels and aux_labels"),
])
def test_what_does_not_fit_together_is_one_sentence(changes: dict[str, object], message: str) -> None:
    given: dict[str, object] = {"members": MEMBERS, "nonmembers": OTHERS, "own": OWN, "method": "norm", "server": _classifier(),
                                "shadows": _encoders(), **changes}
    with pytest.raises(ValueError) as raised:
        infer(nn.Identity(), **given)  # type: ignore[arg-type]
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_defence_without_noise_changes_nothing_and_a_strong_one_hides() -> None:
    """z + 0 n is z to the last bit. Of noise that drowns the norms nothing is left of an attack that else finds all."""
    client, encoders = Louder(MEMBERS), [OwnEncoder(Louder(OWN[seen]), seen) for seen in halves(len(OWN), 2)]
    for method in ("norm", "lira"):
        words = {"method": method, "score": "norm", "shadows": encoders}
        bare, none, strong = (infer(client, MEMBERS, OTHERS, OWN, defence=d, **words) for d in (None, Gaussian(0.0), Gaussian(1e3)))
        assert torch.equal(bare.scores, none.scores)
        assert bare.best["auc"] > 0.95
        assert strong.best["low"] < 0.5 < strong.best["high"]


def test_lira_offline_is_the_standard_score_and_online_the_likelihood_ratio() -> None:
    generator = torch.Generator().manual_seed(1)
    score, references = torch.randn(5, generator=generator).double(), torch.randn(20, 5, generator=generator).double()
    seen = halves(5, 20)
    seen[0, :4], seen[1, :4] = True, False
    inside, outside = ([references[c[:, i], i] for i in range(5)] for c in (seen, ~seen))
    normal = [[Normal(v.mean(), v.std()) for v in side] for side in (inside, outside)]
    expected = [normal[0][i].log_prob(score[i]) - normal[1][i].log_prob(score[i]) for i in range(5)]
    torch.testing.assert_close(lira.online(score, references, seen), torch.stack(expected))
    z = [(score[i] - normal[1][i].mean) / normal[1][i].stddev for i in range(5)]
    torch.testing.assert_close(lira.offline(score, references, seen), torch.stack(z))
    assert lira.offline(score, references[:2], torch.ones(2, 5, dtype=torch.bool)).isnan().all()


def test_few_references_share_one_variance() -> None:
    """Two values a and b of each image: the common variance is the mean of (a - b)^2 / 2."""
    references = torch.tensor([[0.0, 1.0, 5.0], [2.0, 1.0, 1.0]], dtype=torch.float64)
    seen = torch.zeros(2, 3, dtype=torch.bool)
    found = lira.offline(torch.zeros(3, dtype=torch.float64), references, seen)
    torch.testing.assert_close(found, -torch.tensor([1.0, 1.0, 3.0]).double() / ((4 + 0 + 16) / 2 / 3) ** 0.5)


def test_own_encoders_judge_lira() -> None:
    seen = halves(200, 6)
    assert bool((seen.double().mean(0) == 0.5).all())
    scores = 3 * seen.double() + torch.randn(6, 200, generator=torch.Generator().manual_seed(0)).double()
    for with_in in (False, True):
        auc, threshold = lira.on_own_encoders(scores, seen, with_in=with_in)
        assert auc is not None
        assert auc > 0.9
        assert threshold is not None
    assert lira.on_own_encoders(scores[:2], seen[:2], with_in=False) == (None, None)


def test_rmia_ratios_use_references_that_have_not_seen_the_image() -> None:
    """Logits (ln p, ln (1 - p)) give p: p_out is the mean over the encoders that are out."""
    def view(p: float) -> View:
        out = torch.tensor([[p, 1 - p]]).log()
        return View({"query": lambda x: out.expand(len(x), -1), "server_model": _classifier(2)}, ("query", "server_model"), attack="rmia")

    seen = torch.tensor([[True, False], [False, False]])
    shadows = [Shadow(view(p), inside, inside) for p, inside in zip((0.2, 0.6), seen, strict=True)]
    found = training.ratios(torch.tensor([0.5, 0.5]).double(), MEMBERS[:2], torch.zeros(2, dtype=torch.int64), shadows, inside="own_in")
    a = training.OFFLINE_A
    expected = [0.5 / (0.5 * ((1 + a) * p + 1 - a)) for p in (0.6, 0.4)]
    assert found.tolist() == pytest.approx(expected, abs=1e-6)


def test_the_guessed_momentum_is_the_average_of_a_straight_path() -> None:
    """Against the average computed step by step."""
    points, decay = [(0, 0.0), (7, 3.0), (10, -1.0)], 0.8
    average, weights = points[0][1], points[0][1]
    for (before, old), (after, new) in pairwise(points):
        for step in range(before + 1, after + 1):
            weights = old + (new - old) * (step - before) / (after - before)
            average = decay * average + (1 - decay) * weights
    found = victims.ema_of_path([(step, {"w": torch.tensor([value], dtype=torch.float64)}) for step, value in points], decay)
    assert float(found["w"]) == pytest.approx(average)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished self-supervised run of ten steps."""
    values = configuration.fields.merge(TINY, {"out": str(tmp_path_factory.mktemp("runs")), "max_steps": 6, "validate_every_rounds": 0})
    return train.run(configuration.from_dict(values), on_log=lambda line: None).path


def _result(run: Path, method: str, *words: str) -> dict[str, object]:
    membership.main(["--checkpoint", str(run), "--method", method, "--members", "40", "--device", "cpu", *words])
    (file,) = run.glob(f"attacks/membership-{method}-*/result.json")
    found: dict[str, object] = json.loads(file.read_text())
    assert (file.parent / "roc.png").is_file()
    return found


def test_the_command(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every place beside its ruler; the second time nothing is computed; six steps give nobody away."""
    result = _result(run, "norm")
    shown = capsys.readouterr().out
    assert result["needs"] == ["query", "aux_same", "server_model"]
    rows = result["rows"]
    assert isinstance(rows, list)
    assert [(r["place"], r["score"]) for r in rows] == [(p, s) for p in ("cut", "pooled", "projector") for s in ("likelihood", "one-sided")]
    assert rows[0]["needs"] == ["query", "aux_same"]
    assert all(r["untrained"]["low"] < 0.55 for r in rows)
    assert result["verdict"] in shown
    _result(run, "norm")
    again = capsys.readouterr()
    assert "exists and is not computed again" in again.err
    assert again.out == shown
    assert len(list((run.parent / ".rulers").glob("membership-norm-*.json"))) == 1
    infonce = _result(run, "infonce", "--views", "2")
    assert infonce["needs"] == ["query", "server_model"]
    gap = _result(run, "momentum-gap")
    assert gap["rows"][0]["notes"]["momentum"] == "known"  # type: ignore[index]


def test_encoders_of_the_attackers_own_are_trained_once(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lira_result = _result(run, "lira", "--budget", "quick", "--score", "norm")
    assert capsys.readouterr().err.count("training encoder") == 2
    assert lira_result["encoders"] == 2
    assert len(list((run.parent / ".shadows").glob("*/shadow-*/result.json"))) == 2
    partcrop_result = _result(run, "partcrop", "--budget", "quick", "--crops", "2", "--fit", "60")
    assert "training encoder" not in capsys.readouterr().err
    assert partcrop_result["headline_from"] == "the attacker's own data"


@pytest.mark.slow
def test_two_attacks_at_once_share_the_encoders_of_the_attackers_own(run: Path, tmp_path: Path) -> None:
    """Two processes ask about the same images by other scores: each encoder is trained by one of them, and both attacks end well."""
    copy = tmp_path / run.name
    shutil.copytree(run, copy)
    words = [sys.executable, "-m", "attacks.membership", "--checkpoint", str(copy), "--method", "lira", "--members", "36",
             "--device", "cpu", "--budget", "quick", "--score"]
    both = [subprocess.Popen([*words, score], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for score in ("norm", "infonce")]
    said = [process.communicate(timeout=600)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sum(text.count("training encoder") for text in said) == 2
    assert "waiting for another process" in "".join(said)


SIGMA = 3.0


@pytest.fixture(scope="module")
def defended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run with noise on its smashed data."""
    values = {"out": str(tmp_path_factory.mktemp("defended")), "max_steps": 2, "validate_every_rounds": 0, "defence": "gaussian",
              "gaussian": {"sigma": SIGMA}}
    return train.run(configuration.from_dict(configuration.fields.merge(TINY, values)), on_log=lambda line: None).path


def test_answers_go_through_the_runs_defence(defended: Path) -> None:
    """Independent draws add their variances: two networks differ by sigma sqrt 2, a network and the bare client half by sigma."""
    checkpoint = open_checkpoint(str(defended))
    data = checkpoint.dataset()
    x = training.pool.to_float(data.test.images[:40])
    constants = {"mean": data.mean, "std": data.std, "device": torch.device("cpu")}
    first, second = (victims.of_checkpoint(checkpoint, **constants, copy=k) for k in (0, 1))
    bare = victims.offers(checkpoint.network(), checkpoint.config, defence=Gaussian(0.0), **constants)
    assert float((first["query"](x) - bare["query"](x)).std()) == pytest.approx(SIGMA, rel=0.05)
    assert float((first["query"](x) - second["query"](x)).std()) == pytest.approx(SIGMA * 2**0.5, rel=0.05)
    assert torch.equal(first["query"](x), first["query"](x))
    untrained = victims.of_untrained(checkpoint.untrained(), checkpoint.config, **constants, defence=checkpoint.defence)
    assert float(untrained["query"](x).std()) > 0.9 * SIGMA


def test_results_name_the_defence(defended: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Attacks that ask the client meet it; the gap between two sets of weights does not."""
    result = _result(defended, "norm")
    assert (result["defence"], result["adaptive"]) == ({"name": "gaussian", "sigma": SIGMA}, True)
    assert result["options"]["attacker"] == "adaptive"  # type: ignore[index]
    assert "defence: gaussian (sigma 3); the attacker knows it" in capsys.readouterr().out
    (ruler,) = (defended.parent / ".rulers").glob("membership-norm-*.json")
    assert json.loads(ruler.read_text())["key"]["defence"]["sigma"] == SIGMA
    gap = _result(defended, "momentum-gap")
    assert (gap["defence"], gap["adaptive"]) == ({"name": "gaussian", "sigma": SIGMA}, None)
    assert "attacker" not in gap["options"]  # type: ignore[operator]
    without = _result(run, "norm")
    assert (without["defence"], without["adaptive"]) == (None, None)
    assert "attacker" not in without["options"]  # type: ignore[operator]


def test_own_encoders_start_from_scratch(run: Path, tmp_path: Path) -> None:
    """Of a run that went on from trained weights they are those of the same run without these, and the result's name and notes say so."""
    more = tiny(tmp_path, client_from=str(run), server_from=str(run), max_steps=2, validate_every_rounds=0)
    plain = more.replace(client_from=None, server_from=None)
    own = {"images": 60, "number": 1, "out": tmp_path, "device": "cpu"}
    assert more.fingerprint != plain.fingerprint
    assert shadows.configuration(more, **own) == shadows.configuration(plain, **own)
    options = membership.Options(checkpoint=str(train.run(more, on_log=lambda line: None).path), method="lira", encoders=2, members=40)
    case = membership.Case(options)
    assert case.identity["own_encoders"] == "from scratch"
    assert "trained from scratch" in case.notices[0]
    assert len(case.question.shadows) == 2
    files = list(tmp_path.glob(".shadows/*/shadow-*/config.yaml"))
    assert [(c.client_from, c.server_from) for c in map(configuration.load, files)] == [(None, None)] * 2


@pytest.mark.parametrize(("fields", "message"), [
    ({"client_from": "a", "freeze_client": True}, "its client stays as client_from made it"),
    ({"client_from": "a", "client_lr": 0.0}, "its client stays as client_from made it"),
    ({"server_from": "a", "server_lr": 0.0}, "its server stays as server_from made it"),
    ({"client_from": "a", "defence": "adversarial"}, "the defence adversarial needs a trained client"),
    ({"client_from": "a", "server_from": "a", "freeze_client": True, "server_lr": 0.0, "defence": "shredder"}, "its client stays"),
])
def test_runs_that_cannot_start_from_scratch_have_no_own_encoders(tmp_path: Path, fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"encoders of the attacker's own start from scratch, and this run cannot: {message}"):
        shadows.configuration(tiny(tmp_path, **fields), images=60, number=0, out=tmp_path, device="cpu")


def test_runs_that_do_not_offer_what_an_attack_needs(run: Path) -> None:
    for method in ("loss", "confidence", "rmia"):
        with pytest.raises(CapabilityError, match="needs a classifier"):
            membership.main(["--checkpoint", str(run), "--method", method, "--members", "40", "--device", "cpu"])


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "cut"), [("sfl_v1", 5), ("fedavg", "full"), ("fedbyol", "full")])
def test_runs_with_labels_and_uncut_ones(tmp_path: Path, algorithm: str, cut: int | str) -> None:
    """Where the client has everything, the query gives the head's output and the weights the rest; nothing needs smashed data."""
    values = configuration.fields.merge(TINY, {"out": str(tmp_path), "algorithm": algorithm, "cut": cut, "max_steps": 6})
    done = train.run(configuration.from_dict(values), on_log=lambda line: None).path
    norm = _result(done, "norm")
    places = {r["place"]: r["needs"] for r in norm["rows"]}  # type: ignore[attr-defined]
    assert set(places) == ({"projector", "pooled"} if cut == "full" else {"cut", "pooled", "projector"})
    assert ("weights" in places["pooled"]) == (cut == "full")
    if algorithm == "fedbyol":
        return
    assert _result(done, "loss")["needs"] == ["query", "server_model", "labels"]
    assert "aux_labels" in _result(done, "rmia", "--budget", "quick")["needs"]  # type: ignore[operator]
    lira_result = _result(done, "lira", "--encoders", "4", "--online", "true")
    assert lira_result["score"] == "loss, online"
    assert lira_result["threshold_from"] == "the attacker's own data"


def test_the_table_names_every_method() -> None:
    assert [line.split()[0] for line in membership.table().splitlines()[1:]] == list(METHODS)
