"""An ensemble of networks of a few weights, exported as the real one is; needs PyTorch."""

from pathlib import Path
from typing import Any

import numpy as np

from models import card, data

SIZE = 64
MEMBERS = ("chest_xray_densenet121_a", "chest_xray_resnet50_a")


def tiny_network(seed: int) -> Any:
    """Return a network with random weights that answers as the real ones do."""
    import torch

    from models.radiograph import STRIDE, AttentionMapHead, RadiographNetwork

    class TinyNetwork(RadiographNetwork):
        def __init__(self) -> None:
            torch.nn.Module.__init__(self)
            self.trunk = torch.nn.Conv2d(1, 8, STRIDE, stride=STRIDE)
            self.head = AttentionMapHead(8, len(data.CLASSES), dropout=0.5)

    torch.manual_seed(seed)
    network = TinyNetwork().eval()
    torch.nn.init.normal_(network.head.attention.weight)
    return network


def calibration(**changes: Any) -> Any:
    """Return what could have been fitted for two members."""
    from models.calibration import Calibration, ClassCalibration
    from models.strangeness import Standards

    one = ClassCalibration(
        temperature=(1.0, 2.0),
        interval_constant=0.1,
        interval_coverage=0.95,
        conformal_quantile=0.6,
        threshold=0.5,
    )
    values: dict[str, Any] = {
        "classes": (one,) * len(data.CLASSES),
        "standards": Standards(np.zeros((2, 2), np.float32), np.ones((2, 2), np.float32)),
        "foreign_threshold": 3.0,
        "images": 40,
        "patients": 20,
        "synthetic": 0,
    }
    return Calibration(**{**values, **changes})


def tiny_ensemble() -> Any:
    """Return the graphs of two tiny networks for images of SIZE pixels."""
    from models.export import Ensemble
    from models.graphs import Combination, CombineGraph, MemberGraph
    from models.strangeness import Subspace

    fitted = calibration()
    subspace = Subspace(np.zeros(8, np.float32), np.eye(8, 3, dtype=np.float32))
    members = {
        name: MemberGraph(tiny_network(index), [one.temperature[index] for one in fitted.classes], subspace)
        for index, name in enumerate(MEMBERS)
    }
    combination = Combination(
        [one.interval_constant for one in fitted.classes],
        [one.conformal_quantile for one in fitted.classes],
        fitted.standards.mean,
        fitted.standards.deviation,
    )
    forms = dict(zip(MEMBERS, ("float16", "int8"), strict=True))
    return Ensemble(members, forms, CombineGraph(combination), SIZE)


def write_ensemble(repository: Path) -> Any:
    """Write its graphs and cards below a folder; return it."""
    from models.export import write_cards, write_graphs

    ensemble = tiny_ensemble()
    write_graphs(ensemble, repository, "0.0.1")
    parts = card.input_parts(SIZE, list(MEMBERS))
    write_cards(
        {**parts, **card.calibrated_parts(calibration(), list(MEMBERS))}, list(MEMBERS), repository, "0.0.1"
    )
    return ensemble
