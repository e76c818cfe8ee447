"""Every object of every source shape in a real archive: stored by C-STORE and by STOW-RS, read back equal."""

from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread

from node.deliver.dimse import DimseDestination
from node.domain.delivery import Reception
from node.domain.profile import Kind, Profile, SegmentationType
from node.encode import encode
from node.read.picture import read_pictures
from node.receive.folder import store_file
from node.storage import Storage
from tests.located import located_findings
from tests.peers.orthanc import Orthanc, run_orthanc
from tests.results import make_context, save
from tests.sources import Written, write_ct_series, write_enhanced_ct, write_radiograph, write_slide

WRITERS: dict[str, Callable[[Path], Written]] = {
    "radiograph": write_radiograph,
    "series": write_ct_series,
    "enhanced": write_enhanced_ct,
    "slide": write_slide,
}
EVERYWHERE = {
    Kind.FINDINGS_SR,
    Kind.LESIONS_SR,
    Kind.SUMMARY_SR,
    Kind.SEGMENTATION,
    Kind.PRESENTATION_STATE,
    Kind.KEY_OBJECTS,
    Kind.SECONDARY_CAPTURE,
}
KINDS_BY_SHAPE = {
    # A projection has no frame of reference, which a map needs; marks are a slide's.
    "radiograph": EVERYWHERE,
    "series": EVERYWHERE | {Kind.PARAMETRIC_MAP},
    "enhanced": EVERYWHERE | {Kind.PARAMETRIC_MAP},
    "slide": EVERYWHERE | {Kind.PARAMETRIC_MAP, Kind.ANNOTATIONS},
}


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Path]]:
    """The files of every object, by the shape of its source, and by its kind and form."""
    return {shape: make(shape, tmp_path_factory.mktemp(shape)) for shape in WRITERS}


def make(shape: str, folder: Path) -> dict[str, Path]:
    written = WRITERS[shape](folder)
    findings = located_findings(written)
    storage = Storage(folder / "data")
    instances = [store_file(path, storage).instance for path in written.paths]
    pictures = read_pictures(instances, findings.shown_frames)
    paths = {}
    for form in SegmentationType:
        context = make_context(shape, *pictures, profile=Profile(tuple(Kind), segmentation_type=form))
        for number, item in enumerate(encode(findings, written.paths, context)):
            name = f"{item.kind}-{form}-{number}"
            paths[name] = save(item.dataset, folder / f"{name}.dcm")
    return paths


@pytest.fixture(scope="module")
def by_dimse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with run_orthanc(tmp_path_factory.mktemp("dimse"), {}) as orthanc:
        yield orthanc


@pytest.fixture(scope="module")
def by_web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with run_orthanc(tmp_path_factory.mktemp("web"), {}) as orthanc:
        yield orthanc


@pytest.mark.parametrize("shape", WRITERS)
def test_each_shape_has_every_object_that_it_can_have(
    objects: dict[str, dict[str, Path]], shape: str
) -> None:
    made = {name.partition("-")[0] for name in objects[shape]}

    assert made == KINDS_BY_SHAPE[shape]


@pytest.mark.parametrize("shape", WRITERS)
def test_stored_by_c_store_they_read_back_equal(
    objects: dict[str, dict[str, Path]], by_dimse: Orthanc, shape: str
) -> None:
    written = distinct(objects[shape])
    archive = DimseDestination(
        name="archive", host=by_dimse.host, port=by_dimse.port, ae_title=by_dimse.ae_title
    )

    receipts = archive.deliver([path for path, _ in written.values()])

    assert {receipt.reception for receipt in receipts} == {Reception.ACCEPTED}

    (study,) = {dataset.StudyInstanceUID for _, dataset in written.values()}
    identifiers = by_dimse.instances(study)
    assert identifiers.keys() == written.keys()
    for uid, (path, dataset) in written.items():
        assert dcmread(BytesIO(by_dimse.download(identifiers[uid]))) == dataset, path.name


@pytest.mark.parametrize("shape", WRITERS)
def test_stored_by_stow_they_read_back_equal(
    objects: dict[str, dict[str, Path]], by_web: Orthanc, shape: str
) -> None:
    written = distinct(objects[shape])

    by_web.stow(path for path, _ in written.values())

    for path, dataset in written.values():
        assert dcmread(BytesIO(by_web.retrieve(dataset))) == dataset, path.name


def distinct(paths: dict[str, Path]) -> dict[str, tuple[Path, Dataset]]:
    """The objects by their UID: what does not depend on the form of masks is the same object each time."""
    datasets = [(path, dcmread(path)) for path in paths.values()]
    return {str(dataset.SOPInstanceUID): (path, dataset) for path, dataset in datasets}
