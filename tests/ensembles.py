"""Ensembles of networks without training, exported as the real one is; needs PyTorch."""

from collections.abc import Mapping, Sequence
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


def fresh_network(trunk: str, images: np.ndarray) -> Any:
    """Return a real network with random weights, its normalizations fitted to these images (n, 1, s, s)."""
    import torch

    from models.radiograph import RadiographNetwork

    torch.manual_seed(len(trunk))
    network = RadiographNetwork(len(data.CLASSES), trunk=trunk)
    torch.nn.init.normal_(network.head.attention.weight, std=0.1)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            # By default a residual branch begins at zero, and would say nothing.
            torch.nn.init.uniform_(module.weight, 0.5, 1.0)
            module.momentum = None
    with torch.no_grad():
        network.train()(torch.from_numpy(images))
    return network.eval()


def tiny_ensemble() -> Any:
    """Return the graphs of two tiny networks for images of SIZE pixels, stored as the real ones are."""
    forms = dict(zip(MEMBERS, ("float16", "int8"), strict=True))
    return ensemble_of([tiny_network(0), tiny_network(1)], forms, SIZE)


def fresh_ensemble(images: np.ndarray) -> Any:
    """Return the graphs of a DenseNet-121 and a ResNet-50 with random weights, stored as they are."""
    networks = [fresh_network(name.split("_")[2], images) for name in MEMBERS]
    return ensemble_of(networks, dict.fromkeys(MEMBERS, ""), images.shape[-1])


def ensemble_of(networks: Sequence[Any], forms: Mapping[str, str], size: int) -> Any:
    """Return the graphs of two networks for images of so many pixels."""
    from models.ensemble_export import Ensemble
    from models.graphs import Combination, CombineGraph, MemberGraph
    from models.strangeness import Subspace
    from models.tasks import radiograph_task

    fitted = calibration()
    members = {}
    for index, (name, network) in enumerate(zip(MEMBERS, networks, strict=True)):
        channels = network.head.foreign.in_features
        subspace = Subspace(np.zeros(channels, np.float32), np.eye(channels, 3, dtype=np.float32))
        members[name] = MemberGraph(network, [one.temperature[index] for one in fitted.classes], subspace)
    combination = Combination(
        [one.interval_constant for one in fitted.classes],
        [one.conformal_quantile for one in fitted.classes],
        fitted.standards.mean,
        fitted.standards.deviation,
    )
    return Ensemble(radiograph_task(size), members, dict(forms), CombineGraph(combination))


def write_ensemble(repository: Path, ensemble: Any = None) -> Any:
    """Write graphs and cards below a folder, those of tiny networks if of no others; return the ensemble."""
    from models.ensemble_export import write_cards, write_graphs

    ensemble = ensemble or tiny_ensemble()
    write_graphs(ensemble, repository, "0.0.1")
    document = {
        "intended_use": card.INTENDED_USE,
        "eligibility": card.ELIGIBILITY,
        **card.input_parts(ensemble.task.image_shape[-1], list(MEMBERS)),
        **card.calibrated_parts(calibration(), list(MEMBERS)),
    }
    write_cards(ensemble.task, document, list(MEMBERS), repository, "0.0.1")
    return ensemble
