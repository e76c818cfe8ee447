"""What is written for a server beside the weights: configurations from cards and graphs."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnx")

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from models import policy, repository
from models.policy import PolicyError, Serving
from node.engines.repository import ModelRepository
from tests.models import arithmetic, card, write_model
from tests.peers import REPOSITORY

SHIPPED = REPOSITORY / "triton_repo"
NETWORKS = sorted(path.parents[1].name for path in SHIPPED.glob("*/1/model.onnx"))
CONFIGURATIONS = ("config.pbtxt", "configs/python.pbtxt", "configs/tensorrt.pbtxt")
WRITTEN = ("*/config.pbtxt", "*/configs/*", "*/1/model.py", "*/1/.gitkeep", "model.py")


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A repository of the shipped cards and weights alone."""
    for source in (*SHIPPED.glob("*/card.json"), *SHIPPED.glob("*/1/model.onnx")):
        target = tmp_path / source.relative_to(SHIPPED)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix == ".json":
            target.write_bytes(source.read_bytes())
        else:
            target.symlink_to(source)
    return tmp_path


def change_card(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads((folder / "card.json").read_text())
    change(document)
    (folder / "card.json").write_text(json.dumps(document))


def read_config(model: str, name: str, root: Path = SHIPPED) -> Any:
    return text_format.Parse((root / model / name).read_text(), model_config_pb2.ModelConfig())


def written(root: Path) -> dict[str, str]:
    """Every file for a server with its text, of a link where it leads."""
    files = {path for pattern in WRITTEN for path in root.glob(pattern)}
    return {
        str(path.relative_to(root)): str(path.readlink()) if path.is_symlink() else path.read_text()
        for path in files
    }


def test_what_is_shipped_is_what_the_command_writes(copied: Path) -> None:
    assert repository.main([str(copied)]) == 0

    assert written(copied) == written(SHIPPED)


def test_writing_changes_neither_weights_nor_cards(copied: Path) -> None:
    kept = [*copied.glob("*/card.json"), *SHIPPED.glob("*/1/model.onnx")]
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in kept}

    repository.write_all(copied)

    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in kept} == before


@pytest.mark.parametrize("name", CONFIGURATIONS)
@pytest.mark.parametrize("model", NETWORKS)
def test_a_network_waits_in_three_classes_and_stat_goes_first(model: str, name: str) -> None:
    batching = read_config(model, name).dynamic_batching

    assert list(batching.preferred_batch_size) == card_of(model)["serving"]["preferred_batch_sizes"]
    assert batching.max_queue_delay_microseconds == 2000
    assert (batching.priority_levels, batching.default_priority_level) == (3, 3)
    seconds = {
        level: queue.default_timeout_microseconds / 1e6
        for level, queue in batching.priority_queue_policy.items()
    }
    assert seconds == {1: 60, 2: 120, 3: 300}
    for queue in batching.priority_queue_policy.values():
        assert queue.timeout_action == model_config_pb2.ModelQueuePolicy.REJECT
        assert queue.allow_timeout_override
        assert queue.max_queue_size > 0


@pytest.mark.parametrize("name", CONFIGURATIONS)
@pytest.mark.parametrize("model", NETWORKS)
def test_a_network_names_its_weights(model: str, name: str) -> None:
    parameters = read_config(model, name).parameters

    digests = {entry["model"]: entry["sha256"] for entry in card_of(model)["weights"]}
    assert parameters["sha256"].string_value == digests[model]
    assert parameters["version"].string_value == card_of(model)["version"]


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_network_is_warm_before_it_is_ready(name: str) -> None:
    for model in NETWORKS:
        config = read_config(model, name)

        # The Python backend warms itself: see README.md of the repository.
        largest = max(card_of(model)["serving"]["preferred_batch_sizes"])
        sizes = [] if "python" in name else [1, largest]
        assert [warmup.batch_size for warmup in config.model_warmup] == sizes
        for warmup in config.model_warmup:
            shapes = {tensor: list(entry.dims) for tensor, entry in warmup.inputs.items()}
            # A free length, as that of a slide's tiles, is 1 there.
            assert shapes == {one.name: [max(length, 1) for length in one.dims] for one in config.input}


@pytest.mark.parametrize(
    ("name", "backend", "kind"),
    [
        ("config.pbtxt", "onnxruntime", "KIND_AUTO"),
        ("configs/tensorrt.pbtxt", "onnxruntime", "KIND_GPU"),
        ("configs/python.pbtxt", "python", "KIND_CPU"),
    ],
)
def test_a_network_runs_where_the_configuration_is_for(name: str, backend: str, kind: str) -> None:
    for model in NETWORKS:
        config = read_config(model, name)
        (group,) = config.instance_group
        accelerators = config.optimization.execution_accelerators.gpu_execution_accelerator

        assert (config.backend, group.count) == (backend, 1)
        assert model_config_pb2.ModelInstanceGroup.Kind.Name(group.kind) == kind
        assert [one.name for one in accelerators] == (["tensorrt"] if "tensorrt" in name else [])


@pytest.mark.parametrize("ensemble", ["chest_xray", "chest_ct"])
def test_an_ensemble_has_no_queue_of_its_own(ensemble: str) -> None:
    config = read_config(ensemble, "config.pbtxt")

    assert not config.HasField("dynamic_batching")
    assert not config.instance_group
    assert [step.model_name for step in config.ensemble_scheduling.step] == [
        entry["model"] for entry in card_of(ensemble)["weights"]
    ]


def test_one_model_py_serves_every_network() -> None:
    for model in NETWORKS:
        assert (SHIPPED / model / "1" / "model.py").resolve() == SHIPPED / "model.py"


def test_numbers_come_from_the_card(copied: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        document["serving"] |= {"preferred_batch_sizes": [2], "instances": 3, "threads": 5}
        document["serving"]["priorities"][0]["timeout_s"] = 7.5

    change_card(copied / "chest_xray", change)

    repository.write_all(copied)

    config = read_config("chest_xray_resnet50_a", "config.pbtxt", copied)
    assert list(config.dynamic_batching.preferred_batch_size) == [2]
    assert config.dynamic_batching.priority_queue_policy[1].default_timeout_microseconds == 7_500_000
    assert config.instance_group[0].count == 3
    assert config.parameters["intra_op_thread_count"].string_value == "5"


def test_a_model_of_one_graph_needs_no_ensemble(tmp_path: Path) -> None:
    serving = policy.to_card(Serving())
    weights = arithmetic("Add", 1.0)
    document = card("single", {"single": weights}, serving=serving)
    write_model(tmp_path, 'name: "single"', weights=weights, document=document)

    repository.write_all(tmp_path)

    config = ModelRepository(tmp_path).config("single")
    assert [(tensor.name, tensor.shape) for tensor in config.inputs] == [("x", (2,))]
    assert not config.is_ensemble


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weights": [{"model": "chest_xray_combine", "sha256": "0"}]}, "the card says 0"),
        ({"serving": {}}, "unknown or missing: default_priority"),
        ({"serving": policy.to_card(Serving()) | {"urgency": 1}}, "unknown or missing: urgency"),
    ],
)
def test_a_card_that_does_not_fit_is_refused(
    copied: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], words: str
) -> None:
    change_card(copied / "chest_xray", lambda document: document.update(change))

    assert repository.main([str(copied)]) == 1
    assert words in capsys.readouterr().err


def test_a_graph_without_batch_axis_is_refused(tmp_path: Path) -> None:
    weights = arithmetic("Add", 1.0, batch=(1,))
    document = card("single", {"single": weights}, serving=policy.to_card(Serving()))
    write_model(tmp_path, 'name: "single"', weights=weights, document=document)

    with pytest.raises(repository.RepositoryError, match="x has no batch axis"):
        repository.write_all(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"instances": 0}, "above 0"),
        ({"max_queue_delay_ms": -1}, "above 0"),
        ({"preferred_batch_sizes": (4, 32)}, "larger than 16"),
        ({"default_priority": "now"}, "default_priority is now"),
    ],
)
def test_impossible_policies_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(PolicyError, match=words):
        Serving(**changes)


def test_a_policy_comes_back_from_the_card_as_it_was() -> None:
    serving = dataclasses.replace(Serving(), instances=2, max_queue_delay_ms=0.5)

    assert policy.from_card(json.loads(json.dumps(policy.to_card(serving)))) == serving


def card_of(model: str) -> dict[str, Any]:
    """Return the card that speaks for a network: its own, or that of the ensemble it is part of."""
    document: dict[str, Any] = json.loads((SHIPPED / model / "card.json").read_text())
    return card_of(document["part_of"]) if "part_of" in document else document
