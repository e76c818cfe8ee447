"""A chest CT from end to end: slices in over DICOM, nodules back in two archives, on either engine."""

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import ParametricMapStorage, RLELossless

from node.domain.profile import PRESETS
from node.engines.onnx import OnnxEngine
from node.engines.repository import ModelRepository
from node.engines.triton_server import TritonServer
from node.pipelines.chest_ct import ChestCt
from node.samples.ct_series import CtOptions, write_ct
from node.samples.stack import AXIAL, CtGeometry
from tests import ct_models, ct_phantom
from tests.conftest import SHARED_DATA
from tests.ct_phantom import BALLS
from tests.measured import run_measured
from tests.models import serve_by_python
from tests.peers import dcmtk
from tests.peers.hospital import Hospital, run_hospital
from tests.peers.node import make_node, run_sightline, to_toml
from tests.peers.triton import make_triton
from tests.peers.validators import dciodvfy_errors
from tests.small_models import make_engine
from tests.volumes import change_all, series_of

PIPELINE = {"use": "node.pipelines.chest_ct:ChestCt", "when": {"modality": ["CT"]}}
LARGE_WINDOW = (64, 96, 96)
"""Of more than 1 MiB, from which on arrays go by shared memory."""

WHOLE_CHEST = (300, 512, 512)
MOST_GIB = 4.0
EMPTIED = SHARED_DATA / "ct" / "totalseg_abdomen_emptied-uids" / "ct"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "repository"
    ct_models.write_ct_models(path)
    return path


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[Hospital]:
    changes = {
        "pipelines": {"chest_ct": PIPELINE},
        "triage": [{"finding": "Probability of cancer", "priority": "urgent"}],
    }
    with run_hospital(tmp_path_factory.mktemp("hospital"), repository, changes) as hospital:
        yield hospital


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    written = ct_phantom.write(tmp_path_factory.mktemp("chest"), ct_phantom.stack((2.5, 0.8, 0.8), "tilted"))
    # One for soft tissue, in which lungs are black.
    return list(change_all(written, WindowCenter=40, WindowWidth=400))


@pytest.fixture(scope="module")
def study(hospital: Hospital, paths: list[Path]) -> dict[str, Any]:
    """The node's account once the series was read and delivered."""
    node = hospital.node
    assert len(dcmtk.send(paths, node.port, called=node.ae_title).stored) == len(paths)
    (study,) = node.wait_for_studies(1)
    return node.wait_for_confirmation(study["study_instance_uid"])


@pytest.fixture(scope="module")
def held(hospital: Hospital, study: dict[str, Any]) -> dict[str, list[Dataset]]:
    """What each archive holds of the results, by its name."""
    return {
        name: [
            dcmread(BytesIO(archive.download(one)))
            for one in archive.instances(study["study_instance_uid"]).values()
        ]
        for name, archive in (("classic", hospital.classic), ("air", hospital.air))
    }


def of_modality(datasets: list[Dataset], modality: str) -> list[Dataset]:
    return [one for one in datasets if one.Modality == modality]


# --- through the node


def test_the_study_ends_with_its_nodules_and_its_priority(study: dict[str, Any]) -> None:
    (run,) = study["runs"]

    assert (study["outcome"], study["priority"], study["state"]) == ("findings", "urgent", "done")
    assert [(region["name"], region["presence"]) for region in run["regions"]] == [("Nodule", "present")] * 3
    assert [score["name"] for score in run["scores"]] == ["Nodule", "Probability of cancer"]
    assert all("size class" in region["remark"] for region in run["regions"])
    assert run["quarantined"] == []


@pytest.mark.parametrize("name", ["classic", "air"])
def test_an_archive_gets_what_its_preset_names_and_nothing_else(study: dict[str, Any], name: str) -> None:
    (run,) = study["runs"]

    delivered = {item["kind"] for item in run["objects"] if name in item["delivered_to"]}

    assert delivered == set(PRESETS[name])


def test_the_segments_lie_where_the_nodules_are(held: dict[str, list[Dataset]]) -> None:
    (mask,) = of_modality(held["classic"], "SEG")

    places = segment_places(mask)

    assert [segment.SegmentLabel for segment in mask.SegmentSequence] == ["Nodule 1", "Nodule 2", "Nodule 3"]
    for ball in BALLS:
        nearest = min(places.values(), key=lambda place: float(np.linalg.norm(place - ball.place_xyz_mm)))
        assert nearest == pytest.approx(ball.place_xyz_mm, abs=1)


def segment_places(dataset: Dataset) -> dict[int, np.ndarray]:
    """The centroid of each segment in the patient, from nothing but the object."""
    shared = dataset.SharedFunctionalGroupsSequence[0]
    cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float).reshape(2, 3)
    spacing = np.array(shared.PixelMeasuresSequence[0].PixelSpacing, float)
    points: dict[int, list[np.ndarray]] = {}
    for pixels, frame in zip(dataset.pixel_array, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        origin = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        number = int(frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        rows, columns = np.nonzero(pixels)
        inside = origin + np.outer(columns * spacing[1], cosines[0]) + np.outer(rows * spacing[0], cosines[1])
        points.setdefault(number, []).append(inside)
    return {number: np.concatenate(parts).mean(axis=0) for number, parts in points.items()}


def test_a_fractional_segmentation_keeps_the_probability_of_each_nodule(
    held: dict[str, list[Dataset]],
) -> None:
    (binary,), (fractional,) = (of_modality(held[name], "SEG") for name in ("classic", "air"))

    assert (binary.SegmentationType, fractional.SegmentationType) == ("BINARY", "FRACTIONAL")
    assert fractional.NumberOfFrames == binary.NumberOfFrames
    assert np.array_equal(fractional.pixel_array > 0, binary.pixel_array > 0)
    assert len(np.unique(fractional.pixel_array)) > 20


def test_the_map_has_a_frame_for_each_slice_with_a_nodule(
    held: dict[str, list[Dataset]], paths: list[Path]
) -> None:
    (mask,) = of_modality(held["air"], "SEG")
    (entropy,) = (one for one in held["air"] if one.SOPClassUID == ParametricMapStorage)

    assert slices_of(mask) <= slices_of(entropy)
    assert entropy.NumberOfFrames <= len(paths)


def slices_of(dataset: Dataset) -> set[str]:
    return {
        str(frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID)
        for frame in dataset.PerFrameFunctionalGroupsSequence
    }


def test_pictures_are_shown_as_lungs_are_read(held: dict[str, list[Dataset]]) -> None:
    states = of_modality(held["classic"], "PR")

    assert states
    for state in states:
        (window,) = state.SoftcopyVOILUTSequence
        assert (window.WindowCenter, window.WindowWidth) == (-600, 1500)


def test_the_reports_speak_of_each_nodule_and_of_the_series(held: dict[str, list[Dataset]]) -> None:
    reports = {one.SeriesDescription.split()[2]: one for one in of_modality(held["classic"], "SR")}
    words = {name: " ".join(words_of(one)) for name, one in reports.items()}

    assert set(reports) == {"findings", "lesions", "summary"}
    assert "Probability of cancer" in words["findings"]
    for name in ("Long axis", "Short axis", "Mean Attenuation Coefficient", "size class"):
        assert words["lesions"].count(name) >= len(BALLS)
    assert "Nodule 3: Nodule PRESENT" in words["summary"]
    (mask,) = of_modality(held["classic"], "SEG")
    assert mask.SOPInstanceUID in str(reports["lesions"])
    # What was irregular in the series is told with the findings.
    assert "tilt" in words["findings"]
    assert "tilt" in words["summary"]


def words_of(item: Dataset) -> Iterator[str]:
    """The names and texts of a report, in order."""
    for name in item.get("ConceptNameCodeSequence", ()):
        yield str(name.CodeMeaning)
    yield " ".join(str(item.get("TextValue", "")).split())
    for child in item.get("ContentSequence", ()):
        yield from words_of(child)


def test_a_validator_finds_no_error_in_what_was_delivered(
    held: dict[str, list[Dataset]], tmp_path: Path
) -> None:
    files = []
    for number, dataset in enumerate([*held["classic"], *held["air"]]):
        files.append(tmp_path / f"{number}.dcm")
        dataset.save_as(files[-1], enforce_file_format=True)

    assert dciodvfy_errors(files) == []


# --- what is no chest, and what has no identity


def test_a_series_without_lungs_gets_an_outcome_with_its_reason(hospital: Hospital, tmp_path: Path) -> None:
    node = hospital.node
    files = ct_phantom.write(tmp_path / "files", ct_phantom.stack((2.5, 1.0, 1.0)), lungs=0)
    out = tmp_path / "out"

    done = run_sightline(
        "process", str(tmp_path / "files"), "--out", str(out), "--json", "-c", str(node.configuration_path)
    )

    assert done.returncode == 0, done.stderr
    (run,) = json.loads(done.stdout)["studies"][0]["runs"]
    assert (run["outcome"], run["reason"]) == ("not_eligible", "no lung was found in the series")
    assert len(files) > 20
    assert {item["kind"] for item in run["objects"]} >= {"findings_sr", "summary_sr"}


def test_slices_with_emptied_identifiers_are_refused_at_the_door(hospital: Hospital, tmp_path: Path) -> None:
    if not EMPTIED.is_dir():
        pytest.skip("needs ../shared/data/ct")
    out = tmp_path / "out"

    done = run_sightline(
        "process", str(EMPTIED), "--out", str(out), "--json", "-c", str(hospital.node.configuration_path)
    )

    assert done.returncode == 1
    assert json.loads(done.stdout)["studies"] == []
    assert done.stderr.count(".dcm: ") == len(list(EMPTIED.glob("*.dcm")))
    assert "Traceback" not in done.stderr


def test_a_node_without_one_of_its_models_says_which(repository: Path, tmp_path: Path) -> None:
    shutil.copytree(repository, tmp_path / "models")
    shutil.rmtree(tmp_path / "models" / "chest_ct_nodules")
    changes = {"engine": {"repository": str(tmp_path / "models")}, "pipelines": {"chest_ct": PIPELINE}}
    with make_node(tmp_path / "node", changes) as node:
        checked = node.sightline("check", "-c", str(node.configuration_path))

    assert checked.returncode == 2
    assert "pipelines.chest_ct model chest_ct_nodules: chest_ct_nodules: no such model" in checked.stdout


# --- on Triton


@pytest.mark.triton
def test_triton_gets_its_windows_by_shared_memory_and_says_the_same(
    paths: list[Path], tmp_path: Path
) -> None:
    path = tmp_path / "repository"
    ct_models.write_ct_models(path, window=LARGE_WINDOW)
    serve_by_python(path)
    series = series_of(paths)
    embedded = ChestCt().analyze(series, OnnxEngine(ModelRepository(path), 2))

    with make_triton(tmp_path, repository=path) as triton:
        triton.start()
        with closing(make_engine(triton.url, path, shares_memory=True)) as engine:
            served = ChestCt().analyze(series, engine)
            shared = TritonServer(triton.url).region_names()

    assert shared
    assert [region.identifier for region in served.regions] == [
        region.identifier for region in embedded.regions
    ]
    for one, other in zip(served.regions, embedded.regions, strict=True):
        assert [m.value for m in one.measurements] == pytest.approx([m.value for m in other.measurements])
    np.testing.assert_array_equal(served.masks[0].labels, embedded.masks[0].labels)


# --- memory


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_whole_chest_is_read_within_4_gib(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_whole_chest(tmp_path / "files")
    configuration = tmp_path / "node.toml"
    configuration.write_text(to_toml({"pipelines": {"chest_ct": PIPELINE}}))

    seconds, peak_gib = run_measured(
        "process", str(tmp_path / "files"), "--out", str(tmp_path / "out"), "-c", str(configuration)
    )

    with capsys.disabled():
        sys.stdout.write(
            f"\n{WHOLE_CHEST} by `sightline process`: {seconds:.0f} s, peak {peak_gib:.2f} GiB\n"
        )
    assert peak_gib < MOST_GIB


def write_whole_chest(folder: Path) -> None:
    """Write an adult's chest of 300 slices of 512 × 512, coded, so that the decoder's process has work."""
    spacing_mm = (1.0, 0.7, 0.7)
    steps = np.array(spacing_mm)[:, None] * AXIAL
    x, y, z = (-(np.array(WHOLE_CHEST) - 1) / 2 @ steps + ct_phantom.CENTER_XYZ_MM).tolist()
    geometry = CtGeometry((x, y, z), spacing_mm, WHOLE_CHEST)
    sample = ct_phantom.scan(geometry, scale=2.8)
    write_ct(sample, folder, options=CtOptions(transfer_syntax_uid=RLELossless))
