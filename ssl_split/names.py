"""Names of what can be chosen: data sets, networks, algorithms and their families."""

from __future__ import annotations

DATASETS = ("digits", "photos", "cifar10", "cifar100", "svhn", "stl10", "mnist", "fashion_mnist", "imagefolder", "tsv")
ARCHITECTURES = ("resnet18", "resnet34", "resnet50", "mobilenetv2", "vgg11", "vgg16", "alexnet", "cnn4", "mlp", "vit", "opt")
FEDERATED_SSL = ("fedmoco", "fedbyol", "fedema")
SELF_SUPERVISED = ("mocosfl", "monacosfl", "moco", *FEDERATED_SSL)
SUPERVISED = ("sfl_v1", "sfl_v2", "minibatch_sfl", "smofi", "mu_splitfed", "gas", "split_learning", "centralised")
FEDERATED = ("fedavg", "fedavgm", "slowmo", "fedprox", "scaffold", "fedcm", "fedsam", "mofedsam", "fedgamma", "feddyn", "fedsmoo",
             "fedlesam", "fedlesam_s", "fedlesam_d", "fedwmsam")
WEIGHED_BY_DATA = ("fedavg", "fedavgm", "slowmo", "fedprox", *FEDERATED_SSL)
"""Federated methods whose averages are published with weights by data."""
PERTURBED = ("fedsam", "mofedsam", "fedgamma", "fedsmoo", "fedlesam", "fedlesam_s", "fedlesam_d", "fedwmsam")
"""Federated methods that take the gradient at a distance."""
INDEXED = PERTURBED[4:]
"""Those of which the published code indexes a flat vector by the number of a tensor."""
UNSPLIT = FEDERATED + FEDERATED_SSL
"""Algorithms whose cut is `full` unless one is given; then they send weights alone."""
ALGORITHMS = SELF_SUPERVISED + SUPERVISED + FEDERATED
