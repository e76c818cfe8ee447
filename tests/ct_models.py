"""Models for volumes made on the spot: what is brighter than a threshold is nodule to them.

They answer as the trained ones do, so that geometry is measured, and no network's skill.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.models import IR_VERSION, OPSET, card, parameters, write_model

NODULE = ["27925004", "SCT", "Nodule"]
SUSPICION = ["111047", "DCM", "Probability of cancer"]
WINDOW, CROP = (16, 32, 32), (24, 24, 24)
SPACING_MM = (1.0, 1.0, 1.0)
IS_CT = {"name": "modality", "when": {"modality": ["CT"]}, "reason": "is no CT"}
LEVEL_HU, SOFTNESS_HU = -375.0, 60.0
"""Half way between lung and a nodule of soft tissue; how far from there a voxel is fairly sure."""

SPREAD = 0.02
CONFIG = """name: "{name}"
max_batch_size: {batch}
backend: "onnxruntime"
input {{ name: "image" data_type: TYPE_INT16 dims: [ {dims} ] }}
{outputs}{version}"""


def write_ct_models(
    repository: Path,
    *,
    spacing_mm: Sequence[float] = SPACING_MM,
    window: Sequence[int] = WINDOW,
    level_hu: float = LEVEL_HU,
) -> None:
    """Write the two models of the pipeline: one for windows, one for what surrounds a place."""
    _write_segmentation(repository, spacing_mm, window, level_hu)
    _write_classifier(repository, spacing_mm, level_hu)


def _write_segmentation(
    repository: Path, spacing_mm: Sequence[float], window: Sequence[int], level_hu: float
) -> None:
    nodes = [*_probability("image", "probability", level_hu), *_entropy("probability", "entropy")]
    nodes.append(helper.make_node("Sub", ["entropy", "entropy"], ["mutual_information"]))
    shape = [1, *window]
    outputs = {name: shape for name in ("probability", "entropy", "mutual_information")}
    classes = [{"name": "Nodule", "code": NODULE, "threshold": 0.5}]
    _write(repository, "chest_ct_nodules", nodes, shape, outputs, classes=classes, spacing_mm=spacing_mm)


def _write_classifier(repository: Path, spacing_mm: Sequence[float], level_hu: float) -> None:
    """Write a classifier for which a nodule is bright in the middle of what is dark, and suspicious too."""
    starts, ends = ([n // 2 + step for n in CROP] for step in (-1, 1))
    nodes = [
        _constant("starts", np.array(starts, np.int64)),
        _constant("ends", np.array(ends, np.int64)),
        _constant("axes", np.array([2, 3, 4], np.int64)),
        _constant("two", np.ones((1, 2), np.float32)),
        *_probability("image", "whole", level_hu),
        helper.make_node("Slice", ["whole", "starts", "ends", "axes"], ["middle"]),
        helper.make_node("ReduceMean", ["middle"], ["bright"], axes=[2, 3, 4], keepdims=0),
        helper.make_node("ReduceMean", ["whole"], ["full"], axes=[2, 3, 4], keepdims=0),
        _constant("all", np.array(1, np.float32)),
        helper.make_node("Sub", ["all", "full"], ["dark"]),
        helper.make_node("Mul", ["bright", "dark"], ["mean"]),
        helper.make_node("Mul", ["mean", "two"], ["probability"]),
        *_entropy("probability", "entropy"),
        helper.make_node("Sub", ["entropy", "entropy"], ["mutual_information"]),
        _constant("small", np.array(SPREAD, np.float32)),
        helper.make_node("Mul", ["two", "small"], ["one_spread"]),
        helper.make_node("Sub", ["probability", "probability"], ["zeros"]),
        helper.make_node("Add", ["zeros", "one_spread"], ["spread"]),
        helper.make_node("Sub", ["probability", "spread"], ["below"]),
        helper.make_node("Add", ["probability", "spread"], ["above"]),
        _constant("last", np.array([2], np.int64)),
        helper.make_node("Unsqueeze", ["below", "last"], ["low"]),
        helper.make_node("Unsqueeze", ["above", "last"], ["high"]),
        helper.make_node("Concat", ["low", "high"], ["interval"], axis=2),
    ]
    names = ("probability", "spread", "entropy", "mutual_information")
    outputs = {**{name: [2] for name in names}, "interval": [2, 2]}
    classes = [
        {"name": "Nodule", "code": NODULE, "threshold": 0.5},
        {"name": "Malignant suspicion", "code": SUSPICION, "threshold": 0.5},
    ]
    _write(repository, "chest_ct", nodes, [1, *CROP], outputs, classes=classes, spacing_mm=spacing_mm)


def _probability(source: str, target: str, level_hu: float) -> list[onnx.NodeProto]:
    """Return the nodes of a soft threshold."""
    own = f"{target}_of_hu"
    return [
        helper.make_node("Cast", [source], [f"{own}_float"], to=TensorProto.FLOAT),
        _constant(f"{own}_level", np.array(level_hu, np.float32)),
        _constant(f"{own}_softness", np.array(SOFTNESS_HU, np.float32)),
        helper.make_node("Sub", [f"{own}_float", f"{own}_level"], [f"{own}_above"]),
        helper.make_node("Div", [f"{own}_above", f"{own}_softness"], [f"{own}_logits"]),
        helper.make_node("Sigmoid", [f"{own}_logits"], [target]),
    ]


def _entropy(source: str, target: str) -> list[onnx.NodeProto]:
    """Return the nodes of the entropy of a probability, in bit."""
    own = f"{target}_of"
    nodes = [
        _constant(f"{own}_one", np.array(1, np.float32)),
        _constant(f"{own}_least", np.array(1e-6, np.float32)),
        _constant(f"{own}_nat", np.array(-1 / np.log(2), np.float32)),
        helper.make_node("Sub", [f"{own}_one", source], [f"{own}_other"]),
    ]
    for name in (source, f"{own}_other"):
        nodes += [
            helper.make_node("Max", [name, f"{own}_least"], [f"{own}_{name}_safe"]),
            helper.make_node("Log", [f"{own}_{name}_safe"], [f"{own}_{name}_log"]),
            helper.make_node("Mul", [name, f"{own}_{name}_log"], [f"{own}_{name}_term"]),
        ]
    terms = [f"{own}_{name}_term" for name in (source, f"{own}_other")]
    return [
        *nodes,
        helper.make_node("Add", terms, [f"{own}_sum"]),
        helper.make_node("Mul", [f"{own}_sum", f"{own}_nat"], [target]),
    ]


def _constant(name: str, values: np.ndarray) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(values))


def _write(
    repository: Path,
    name: str,
    nodes: list[onnx.NodeProto],
    shape: Sequence[int],
    outputs: dict[str, Any],
    **stated: Any,
) -> None:
    batched = {tensor: ["batch", *dims] for tensor, dims in outputs.items()}
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "test",
            [helper.make_tensor_value_info("image", TensorProto.INT16, ["batch", *shape])],
            [helper.make_tensor_value_info(key, TensorProto.FLOAT, dims) for key, dims in batched.items()],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    weights = bytes(model.SerializeToString())
    lines = [
        f'output {{ name: "{tensor}" data_type: TYPE_FP32 dims: [ {", ".join(map(str, dims))} ] }}\n'
        for tensor, dims in outputs.items()
    ]
    text = CONFIG.format(
        name=name,
        batch=8,
        dims=", ".join(map(str, shape)),
        outputs="".join(lines),
        version=parameters({"version": "1.2.3"}),
    )
    document = card(
        name,
        {name: weights},
        input={"name": "image", "shape": list(shape), "spacing_mm": list(stated["spacing_mm"])},
        classes=stated["classes"],
        eligibility={"requirements": [IS_CT]},
    )
    write_model(repository, text, weights=weights, document=document)
