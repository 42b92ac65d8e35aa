"""All algorithms by name."""

from __future__ import annotations

from typing import Protocol

from ssl_split.algorithms.api import Algorithm, Setup
from ssl_split.algorithms.federated.fedavg import FedAvg
from ssl_split.algorithms.federated.fedavgm import FedAvgM
from ssl_split.algorithms.federated.fedbyol import FedBYOL
from ssl_split.algorithms.federated.fedcm import FedCM
from ssl_split.algorithms.federated.feddyn import FedDyn, FedSMOO
from ssl_split.algorithms.federated.fedema import FedEMA
from ssl_split.algorithms.federated.fedlesam import FedLESAM, FedLESAMD, FedLESAMS
from ssl_split.algorithms.federated.fedmoco import FedMoCo
from ssl_split.algorithms.federated.fedprox import FedProx
from ssl_split.algorithms.federated.fedsam import FedGAMMA, FedSAM, MoFedSAM
from ssl_split.algorithms.federated.fedwmsam import FedWMSAM
from ssl_split.algorithms.federated.scaffold import SCAFFOLD
from ssl_split.algorithms.federated.slowmo import SlowMo
from ssl_split.algorithms.split.centralised import Centralised
from ssl_split.algorithms.split.gas import GAS
from ssl_split.algorithms.split.minibatch_sfl import MiniBatchSFL
from ssl_split.algorithms.split.moco import Moco
from ssl_split.algorithms.split.mocosfl import MocoSFL
from ssl_split.algorithms.split.monacosfl import MonAcoSFL
from ssl_split.algorithms.split.mu_splitfed import MuSplitFed
from ssl_split.algorithms.split.sfl_v1 import SFLV1
from ssl_split.algorithms.split.sfl_v2 import SFLV2
from ssl_split.algorithms.split.smofi import SMoFi
from ssl_split.algorithms.split.split_learning import SplitLearning


class Factory(Protocol):
    """An algorithm's class."""

    centralised: bool

    def __call__(self, setup: Setup) -> Algorithm:
        """The algorithm for one run."""
        ...


ALGORITHMS: dict[str, Factory] = {
    "mocosfl": MocoSFL,
    "monacosfl": MonAcoSFL,
    "moco": Moco,
    "sfl_v1": SFLV1,
    "sfl_v2": SFLV2,
    "minibatch_sfl": MiniBatchSFL,
    "smofi": SMoFi,
    "mu_splitfed": MuSplitFed,
    "gas": GAS,
    "split_learning": SplitLearning,
    "centralised": Centralised,
    "fedavg": FedAvg,
    "fedavgm": FedAvgM,
    "slowmo": SlowMo,
    "fedprox": FedProx,
    "scaffold": SCAFFOLD,
    "fedcm": FedCM,
    "fedsam": FedSAM,
    "mofedsam": MoFedSAM,
    "fedgamma": FedGAMMA,
    "feddyn": FedDyn,
    "fedsmoo": FedSMOO,
    "fedlesam": FedLESAM,
    "fedlesam_s": FedLESAMS,
    "fedlesam_d": FedLESAMD,
    "fedwmsam": FedWMSAM,
    "fedmoco": FedMoCo,
    "fedbyol": FedBYOL,
    "fedema": FedEMA,
}
