"""A slide from end to end: levels, label and overview in over DICOM, results on it back in the archive."""

import json
import sys
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    Comprehensive3DSRStorage,
    JPEGBaseline8Bit,
    MicroscopyBulkSimpleAnnotationsStorage,
    ParametricMapStorage,
    SecondaryCaptureImageStorage,
    VLWholeSlideMicroscopyImageStorage,
)

from node.samples.dicom import fresh_uid
from node.samples.slide import SlideSample, slide_sample
from node.samples.slide_series import SlideOptions, write_slide
from tests.measured import run_measured
from tests.peers import dcmtk
from tests.peers.node import Node, make_node, run_sightline
from tests.peers.orthanc import Orthanc, run_orthanc
from tests.peers.validators import dciodvfy_errors, report_errors

SEED, SIDE = 999_003, 4096
MOST_GIB = 1.5
EVIDENCE = "CurrentRequestedProcedureEvidenceSequence"
CORNER_XY_MM = (20.0, 40.0)
"""Of the written slides: where the first pixel has its outer corner; x falls down, y along a row."""


class Room(NamedTuple):
    """A node, its archive, and the slide that was sent."""

    node: Node
    archive: Orthanc
    sample: SlideSample
    sent: dict[str, Dataset]


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    folder = tmp_path_factory.mktemp("room")
    sample = slide_sample(SEED, columns=SIDE, rows=SIDE, is_tumor=True)
    paths = write_slide(sample, folder / "slide")
    headers = {path.stem: dcmread(path, stop_before_pixels=True) for path in paths}
    with run_orthanc(folder / "archive", {}) as archive:
        address = {"host": archive.host, "port": archive.port, "ae_title": archive.ae_title}
        changes = {
            "assembly": {"quiet_period_s": 1},
            "destinations": {"pacs": address | {"confirm": "query"}},
        }
        with make_node(folder / "node", changes) as node:
            node.start()
            pair = (str(VLWholeSlideMicroscopyImageStorage), str(JPEGBaseline8Bit))
            options = dcmtk.write_profile(folder / "storescu.cfg", [pair])
            assert len(dcmtk.send(paths, node.port, called=node.ae_title, options=options).stored) == 5
            yield Room(node, archive, sample, headers)


@pytest.fixture(scope="module")
def study(room: Room) -> dict[str, Any]:
    (study,) = room.node.wait_for_studies(1)
    return room.node.wait_for_confirmation(study["study_instance_uid"])


@pytest.fixture(scope="module")
def held(room: Room, study: dict[str, Any]) -> dict[str, Dataset]:
    """What the archive holds of the results, by SOP class; of the reports the one with places."""
    files = room.archive.instances(study["study_instance_uid"]).values()
    datasets = [dcmread(BytesIO(room.archive.download(one))) for one in files]
    return {
        str(one.SOPClassUID): one for one in sorted(datasets, key=lambda one: "lesions" in description(one))
    }


def description(dataset: Dataset) -> str:
    return str(dataset.get("SeriesDescription", ""))


# --- through the node


def test_the_instances_make_one_study_with_one_outcome(study: dict[str, Any]) -> None:
    (run,) = study["runs"]

    assert (study["outcome"], study["priority"], study["state"]) == ("findings", "urgent", "done")
    assert (run["pipeline"], run["quarantined"]) == ("slide_tumor", [])
    assert {item["kind"] for item in run["objects"]} == {
        "findings_sr",
        "lesions_sr",
        "summary_sr",
        "parametric_map",
        "annotations",
        "secondary_capture",
    }
    assert all(item["delivered_to"] == ["pacs"] for item in run["objects"])


def test_results_refer_to_the_level_that_was_read_and_never_to_label_or_overview(
    room: Room, held: dict[str, Dataset]
) -> None:
    finest = str(room.sent["slide-level-0"].SOPInstanceUID)
    apart = {str(room.sent[name].SOPInstanceUID) for name in ("slide-label", "slide-overview")}

    annotations, attention = held[MicroscopyBulkSimpleAnnotationsStorage], held[ParametricMapStorage]
    assert [str(one.ReferencedSOPInstanceUID) for one in annotations.ReferencedImageSequence] == [finest]
    (series,) = attention.ReferencedSeriesSequence
    assert [str(one.ReferencedSOPInstanceUID) for one in series.ReferencedInstanceSequence] == [finest]
    for one in held.values():
        # The evidence lists all that was there (PS3.3 C.17.2.3); nothing is said of these two.
        said = [str(element) for element in one if element.keyword != EVIDENCE]
        assert not any(uid in element for uid in apart for element in said)


def test_top_tiles_lie_on_the_tumor_by_their_millimeters(room: Room, held: dict[str, Dataset]) -> None:
    polygons = dict(outlines(held[Comprehensive3DSRStorage]))
    tiles = [points for name, points in polygons.items() if name.startswith("Tile")]

    assert len(tiles) == 5
    spacing_mm = room.sample.micrometers_per_pixel / 1000
    shares = []
    for points in tiles:
        assert np.array_equal(points[0], points[-1])
        columns = (CORNER_XY_MM[1] - points[:, 1]) / spacing_mm
        rows = (CORNER_XY_MM[0] - points[:, 0]) / spacing_mm
        left, top = round(columns.min()), round(rows.min())
        side = round(columns.max()) - left
        shares.append(room.sample.tumor(0, left, top, side, side).mean())
    assert np.mean(shares) > 0.8


def outlines(item: Dataset, name: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Yield what is tracked, with its polygon (points, 3) in mm."""
    for child in item.get("ContentSequence", ()):
        if child.ValueType == "TEXT" and child.ConceptNameCodeSequence[0].CodeValue == "112039":
            name = str(child.TextValue)
        if child.ValueType == "SCOORD3D":
            yield name, np.array(child.GraphicData, float).reshape(-1, 3)
        yield from outlines(child, name)


def test_the_map_of_attention_is_hot_where_the_tumor_is(room: Room, held: dict[str, Dataset]) -> None:
    attention = held[ParametricMapStorage]
    rows, columns = int(attention.TotalPixelMatrixRows), int(attention.TotalPixelMatrixColumns)

    values = np.frombuffer(attention.FloatPixelData, np.float32).reshape(int(attention.NumberOfFrames), -1)
    side = SIDE // columns
    assert (rows, columns) == (16, 16)
    tumor = room.sample.tumor(0, 0, 0, SIDE, SIDE).reshape(rows, side, columns, side).mean(axis=(1, 3))
    painted = values[0].reshape(int(attention.Rows), int(attention.Columns))[:rows, :columns]
    assert painted[tumor > 0.9].mean() > 3 * painted[tumor == 0].mean()


def test_the_overlay_shows_the_slide_with_a_scale(held: dict[str, Dataset]) -> None:
    picture = held[SecondaryCaptureImageStorage]

    # The shown level has 1024 pixels on 2.048 mm.
    assert [float(one) for one in picture.PixelSpacing] == pytest.approx([0.002, 0.002], rel=1e-3)
    assert picture.BurnedInAnnotation == "YES"


def test_validators_find_no_error_in_what_was_delivered(held: dict[str, Dataset], tmp_path: Path) -> None:
    files = []
    for number, dataset in enumerate(held.values()):
        files.append(tmp_path / f"{number}.dcm")
        dataset.save_as(files[-1], enforce_file_format=True)
    reports = [path for path, one in zip(files, held.values(), strict=True) if one.Modality == "SR"]

    assert dciodvfy_errors(files) == []
    assert report_errors(reports) == []


# --- damaged


def change_frames(dataset: Dataset, change: Callable[[list[bytes]], None]) -> None:
    frames = list(generate_frames(dataset.PixelData, number_of_frames=int(dataset.NumberOfFrames)))
    change(frames)
    dataset.PixelData = encapsulate(frames)


def break_tiles(dataset: Dataset) -> None:
    """Keep of each stream its beginning: nothing is left to decode."""
    change_frames(dataset, lambda frames: frames.__setitem__(slice(None), [one[:40] for one in frames]))


def without_rows(dataset: Dataset) -> None:
    dataset.Rows = 0


def said_to_be_gray(dataset: Dataset) -> None:
    dataset.PhotometricInterpretation = "MONOCHROME2"


def said_to_be_rgb(dataset: Dataset) -> None:
    dataset.PhotometricInterpretation = "RGB"


def rewritten(change: Callable[[Dataset], None]) -> Callable[[list[Path]], None]:
    """What changes the finest level."""

    def apply(paths: list[Path]) -> None:
        dataset = dcmread(paths[0])
        change(dataset)
        dataset.save_as(paths[0])

    return apply


def cut_in_half(paths: list[Path]) -> None:
    paths[0].write_bytes(paths[0].read_bytes()[: paths[0].stat().st_size // 2])


def without_finest(paths: list[Path]) -> None:
    paths[0].unlink()


DAMAGES: dict[str, tuple[Callable[[list[Path]], None], str, str]] = {
    "truncated": (cut_in_half, "failed", "the file ends after"),
    "without its finest level": (without_finest, "not_eligible", "the finest level has 2 µm per pixel"),
    "with tiles of no rows": (rewritten(without_rows), "failed", "tiles of 0 × 256 pixels"),
    "said to be gray": (rewritten(said_to_be_gray), "not_eligible", "is not in color"),
    "with tiles that do not decode": (rewritten(break_tiles), "failed", "the tile at column"),
    "said to be RGB": (rewritten(said_to_be_rgb), "findings", ""),
}


def test_damaged_slides_end_with_an_outcome_that_names_the_place(tmp_path: Path) -> None:
    sample = slide_sample(SEED, columns=2048, rows=2048, is_tumor=True)
    uid_by_name = {name: fresh_uid() for name in DAMAGES}
    for name, uid in uid_by_name.items():
        paths = write_slide(sample, tmp_path / "slides" / uid, options=SlideOptions(study_instance_uid=uid))
        DAMAGES[name][0](paths)

    done = run_sightline("process", str(tmp_path / "slides"), "--out", str(tmp_path / "out"), "--json")

    runs = {one["study_instance_uid"]: one["runs"] for one in json.loads(done.stdout)["studies"]}
    assert done.returncode == 1
    for name, uid in uid_by_name.items():
        (run,) = runs[uid]
        _, outcome, reason = DAMAGES[name]
        assert run["outcome"] == outcome, name
        assert reason in run["reason"], name
        assert run["objects"], name


# --- memory


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_slide_of_20_000_pixels_a_side_is_read_within_its_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_slide(slide_sample(1, columns=20_000, rows=20_000, is_tumor=True), tmp_path / "slide")

    seconds, peak_gib = run_measured("process", str(tmp_path / "slide"), "--out", str(tmp_path / "out"))

    with capsys.disabled():
        sys.stdout.write(f"\n20 000 × 20 000 by `sightline process`: {seconds:.0f} s, {peak_gib:.2f} GiB\n")
    assert peak_gib < MOST_GIB
