from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import JPEG2000Lossless

from node.domain.location import Frame, Outline
from node.encode.markings import PRESENT
from node.read.picture import read_pictures
from tests.displayed import (
    Shown,
    captures_of,
    is_color,
    only,
    received,
)
from tests.peers.validators import dciodvfy_errors
from tests.shapes import WRITERS
from tests.sources import Written, write_ct_series, write_enhanced_ct, write_slide


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Shown]:
    return {shape: Shown(write(tmp_path_factory.mktemp(shape))) for shape, write in WRITERS.items()}


@pytest.mark.parametrize("shape", WRITERS)
def test_a_capture_of_any_shape_refers_to_its_picture(
    shape: str, shown: dict[str, Shown], tmp_path: Path
) -> None:
    view = shown[shape]

    (capture,) = captures_of(view, view.findings, tmp_path, view.image)

    (reference,) = capture.SourceImageSequence
    frame = view.findings.regions[0].outline.frame
    assert reference.ReferencedSOPInstanceUID == frame.sop_instance_uid
    assert reference.get("ReferencedFrameNumber") == frame.frame_number
    assert is_color(capture.pixel_array, PRESENT).any()
    assert dciodvfy_errors([tmp_path / "capture-0.dcm"]) == []


@pytest.mark.parametrize(
    ("arrangement", "letters"),
    [("axial", ["L", "P"]), ("sagittal", ["P", "F"]), ("oblique", ["LH", "PH"]), ("tilted", ["L", "PH"])],
)
@pytest.mark.parametrize("write", [write_ct_series, write_enhanced_ct])
def test_a_capture_says_which_side_is_which(
    write: Callable[..., Written], arrangement: str, letters: list[str], tmp_path: Path
) -> None:
    view = Shown(write(tmp_path / "ct", arrangement=arrangement))

    (capture,) = captures_of(view, view.findings, tmp_path, view.image)

    assert list(capture.PatientOrientation) == letters
    assert dciodvfy_errors([tmp_path / "capture-0.dcm"]) == []


def test_the_spacing_of_a_capture_is_that_of_its_square_pixels(
    shown: dict[str, Shown], tmp_path: Path
) -> None:
    view = shown["series"]

    (capture,) = captures_of(view, view.findings, tmp_path, view.image)

    # 64 rows of 0.7 mm in 768; columns of 0.8 mm are wider, and have more pixels.
    assert [float(one) for one in capture.PixelSpacing] == pytest.approx([0.7 * 64 / 768] * 2)
    assert capture.Columns == round(48 * 0.8 / 0.7 * 768 / 64)


def test_each_displayed_picture_has_a_capture(tmp_path: Path) -> None:
    view = Shown(write_ct_series(tmp_path / "ct"))
    frames = view.findings.masks[0].frames[3:6]
    images = read_pictures([received(path) for path in view.written.paths], frames)

    captures = captures_of(view, view.findings, tmp_path, *images)

    uids = [one.SourceImageSequence[0].ReferencedSOPInstanceUID for one in captures]
    assert uids == [frame.sop_instance_uid for frame in frames]
    assert len({one.SOPInstanceUID for one in captures}) == len({one.InstanceNumber for one in captures}) == 3


@pytest.mark.parametrize(
    "label", [["ORIGINAL", "PRIMARY", "LABEL", "NONE"], ["ORIGINAL", "PRIMARY", "OVERVIEW", "NONE"]], ids=str
)
def test_the_label_of_a_slide_is_no_level_of_it(label: list[str], tmp_path: Path) -> None:
    written = write_slide(tmp_path / "slide")
    other = dcmread(written.paths[1])
    other.ImageType = label
    other.save_as(written.paths[1])
    view = Shown(written)
    on_label = replace(
        only(view.findings).regions[0],
        outline=Outline.box(Frame(view.findings.sop_instance_uids[1]), (10, 10), (60, 60)),
    )

    (capture,) = captures_of(view, replace(only(view.findings), regions=(on_label,)), tmp_path, view.image)

    assert not is_color(capture.pixel_array, PRESENT).any()


def test_loss_in_a_slide_is_declared(tmp_path: Path) -> None:
    def lossy(dataset: Dataset) -> None:
        dataset.compress(JPEG2000Lossless, generate_instance_uid=False)
        dataset.LossyImageCompression = "01"
        dataset.LossyImageCompressionMethod = "ISO_15444_1"

    captures = [capture_of_slide(tmp_path / name, change) for name, change in (("no", None), ("yes", lossy))]

    assert [one.LossyImageCompression for one in captures] == ["00", "01"]
    assert captures[1].LossyImageCompressionMethod == "ISO_15444_1"
    # All tiles count.
    ratio = 512 * 768 * 3 / (tmp_path / "yes" / "level-0.dcm").stat().st_size
    assert ratio > 2
    assert captures[1].LossyImageCompressionRatio == pytest.approx(ratio, abs=0.01)


def capture_of_slide(folder: Path, change: Callable[[Dataset], None] | None) -> Dataset:
    written = write_slide(folder)
    if change:
        dataset = dcmread(written.paths[0])
        change(dataset)
        dataset.save_as(written.paths[0])
    view = Shown(written)
    (capture,) = captures_of(view, view.findings, folder, view.image)
    return capture


@pytest.mark.parametrize("shape", WRITERS)
def test_encoding_twice_gives_the_same_bytes(shape: str, shown: dict[str, Shown], tmp_path: Path) -> None:
    view = shown[shape]

    first, second = (
        (captures_of(view, view.findings, tmp_path, view.image), (tmp_path / "capture-0.dcm").read_bytes())[1]
        for _ in range(2)
    )

    assert first == second
