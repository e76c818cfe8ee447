"""OHIF shows our results where they belong: told from its words and its pixels, before a real Orthanc."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image as Picture
from pydicom import Dataset, dcmread
from scipy import ndimage

from node.domain.findings import Findings
from node.domain.profile import Kind
from node.engines.onnx import OnnxEngine
from node.engines.repository import ModelRepository
from node.pipelines.chest_ct import ChestCt
from tests import ct_models, ct_phantom
from tests.located import located_findings
from tests.peers import wait_until
from tests.peers.ohif import unpack_ohif
from tests.peers.orthanc import Orthanc
from tests.peers.viewer import Pixels, Viewer
from tests.sources import Written, write_ct_series, write_radiograph
from tests.viewed import Study, add_results, likeness
from tests.volumes import series_of

PLANES = 20
VALUES = [
    [
        f"Certainty of Finding: {percent} %",
        "Volume: 512.50 mm3",
        "L: : 11.25 mm",
        "Attenuation Coefficient: 35.50 [hnsf'U]",
    ]
    for percent in ("58.00", "91.00")
]
"""Of the two lesions, in the viewer's words: it has a short name for the long axis."""

Mask = npt.NDArray[np.bool_]

HALF_A_VOXEL_PX = 4
"""On the screen, where a voxel of the CT has 7 × 7 pixels."""
BRIGHT = 200
"""What only the lesion reaches in the window of the CT: tissue lies in its middle."""
BRIGHT_BELOW_MAP = 130
"""The same of the blue that is left of it where a map lies over it."""
COLORFUL = 30
"""How far the channels of a color must lie apart, of 255: more than any gray has after it was drawn."""


@pytest.fixture(scope="module")
def studies(archive: Orthanc, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Study]:
    """A CT and a chest radiograph with two lesions each, and all objects that the preset for viewers has."""
    folder = tmp_path_factory.mktemp("studies")
    written = {
        "ct": with_square_pixels(write_ct_series(folder / "ct", planes=PLANES, rows=128, columns=128)),
        "radiograph": write_radiograph(folder / "radiograph"),
    }
    return {
        name: add_results(archive, one, located_findings(one), folder / f"{name}-results")
        for name, one in written.items()
    }


@pytest.fixture(scope="module")
def chest(archive: Orthanc, tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Findings]:
    """A chest CT with a nodule, and what its pipeline found with the models of the tests.

    It is in the left half of the picture: the viewer's words on a segment cover the right one.
    """
    folder = tmp_path_factory.mktemp("chest")
    ct_models.write_ct_models(folder / "models")
    # 168 columns: of a mask whose columns are no multiple of four, the viewer shifts each row by the rest.
    paths = ct_phantom.write(folder / "ct", ct_phantom.stack((2.5, 0.75, 0.75)), balls=ct_phantom.BALLS[:1])
    engine = OnnxEngine(ModelRepository(folder / "models"), 2)
    header = dcmread(paths[0], stop_before_pixels=True)
    series = replace(series_of(paths), study_instance_uid=str(header.StudyInstanceUID))
    findings = ChestCt().analyze(series, engine)
    written = Written(paths, (findings.masks[0].labels > 0,), None)
    return add_results(archive, written, findings, folder / "results"), findings


def with_square_pixels(written: Written) -> Written:
    """Let rows lie as far apart as columns: OHIF takes one spacing for the other where it places outlines."""
    for path in written.paths:
        dataset = dcmread(path)
        dataset.PixelSpacing = [dataset.PixelSpacing[0]] * 2
        dataset.save_as(path)
    return written


# --- boxes


@pytest.mark.viewer
def test_the_box_stands_around_the_lesion_with_the_values_of_the_model(
    studies: dict[str, Study], viewer: Viewer
) -> None:
    study = studies["ct"]
    viewer.open_study(study.uid)

    viewer.open_series(study.description(Kind.LESIONS_SR), answer="No")

    assert values_shown(viewer) == VALUES
    # The other lesion lies to the right of it.
    box = min(viewer.outlines(), key=lambda points: points[:, 1].min())
    rows, columns = np.nonzero(lesion_in(viewer.pixels()))
    left_top, right_bottom = (rows.min(), columns.min()), (rows.max() + 1, columns.max() + 1)
    assert box.min(axis=0) == pytest.approx(left_top, abs=HALF_A_VOXEL_PX)
    assert box.max(axis=0) == pytest.approx(right_bottom, abs=HALF_A_VOXEL_PX)


@pytest.mark.viewer
def test_a_box_on_a_radiograph_has_its_values_too(studies: dict[str, Study], viewer: Viewer) -> None:
    study = studies["radiograph"]
    viewer.open_study(study.uid)

    viewer.open_series(study.description(Kind.LESIONS_SR), answer="No")

    assert values_shown(viewer) == VALUES


def values_shown(viewer: Viewer) -> list[list[str]]:
    """The values that stand first beside each box."""
    return sorted(lines[: len(VALUES[0])] for lines in viewer.annotations())


@pytest.mark.viewer
def test_a_lesion_becomes_a_measurement_with_its_name_and_site(
    studies: dict[str, Study], viewer: Viewer
) -> None:
    study = studies["ct"]
    viewer.open_study(study.uid)

    viewer.open_series(study.description(Kind.LESIONS_SR), answer="Yes")

    viewer.press("trackedMeasurements-btn")
    viewer.wait_for("Measurements (2)")
    assert re.search(r"Measurements \(2\)(.|\n)*Nodule(.|\n)*Lung", viewer.text())


# --- masks


@pytest.mark.viewer
def test_the_mask_lies_on_the_lesion(studies: dict[str, Study], viewer: Viewer) -> None:
    study = studies["ct"]
    viewer.open_study(study.uid)

    viewer.open_series(study.description(Kind.SEGMENTATION), answer="Yes")
    viewer.press("panelSegmentation-btn")
    viewer.click("Lesion 1")
    viewer.wait_for(largest_instance(study.written))
    shown = viewer.pixels()
    viewer.press("data-row-visibility-toggle")
    hidden = viewer.pixels(unlike=shown)
    viewer.press("data-row-visibility-toggle")

    mask, lesion = is_colorful(shown) & ~is_colorful(hidden), lesion_in(hidden)
    distance_px = np.argwhere(mask).mean(axis=0) - np.argwhere(lesion).mean(axis=0)
    assert distance_px == pytest.approx([0, 0], abs=2)
    assert (mask & lesion).sum() > 0.9 * (mask | lesion).sum()


@pytest.mark.viewer
def test_the_mask_of_a_nodule_lies_on_it(chest: tuple[Study, Findings], viewer: Viewer) -> None:
    study, findings = chest
    viewer.open_study(study.uid)

    viewer.open_series(study.description(Kind.SEGMENTATION), answer="Yes")
    viewer.press("panelSegmentation-btn")
    viewer.click("Nodule 1")
    viewer.wait_for(largest_slice(study.written, findings))
    shown = viewer.pixels()
    viewer.press("data-row-visibility-toggle")
    hidden = viewer.pixels(unlike=shown)

    mask = is_colorful(shown) & ~is_colorful(hidden)
    nodule = min(nodules_in(hidden), key=lambda one: float(np.linalg.norm(middle(one) - middle(mask))))
    assert middle(mask) - middle(nodule) == pytest.approx([0, 0], abs=HALF_A_VOXEL_PX)
    assert (mask & nodule).sum() > 0.85 * (mask | nodule).sum()


def largest_slice(written: Written, findings: Findings) -> re.Pattern[str]:
    """What the viewer says of the images in which the nodule is as large as in no other."""
    (mask,) = findings.masks
    areas = (mask.labels == 1).sum(axis=(1, 2))
    uids = {mask.frames[index].sop_instance_uid for index in np.flatnonzero(areas == areas.max())}
    headers = [dcmread(path, stop_before_pixels=True) for path in written.paths]
    numbers = [str(one.InstanceNumber) for one in headers if one.SOPInstanceUID in uids]
    return re.compile(rf"I:({'|'.join(numbers)}) \(")


def nodules_in(image: Pixels) -> list[Mask]:
    """What is bright in the lungs: everything bright but the body, which is the largest."""
    labels, count = ndimage.label(image.min(axis=2) > 165)
    areas = np.bincount(labels.ravel())[1:]
    large = [number for number in range(1, count + 1) if 200 < areas[number - 1] < areas.max()]
    return [labels == number for number in large]


def middle(mask: Mask) -> npt.NDArray[np.float64]:
    return np.argwhere(mask).mean(axis=0)


@pytest.mark.viewer
def test_the_map_is_hot_where_the_lesion_is(studies: dict[str, Study], viewer: Viewer) -> None:
    study = studies["ct"]
    viewer.open_study(study.uid)

    viewer.open_series(study.description(Kind.PARAMETRIC_MAP))

    (image,) = wait_until(lambda: with_map(viewer.pixels()), "the map is drawn")
    # The map's blue hardly changes with the value, so in it the image below is still seen.
    lesion = image[:, :, 2] > BRIGHT_BELOW_MAP
    assert lesion.any()
    assert (lesion & is_hot(image)).sum() > 0.85 * lesion.sum()


def with_map(image: Pixels) -> list[Pixels]:
    """The image in a list that is empty where no map lies on it."""
    return [image] if is_hot(image).any() else []


def is_hot(image: Pixels) -> Mask:
    """Where the map has more than its lowest values, which the viewer paints purple."""
    return np.asarray(image[:, :, 1].astype(int) - image[:, :, ::2].min(axis=2) > 10)


def lesion_in(image: Pixels) -> Mask:
    """What is bright and gray, (rows, columns)."""
    return (image.min(axis=2) > BRIGHT) & ~is_colorful(image)


def is_colorful(image: Pixels) -> Mask:
    return np.asarray(np.ptp(image, axis=2) > COLORFUL)


def largest_instance(written: Written) -> re.Pattern[str]:
    """What the viewer says of the images in which the lesion is as large as in no other."""
    areas = written.mask.sum(axis=(1, 2))
    numbers = [str(index + 1) for index in np.flatnonzero(areas == areas.max())]
    return re.compile(rf"I:({'|'.join(numbers)}) \(")


# --- pictures and words


@pytest.mark.viewer
@pytest.mark.parametrize("name", ["ct", "radiograph"])
def test_the_overlay_is_shown_as_it_was_made(name: str, studies: dict[str, Study], viewer: Viewer) -> None:
    study = studies[name]
    overlay = study.objects[Kind.SECONDARY_CAPTURE]
    viewer.open_study(study.uid)
    image = viewer.pixels()

    viewer.open_series(study.description(Kind.SECONDARY_CAPTURE))

    made = overlay.pixel_array
    shown = fit(viewer.pixels(unlike=image), overlay)
    caption = slice(made.shape[1], None)  # below the picture, which is a square
    assert likeness(shown, made) > 0.98
    assert likeness(shown[caption], made[caption]) > 0.9
    assert likeness(np.ptp(shown, axis=2), np.ptp(made, axis=2)) > 0.9, "other colors"


def fit(screen: Pixels, dataset: Dataset) -> Pixels:
    """The part of the screen that a picture fills, in the picture's own size."""
    row_mm, column_mm = dataset.get("PixelSpacing", (1, 1))
    height, width = dataset.Rows * row_mm, dataset.Columns * column_mm
    scale = min(screen.shape[0] / height, screen.shape[1] / width)
    left, top = (screen.shape[1] - width * scale) / 2, (screen.shape[0] - height * scale) / 2
    box = (left, top, screen.shape[1] - left, screen.shape[0] - top)
    return np.array(Picture.fromarray(screen).resize((dataset.Columns, dataset.Rows), box=box))


@pytest.mark.viewer
def test_the_summary_reads_in_plain_words(studies: dict[str, Study], viewer: Viewer) -> None:
    study = studies["radiograph"]
    viewer.open_study(study.uid)

    viewer.open_series(study.description(Kind.SUMMARY_SR))

    viewer.wait_for("Nodule: PRESENT, probability 87 % (95 % interval 78-93 %)")
    viewer.wait_for("Not verified by a physician")


# --- the viewer itself


def test_another_package_than_the_published_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="SHA-512"):
        unpack_ohif(b"something else", tmp_path / "ohif")

    assert not list(tmp_path.iterdir())
