from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from pydicom import dcmread

from node.encode import preview_png
from node.encode.markings import REVIEW as AMBER
from node.encode.overlay import (
    LONGEST_LONG_SIDE_PX,
    SHORTEST_LONG_SIDE_PX,
    draw_overlay,
    shown_score,
)
from node.samples.dicom import write_dx
from node.samples.thorax import thorax_radiograph
from tests.results import (
    ABSENT,
    BACTERIAL,
    PRESENT,
    REAL_RADIOGRAPHS,
    SCORES,
    UNDETERMINED,
    encode_case,
    make_findings,
    picture_of,
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dx(thorax_radiograph(5, size=256), tmp_path_factory.mktemp("source") / "dx.dcm")


def color_of(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.int_]:
    """How far each pixel is from gray."""
    return pixels.max(axis=-1).astype(int) - pixels.min(axis=-1)


def test_map_lies_where_the_network_looked(source: Path) -> None:
    image = picture_of(source)

    overlay = draw_overlay(image, make_findings("findings", source), "algorithm 1")

    anatomy = overlay.pixels[: round(640 * overlay.scale_yx[0])]
    rows, columns = np.nonzero(color_of(anatomy) > 60)
    # The peak is at row 12.5 and column 4.5 of 16; the tolerance is a quarter of a cell.
    assert abs(rows.mean() / anatomy.shape[0] - 12.5 / 16) < 0.25 / 16
    assert abs(columns.mean() / anatomy.shape[1] - 4.5 / 16) < 0.25 / 16


def test_anatomy_away_from_the_map_is_untouched(source: Path) -> None:
    image = picture_of(source)
    findings = make_findings("findings", source)

    with_map, without = (
        draw_overlay(image, one, "algorithm 1").pixels
        for one in (findings, replace(findings, scores=SCORES["no_findings"]))
    )

    assert np.array_equal(with_map[:300], without[:300])
    assert color_of(without[:640]).max() == 0


@pytest.mark.parametrize(
    ("case", "is_drawn"),
    [("findings", True), ("uncertain", False), ("unpredicted", False), ("foreign", False)],
)
def test_only_a_present_finding_has_its_map_drawn(case: str, is_drawn: bool, source: Path) -> None:
    findings = make_findings(case, source)
    assert all(score.activation is not None for score in findings.scores)

    overlay = draw_overlay(picture_of(source), findings, "algorithm 1")

    anatomy, caption = np.split(overlay.pixels, [round(640 * overlay.scale_yx[0])])
    assert bool(color_of(anatomy).max()) is is_drawn
    # The scale of the map is as purple as the map; the warnings, the caption's only other color, are amber.
    colored = caption[color_of(caption) > 60].astype(int)
    assert bool((colored[:, 1] < colored[:, 0] // 2).any()) is is_drawn


def test_an_uncertain_score_is_said_in_the_color_of_warnings(source: Path) -> None:
    image = picture_of(source)

    amber = {
        case: (draw_overlay(image, make_findings(case, source), "algorithm 1").pixels == AMBER).all(-1).sum()
        for case in ("no_findings", "uncertain", "foreign")
    }

    assert amber["uncertain"] > 1.5 * amber["no_findings"]
    assert amber["foreign"] > 1.5 * amber["no_findings"]


def test_what_was_measured_has_a_line_of_its_own(source: Path) -> None:
    findings = replace(make_findings("findings", source), scores=(PRESENT,))
    unmeasured = replace(findings, scores=(replace(PRESENT, measurements=()),))

    with_line, without = (
        draw_overlay(picture_of(source), one, "algorithm 1").pixels for one in (findings, unmeasured)
    )

    assert with_line.shape[0] > without.shape[0]


def test_what_is_present_is_shown_before_what_is_uncertain(source: Path) -> None:
    likelier = replace(
        UNDETERMINED, probability=0.99, uncertainty=replace(PRESENT.uncertainty, interval=(0.4, 1))
    )
    findings = replace(make_findings("findings", source), scores=(ABSENT, likelier, PRESENT))
    assert likelier.is_uncertain

    shown = shown_score(findings)

    assert shown is PRESENT
    assert shown_score(replace(findings, scores=(ABSENT, likelier))).code == BACTERIAL
    assert shown_score(make_findings("foreign", source)) is None


@pytest.mark.parametrize("shape", [(64, 64), (3000, 2500), (1600, 120), (90, 1400), (1, 1)])
def test_caption_is_legible_at_any_size(shape: tuple[int, int], source: Path) -> None:
    image = replace(picture_of(source), pixels=np.full(shape, 0.5, np.float32))

    overlay = draw_overlay(image, make_findings("findings", source), "algorithm 1")

    rows = round(shape[0] * overlay.scale_yx[0])
    longest = max(shape) * overlay.scale_yx[0]
    assert SHORTEST_LONG_SIDE_PX - 1 <= longest <= LONGEST_LONG_SIDE_PX + 1
    caption = overlay.pixels[rows:]
    assert (caption.max(axis=-1) > 128).any(axis=1).sum() > 60
    # Nothing is cut off: the margin on the right stays black.
    assert caption[:, -4:].max() == 0


def test_capture_says_what_it_is(source: Path) -> None:
    capture = encode_case("findings", source)["secondary_capture"]

    assert capture.BurnedInAnnotation == "YES"
    assert list(capture.ImageType) == ["DERIVED", "SECONDARY"]
    assert capture.SourceImageSequence[0].ReferencedSOPInstanceUID == dcmread(source).SOPInstanceUID
    # The picture of 640 rows is shown in 768, so its pixels are smaller by that.
    assert [float(value) for value in capture.PixelSpacing] == pytest.approx([0.2 * 640 / 768] * 2)
    assert capture.LossyImageCompression == "00"


def test_spacing_at_the_detector_is_not_called_the_patients(source: Path) -> None:
    image = replace(picture_of(source), spacing_attribute="ImagerPixelSpacing")

    capture = encode_case("findings", source, images=(image,))["secondary_capture"]

    assert "PixelSpacing" not in capture


@pytest.mark.parametrize(("name", "is_lossy"), list(zip(REAL_RADIOGRAPHS, ["00", "01", "01"], strict=True)))
def test_loss_in_the_source_is_declared(name: str, is_lossy: str, zoo: list[Path]) -> None:
    real = next(path for path in zoo if path.stem == name)

    capture = encode_case("findings", real)["secondary_capture"]

    assert capture.LossyImageCompression == is_lossy
    assert ("LossyImageCompressionRatio" in capture) is (is_lossy == "01")


def test_preview_shows_the_same_pixels(source: Path, tmp_path: Path) -> None:
    capture = encode_case("findings", source)["secondary_capture"]

    preview_png(capture, tmp_path / "preview.png")

    assert np.array_equal(np.asarray(Image.open(tmp_path / "preview.png")), capture.pixel_array)
