"""PyTorch, the engine in this process and the engine on Triton say the same, within stated tolerances."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from node.engines.onnx import OnnxEngine
from node.engines.repository import ModelRepository
from node.engines.triton import TritonEngine
from node.imaging.intensity import prepare_radiograph
from node.pipelines.slide_tumor import SlideTumor
from node.samples.slide import slide_sample
from node.samples.slide_series import write_slide
from node.samples.thorax import thorax_radiograph
from tests.conftest import SHARED_DATA
from tests.ensembles import fresh_ensemble, write_ensemble
from tests.peers.triton import TRITON_REPO, Triton, make_triton
from tests.slides import series_of
from tests.small_models import NewEngine

pytestmark = pytest.mark.triton

ENSEMBLE = "chest_xray"
NETWORKS = ModelRepository(TRITON_REPO).config(ENSEMBLE).networks

# Both engines run the same files with the same library: a batch of another size, or another number of
# threads, adds the same float32 numbers in another order; the networks' logits are up to about 10.
ENGINES = {"rtol": 1e-5, "atol": 1e-5}

# PyTorch runs the network as it was written; the graph has its normalizations folded into its convolutions,
# so that float32 rounds elsewhere, in each of a hundred layers.
EXPORTED = {"rtol": 1e-3, "atol": 1e-3}
FRESH_SIZE = 96

# What the networks said in PyTorch, float32, as they were trained: logits of the plain view by the card's
# temperatures, for three patients of the validation split. The DenseNets' weights are stored as float16,
# which moves these logits by up to 0.001; those of the ResNets as int8, a scale for each channel: by 0.033.
TRAINED: dict[str, list[list[float]]] = {
    "chest_xray_densenet121_a": [
        [4.9023, 1.1186, -1.0942],
        [-6.0768, -3.7829, -3.7182],
        [5.3293, 2.4829, -2.5864],
    ],
    "chest_xray_densenet121_b": [
        [5.0442, 0.7330, -0.6903],
        [-5.9258, -3.6909, -3.1620],
        [5.8894, 1.9185, -1.8719],
    ],
    "chest_xray_resnet50_a": [
        [4.2600, 0.0699, -0.0699],
        [-4.5873, -3.3787, -3.4928],
        [4.7442, 2.5016, -2.4948],
    ],
    "chest_xray_resnet50_b": [
        [4.3055, 1.2863, -1.2839],
        [-5.0142, -4.1328, -3.8700],
        [4.8032, 1.3345, -1.2542],
    ],
}
TRAINED_ENSEMBLE = [[0.98946, 0.65479, 0.35527], [0.00622, 0.02462, 0.02846], [0.99354, 0.88751, 0.11497]]
PATIENTS = ("k0001", "k0052", "k0078")
TOLERANCE_BY_TRUNK = {"densenet121": 0.005, "resnet50": 0.1}
# The card's own: chest_xray/card.json, parity.
ENSEMBLE_TOLERANCE = 0.01

Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def embedded() -> OnnxEngine:
    return OnnxEngine(ModelRepository(TRITON_REPO), threads=2)


@pytest.fixture
def served(triton: Triton, new_engine: NewEngine) -> TritonEngine:
    return new_engine(triton.url, TRITON_REPO)


def real_images(size: int, names: tuple[str, ...] = PATIENTS[:1]) -> np.ndarray:
    """Real radiographs (n, 1, size, size) as the networks take them."""
    folder = SHARED_DATA / "cxr" / "kermany"
    if not folder.is_dir():
        pytest.skip("needs the radiographs in ../shared/data/cxr")
    pictures = [np.asarray(Image.open(folder / f"{name}.jpg").convert("L")) for name in names]
    return np.stack([prepare_radiograph(picture, size) for picture in pictures])[:, None]


def any_images(size: int) -> np.ndarray:
    """A synthetic radiograph, and a real one where there is any."""
    film = thorax_radiograph(1, finding="consolidation")
    made = prepare_radiograph(film.pixels, size)[np.newaxis, np.newaxis]
    return np.concatenate([made, real_images(size)]) if (SHARED_DATA / "cxr").is_dir() else made


def asked_and_said(
    engine: OnnxEngine, repository: Path, images: np.ndarray
) -> dict[str, tuple[Arrays, Arrays]]:
    """What each model of the ensemble is asked about these images and what the engine says, by model."""
    config = ModelRepository(repository).config(ENSEMBLE)
    tensors: Arrays = {"image": images}
    asked = {ENSEMBLE: {"image": images}}
    said = {ENSEMBLE: engine.infer(ENSEMBLE, asked[ENSEMBLE])}
    for step in config.steps:
        asked[step.model] = {name: tensors[tensor] for name, tensor in step.tensor_by_input.items()}
        said[step.model] = engine.infer(step.model, asked[step.model])
        tensors |= {tensor: said[step.model][name] for name, tensor in step.tensor_by_output.items()}
    return {model: (asked[model], said[model]) for model in asked}


def require_same(ours: Arrays, theirs: Arrays, **tolerance: float) -> None:
    assert ours.keys() == theirs.keys()
    for name, values in theirs.items():
        np.testing.assert_allclose(ours[name], values, **tolerance, err_msg=name)


def test_both_engines_say_the_same_by_every_shipped_model(embedded: OnnxEngine, served: TritonEngine) -> None:
    images = any_images(embedded.card(ENSEMBLE).input_shape[-1])
    by_model = asked_and_said(embedded, TRITON_REPO, images)
    assert by_model.keys() == {ENSEMBLE, *NETWORKS}

    for model, (inputs, said) in by_model.items():
        require_same(served.infer(model, inputs), said, **ENGINES)


@pytest.mark.parametrize("engine_name", ["embedded", "served"])
def test_the_shipped_networks_say_what_they_said_in_pytorch(
    engine_name: str, request: pytest.FixtureRequest
) -> None:
    engine = request.getfixturevalue(engine_name)
    images = real_images(engine.card(ENSEMBLE).input_shape[-1], PATIENTS)

    for model, logits in TRAINED.items():
        tolerance = TOLERANCE_BY_TRUNK[model.split("_")[2]]
        answered = engine.infer(model, {"image": images})["logits"][:, 0]
        np.testing.assert_allclose(answered, logits, rtol=0, atol=tolerance, err_msg=model)
    probability = engine.infer(ENSEMBLE, {"image": images})["probability"]
    np.testing.assert_allclose(probability, TRAINED_ENSEMBLE, rtol=0, atol=ENSEMBLE_TOLERANCE)


def test_both_engines_say_the_same_of_a_slide(
    embedded: OnnxEngine, served: TritonEngine, tmp_path: Path
) -> None:
    slide = series_of(write_slide(slide_sample(999_011, columns=2048, rows=2048, is_tumor=True), tmp_path))

    ours, theirs = (SlideTumor(tiles_at_once=16).analyze(slide, engine) for engine in (embedded, served))

    (one,), (other,) = ours.scores, theirs.scores
    assert other.probability == pytest.approx(one.probability, abs=ENGINES["atol"])
    assert other.uncertainty.interval == pytest.approx(one.uncertainty.interval, abs=ENGINES["atol"])
    np.testing.assert_allclose(theirs.maps[0].values, ours.maps[0].values, **ENGINES)


# --- networks of the same architectures, in PyTorch beside both engines


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Triton]]:
    """An ensemble of the real architectures with random weights, in PyTorch and served as it was exported."""
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    # Several of them wait for each other by spinning, for minutes where the machine has other work.
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("fresh")
    ensemble = write_ensemble(folder / "repository", fresh_ensemble(any_images(FRESH_SIZE)))
    with make_triton(folder, repository=folder / "repository") as server:
        server.start()
        yield ensemble, server
    torch.set_num_threads(threads)


@pytest.mark.timeout(300)  # imports PyTorch, and exports two networks
def test_pytorch_and_both_engines_say_the_same(fresh: tuple[Any, Triton], new_engine: NewEngine) -> None:
    ensemble, server = fresh
    embedded = OnnxEngine(ModelRepository(server.repository), threads=1)
    served = new_engine(server.url, server.repository)
    by_model = asked_and_said(embedded, server.repository, any_images(FRESH_SIZE))
    assert by_model.keys() == {ENSEMBLE, f"{ENSEMBLE}_combine", *ensemble.members}

    for model, (inputs, said) in by_model.items():
        require_same(served.infer(model, inputs), said, **ENGINES)
        in_pytorch = run_in_pytorch(ensemble, model, inputs)
        require_same({name: said[name] for name in in_pytorch}, in_pytorch, **EXPORTED)


def test_more_images_than_the_ensemble_takes_at_a_time(
    fresh: tuple[Any, Triton], new_engine: NewEngine
) -> None:
    _, server = fresh
    images = np.tile(any_images(FRESH_SIZE)[:1], (17, 1, 1, 1))
    images *= np.linspace(0.5, 1, len(images), dtype=np.float32)[:, None, None, None]
    assert len(images) > ModelRepository(server.repository).config(ENSEMBLE).max_batch_size

    answered = new_engine(server.url, server.repository).infer(ENSEMBLE, {"image": images})

    expected = OnnxEngine(ModelRepository(server.repository), threads=1).infer(ENSEMBLE, {"image": images})
    require_same(answered, expected, **ENGINES)


def run_in_pytorch(ensemble: Any, model: str, inputs: Arrays) -> Arrays:
    """What a model of the ensemble says in PyTorch; prediction sets are yes or no, and so not compared."""
    import torch

    from models.configuration import member_tensor
    from models.graphs import MEMBER_OUTPUTS, OUTPUTS

    with torch.no_grad():
        tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
        if model in ensemble.members:
            answers = dict(
                zip(MEMBER_OUTPUTS, ensemble.members[model].eval()(*tensors.values()), strict=True)
            )
        else:
            if model == ENSEMBLE:
                for name, member in ensemble.members.items():
                    said = zip(MEMBER_OUTPUTS, member.eval()(tensors["image"]), strict=True)
                    tensors |= {member_tensor(output, name): tensor for output, tensor in said}
            joined = [
                tensors[member_tensor(one, name)] for one in MEMBER_OUTPUTS for name in ensemble.members
            ]
            answers = dict(zip(OUTPUTS, ensemble.combine.eval()(*joined), strict=True))
    return {name: tensor.numpy() for name, tensor in answers.items() if name != "prediction_set"}
