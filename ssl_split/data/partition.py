"""Deal the training images to clients: every image to exactly one, no client left empty.

Rules (n images, N clients, C classes that occur; the parameters are fields of `config.Partition`):

iid        equal random parts.
shards     sort by label, cut into cN contiguous shards at floor(j n / cN), deal c shards to each client without replacement
           (McMahan et al. 2017; what the papers call c classes per client).
classes    exactly c distinct classes per client; every class has Nc/C owners, give or take one, and is split evenly between them.
dirichlet  each class is split by its own draw from Dirichlet(beta) over the clients (Yurochkin et al. 2019); sizes follow.
dirichlet_balanced
           clients of equal size, each with its own draw from Dirichlet(beta) over the classes (Hsu et al. 2019; Acar et al. 2021):
           clients take images in random turns, each of a class drawn from its shares among the classes of which images are left.
           (The code of FedSMOO, FedLESAM and FedWMSAM hands images out again where a class has run out; here every image has one
           owner.)
ratio      a share rho of each client's images comes from its one main class, the rest at random from all that is left (of which
           the main class is a part). Main classes are dealt in turn, and a client is as large as its main class divided by the
           clients that share it: the share is exact and no surplus remains. With equal classes, clients are equally large where
           N < C or N is a multiple of C. With N < C the N largest classes are main classes, and a rho above their part of the
           images (at least N / C) is refused.
quantity   client sizes from Dirichlet(beta), at least one image each, labels at random.
longtail   every client has its own long tail over the classes: the class of rank r weighs imbalance^(-r / (C - 1)) (Cui et al.
           2019), and ranks are one random order of the classes, rotated from client to client. The weights are rescaled until
           clients are equally large and every image is used (iterative proportional fitting). With equal classes and N a multiple
           of C, the largest class of a client is `imbalance` times its smallest. The data set as a whole keeps its class sizes,
           unlike CIFAR-10-LT, which discards images.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ssl_split import rng
from ssl_split.config import Partition

Rule = Callable[[Tensor, Partition, int, torch.Generator], list[Tensor]]
UnlabelledRule = Callable[[int, Partition, int, torch.Generator], list[Tensor]]


def partition(labels: Tensor | None, options: Partition, *, images: int, clients: int) -> list[Tensor]:
    """Deal image indices to clients.

    Args:
        labels: int64 (images,), or None.
        options: The rule and its parameters; `options.seed` seeds nothing else.
        images: Number of images n.
        clients: Number of clients N.

    Returns:
        N sorted int64 index tensors that cover 0 ... n - 1 once.

    Raises:
        ValueError: more clients than images, a rule that needs labels where there are none, or an impossible combination.
    """
    if clients > images:
        raise ValueError(f"clients = {clients} is more than the {images} training images: every client needs at least one")
    generator = rng.generator(options.seed, "partition")
    if options.kind in _UNLABELLED:
        parts = _UNLABELLED[options.kind](images, options, clients, generator)
    elif labels is None:
        raise ValueError(f"partition.kind = {options.kind} needs class labels and these images have none; legal without labels: "
                         f"{', '.join(_UNLABELLED)}")
    else:
        parts = _LABELLED[options.kind](labels.cpu(), options, clients, generator)
    return [part.sort().values for part in _fill_empty(parts)]


def class_histogram(parts: list[Tensor], labels: Tensor) -> Tensor:
    """Images of each class at each client, int64 (clients, classes)."""
    classes = int(labels.max()) + 1
    return torch.stack([torch.bincount(labels[part], minlength=classes) for part in parts])


def describe(parts: list[Tensor], labels: Tensor | None) -> str:
    """Client sizes and classes per client, as a few lines for the log."""
    sizes = sorted(len(part) for part in parts)
    text = f"{len(parts)} clients with {_span(sizes)} images (median {sizes[len(sizes) // 2]})"
    if labels is None:
        return text
    histogram = class_histogram(parts, labels)
    owned, how_many = (histogram > 0).sum(1).unique(return_counts=True)
    pairs = zip(owned.tolist(), how_many.tolist(), strict=True)
    text += "; classes per client: " + ", ".join(f"{c} ({n} client{'s' if n > 1 else ''})" for c, n in pairs)
    largest = (histogram.max(1).values / histogram.sum(1)).mean()
    text += f"; largest class of a client: {largest:.0%} of its images on average"
    if len(parts) <= 20 and histogram.shape[1] <= 20:
        width = max(len(str(int(histogram.max()))), 2)
        rows = [" ".join(f"{int(n):{width}d}" for n in row) for row in histogram]
        text += "".join(f"\n  client {k:2d}: {row}" for k, row in enumerate(rows))
    return text


def _span(values: list[int]) -> str:
    return str(values[0]) if values[0] == values[-1] else f"{values[0]} to {values[-1]}"


def _fill_empty(parts: list[Tensor]) -> list[Tensor]:
    """Give each empty client one image of the client that is largest at that moment (the first of equals)."""
    parts = list(parts)
    for k in [k for k, part in enumerate(parts) if len(part) == 0]:
        donor = max(range(len(parts)), key=lambda j: len(parts[j]))
        parts[k], parts[donor] = parts[donor][-1:], parts[donor][:-1]
    return parts


def _cuts(total: int, pieces: int) -> list[int]:
    """Sizes of pieces with the boundaries floor(j total / pieces)."""
    edges = [j * total // pieces for j in range(pieces + 1)]
    return [b - a for a, b in pairwise(edges)]


def _members(labels: Tensor, generator: torch.Generator) -> list[Tensor]:
    """Indices of each class that occurs, in random order."""
    shuffled = torch.randperm(len(labels), generator=generator)
    return [shuffled[labels[shuffled] == c] for c in labels.unique().tolist()]


def _deal(members: list[Tensor], amounts: Tensor) -> list[Tensor]:
    """Clients' indices from (clients, classes) amounts whose columns sum to the class sizes."""
    pieces = [m.split(amounts[:, c].tolist()) for c, m in enumerate(members)]
    return [torch.cat(client) for client in zip(*pieces, strict=True)]


def _iid(images: int, options: Partition, clients: int, generator: torch.Generator) -> list[Tensor]:
    return list(torch.randperm(images, generator=generator).split(_cuts(images, clients)))


def _quantity(images: int, options: Partition, clients: int, generator: torch.Generator) -> list[Tensor]:
    shares = _dirichlet_draws(options.beta, 1, clients, generator)
    sizes = 1 + _round_columns(shares * (images - clients)).flatten()
    return list(torch.randperm(images, generator=generator).split(sizes.tolist()))


def _shards(labels: Tensor, options: Partition, clients: int, generator: torch.Generator) -> list[Tensor]:
    count = options.classes * clients
    if count > len(labels):
        raise ValueError(f"partition.classes = {options.classes} shards for each of {clients} clients are more than the "
                         f"{len(labels)} training images")
    by_label = torch.cat(_members(labels, generator))
    shards = by_label.split(_cuts(len(labels), count))
    dealt = torch.randperm(count, generator=generator).view(clients, options.classes)
    return [torch.cat([shards[j] for j in row]) for row in dealt.tolist()]


def _classes(labels: Tensor, options: Partition, clients: int, generator: torch.Generator) -> list[Tensor]:
    members = _members(labels, generator)
    total, each = len(members), options.classes
    if each > total:
        raise ValueError(f"partition.classes = {each} is more than the {total} classes of the training images")
    if clients * each < total:
        raise ValueError(f"{clients} clients with {each} classes each leave some of the {total} classes without an owner: "
                         f"partition.classes must be at least {-(-total // clients)}")
    left = torch.full((total,), clients * each // total)  # owners that each class still needs
    left[torch.randperm(total, generator=generator)[: clients * each % total]] += 1
    owners: list[list[int]] = [[] for _ in range(total)]
    for k in torch.randperm(clients, generator=generator).tolist():
        # taking the classes with most places left never runs into a dead end (Gale and Ryser); equals in random order
        tie = torch.rand(total, generator=generator)
        for c in (left + tie).argsort(descending=True)[:each].tolist():
            owners[c].append(k)
            left[c] -= 1
    amounts = torch.zeros(clients, total, dtype=torch.float64)
    for c, (held, indices) in enumerate(zip(owners, members, strict=True)):
        if len(held) > len(indices):
            raise ValueError(f"a class of {len(indices)} images cannot be split between {len(held)} owners: use fewer clients or "
                             f"a smaller partition.classes than {each}")
        amounts[held, c] = len(indices) / len(held)
    return _deal(members, _round_columns(amounts))


def _dirichlet(labels: Tensor, options: Partition, clients: int, generator: torch.Generator) -> list[Tensor]:
    members = _members(labels, generator)
    shares = _dirichlet_draws(options.beta, len(members), clients, generator)
    sizes = torch.tensor([len(m) for m in members], dtype=torch.float64)
    return _deal(members, _round_columns(shares * sizes))


def _dirichlet_balanced(labels: Tensor, options: Partition, clients: int, generator: torch.Generator) -> list[Tensor]:
    members = _members(labels, generator)
    left = torch.tensor([len(m) for m in members])
    weights = _dirichlet_logits(options.beta, clients, len(members), generator)  # (clients, classes)
    turns = (torch.arange(len(labels)) % clients)[torch.randperm(len(labels), generator=generator)]
    amounts = torch.zeros(clients, len(members), dtype=torch.int64)
    while len(turns):  # until the next class runs out the turns are independent draws: at most as many passes as classes
        shares = weights.masked_fill(left == 0, -torch.inf).softmax(1).cumsum(1)
        uniform = torch.rand(len(turns), generator=generator, dtype=torch.float64)
        drawn = torch.searchsorted((shares / shares[:, -1:])[turns], uniform[:, None], right=True).flatten()
        taken = torch.nn.functional.one_hot(drawn, len(members)).cumsum(0)
        valid = int((taken <= left).all(1).sum())
        amounts.index_put_((turns[:valid], drawn[:valid]), torch.tensor(1), accumulate=True)
        left -= torch.bincount(drawn[:valid], minlength=len(members))
        turns = turns[valid:]
    return _deal(members, amounts)


def _ratio(labels: Tensor, options: Partition, clients: int, generator: torch.Generator) -> list[Tensor]:
    members = _members(labels, generator)
    sizes = torch.tensor([len(m) for m in members], dtype=torch.float64)
    tie = torch.rand(len(members), generator=generator)
    turn = (sizes + tie).argsort(descending=True)[:clients]
    turn = turn[torch.randperm(len(turn), generator=generator)]
    main = turn[torch.arange(clients) % len(turn)]  # (clients,)
    size = sizes[main] / torch.bincount(main, minlength=len(members))[main]
    reachable = float(size.sum() / sizes.sum())  # 1 when every class is someone's main class
    if options.ratio > reachable + 1e-12:
        raise ValueError(f"partition.ratio = {options.ratio} is impossible: the main classes of {clients} clients hold only "
                         f"{reachable:.4f} of the images")
    wanted = torch.zeros(clients, len(members), dtype=torch.float64)
    wanted[torch.arange(clients), main] = options.ratio / reachable * size
    spare = sizes - wanted.sum(0)
    taken = _round_columns(torch.cat([wanted, spare[None]]))  # the last row is what no one has as main class
    firsts = [m.split(taken[:, c].tolist()) for c, m in enumerate(members)]
    rest = torch.cat([pieces[-1] for pieces in firsts])
    rest = rest[torch.randperm(len(rest), generator=generator)]
    shares = (size / size.sum() * len(rest))[:, None]
    rests = rest.split(_round_columns(shares).flatten().tolist())
    return [torch.cat([firsts[c][k], rests[k]]) for k, c in enumerate(main.tolist())]


def _longtail(labels: Tensor, options: Partition, clients: int, generator: torch.Generator) -> list[Tensor]:
    members = _members(labels, generator)
    total = len(members)
    order = torch.randperm(total, generator=generator)
    rank = (torch.arange(total)[None] - torch.arange(clients)[:, None]) % total  # (clients, classes)
    amounts = torch.empty(clients, total, dtype=torch.float64)
    amounts[:, order] = options.imbalance ** (-rank.double() / max(total - 1, 1))
    sizes = torch.tensor([len(m) for m in members], dtype=torch.float64)
    for _ in range(200):
        amounts *= (len(labels) / clients) / amounts.sum(1, keepdim=True)
        amounts *= sizes / amounts.sum(0)
    return _deal(members, _round_columns(amounts))


def _round_columns(amounts: Tensor) -> Tensor:
    """Whole numbers for (clients, classes) amounts whose columns have whole sums, which are kept.

    Each amount becomes its floor or its ceiling. The ceilings of a column go to the clients that are furthest behind their wanted sum
    so far, so that row sums stay close to the wanted ones too.
    """
    nearest = amounts.round()
    amounts = torch.where((amounts - nearest).abs() < 1e-6, nearest, amounts)
    given = amounts.floor()
    behind = torch.zeros(len(amounts), dtype=amounts.dtype)
    for c in range(amounts.shape[1]):
        fraction = amounts[:, c] - given[:, c]
        behind += fraction
        order = behind.masked_fill(fraction == 0, -torch.inf).argsort(descending=True, stable=True)
        chosen = order[: round(float(fraction.sum()))]
        given[chosen, c] += 1
        behind[chosen] -= 1
    return given.long()


def _dirichlet_draws(beta: float, draws: int, clients: int, generator: torch.Generator) -> Tensor:
    """Draws from a symmetric Dirichlet distribution as the columns of float64 (clients, draws)."""
    return _dirichlet_logits(beta, draws, clients, generator).softmax(1).T.contiguous()


def _dirichlet_logits(beta: float, draws: int, size: int, generator: torch.Generator) -> Tensor:
    """Draws from a symmetric Dirichlet distribution as logits, the rows of float64 (draws, size).

    A gamma variable of shape beta is one of shape beta + 1 times U^(1 / beta); in logarithms a small beta cannot become 0 / 0.
    """
    seed = int(torch.randint(2**62, (), generator=generator))
    random = np.random.Generator(np.random.PCG64(seed))
    gamma = random.standard_gamma(beta + 1, size=(draws, size))
    uniform = 1 - random.random(size=(draws, size))  # (0, 1]
    return torch.from_numpy(np.log(gamma) + np.log(uniform) / beta)


_UNLABELLED: dict[str, UnlabelledRule] = {"iid": _iid, "quantity": _quantity}
_LABELLED: dict[str, Rule] = {
    "shards": _shards,
    "classes": _classes,
    "dirichlet": _dirichlet,
    "dirichlet_balanced": _dirichlet_balanced,
    "ratio": _ratio,
    "longtail": _longtail,
}
