"""What the headers of a series say of whether it is whole."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import JPEG2000Lossless

from node.assembly.fullness import fullness
from node.read.extent import Extent, read_extent
from tests.sources import real_slide, write_ct_series, write_enhanced_ct, write_slide

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def slices(*places_mm: float, numbers: Sequence[int] = ()) -> list[Extent]:
    return [
        Extent(
            number=numbers[index] if numbers else 0,
            position_mm=(-100.0, -80.0, place),
            orientation=AXIAL,
            image_type=("ORIGINAL", "PRIMARY", "AXIAL"),
        )
        for index, place in enumerate(places_mm)
    ]


@pytest.mark.parametrize(
    ("extents", "words"),
    [
        (slices(0, 5, 10, numbers=[1, 2, 3]), "1–3"),
        (slices(0, 7, 10, numbers=[3, 1, 2]), "1–3"),
        (slices(0, 5, 10, numbers=[7, 8, 9]), "3 slices, 5 mm apart"),
        (slices(10, 0, 5), "3 slices, 5 mm apart"),
        (slices(0, 5, 10.04), "3 slices, 5.02 mm apart"),
        (slices(0, 5, 15, numbers=[1, 2, 4]), None),
        (slices(0, 5, 10, 15, 25), None),
        (slices(0, 0, 0), None),
        (slices(0, 5), None),
        ([*slices(0, 5), None], None),
        ([*slices(0, 5, numbers=[1, 2]), None], None),
        (slices(0, numbers=[1]), ""),
    ],
)
def test_numbers_without_a_gap_or_even_steps_make_a_stack(
    extents: list[Extent | None], words: str | None
) -> None:
    assert fullness("CT", extents) == words


def test_slices_of_two_orientations_are_no_stack() -> None:
    turned = replace(slices(10)[0], orientation=(0.0, 1.0, 0.0, 0.0, 0.0, -1.0))

    assert fullness("MR", [*slices(0, 5), turned]) is None


def test_a_scout_is_no_evidence_and_hinders_none() -> None:
    scout = [
        replace(one, image_type=("ORIGINAL", "PRIMARY", "LOCALIZER")) for one in slices(0, 9, numbers=[1, 2])
    ]

    assert fullness("CT", scout) == ""


def test_a_part_of_a_concatenation_that_lacks_makes_it_less_than_whole() -> None:
    parts = [
        Extent(number=number, frames=10, concatenation_uid="9.1", part=number, parts=3)
        for number in (1, 2, 3)
    ]

    assert fullness("CT", parts) == "1–3"
    assert fullness("CT", parts[:2]) is None
    assert fullness("CT", [replace(one, parts=0) for one in parts]) is None


def level(side: int, *, kind: str = "RESAMPLED", flavor: str = "VOLUME") -> Extent:
    return Extent(columns=side, rows=side // 2, image_type=("DERIVED", "PRIMARY", flavor, kind))


SCANNED = level(40_000, kind="NONE")


@pytest.mark.parametrize(
    ("levels", "words"),
    [
        ([SCANNED, level(10_000), level(2500)], "3 levels, 40000 to 2500 pixels"),
        ([level(2500), SCANNED, level(10_000), level(900, flavor="LABEL")], "3 levels, 40000 to 2500 pixels"),
        ([level(3000, kind="NONE")], "1 level, 3000 pixels"),
        ([SCANNED], None),
        ([level(10_000), level(2500)], None),
        ([SCANNED, level(2500), level(625)], None),
        ([SCANNED, level(625)], None),
        ([level(900, flavor="LABEL")], None),
    ],
)
def test_a_slide_is_whole_from_what_was_scanned_to_an_overview(
    levels: list[Extent], words: str | None
) -> None:
    assert fullness("SM", levels) == words


# --- files


def extents_of(paths: Sequence[Path]) -> list[Extent | None]:
    return [read_extent(path) for path in paths]


@pytest.mark.parametrize("arrangement", ["axial", "tilted", "reversed"])
def test_a_stack_of_files_is_whole_until_one_in_between_lacks(arrangement: str, tmp_path: Path) -> None:
    paths = write_ct_series(tmp_path, arrangement=arrangement).paths

    assert fullness("CT", extents_of(paths)) == f"1–{len(paths)}"
    assert fullness("CT", extents_of([*paths[:5], *paths[6:]])) is None


def test_an_enhanced_ct_is_whole_by_its_frames(tmp_path: Path) -> None:
    (path,) = write_enhanced_ct(tmp_path).paths

    assert fullness("CT", extents_of([path])) == f"{dcmread(path).NumberOfFrames} frames"


def test_a_written_slide_is_whole_and_lacks_its_finest_level(tmp_path: Path) -> None:
    paths = write_slide(tmp_path).paths

    assert (fullness("SM", extents_of(paths)) or "").startswith(f"{len(paths)} level")
    assert fullness("SM", extents_of(paths[1:])) is None


def test_a_real_slide_of_one_small_level_is_whole() -> None:
    extent = read_extent(real_slide())

    assert extent is not None
    assert fullness("SM", [extent]) == f"1 level, {max(extent.columns, extent.rows)} pixels"


def test_a_compressed_header_is_read_and_a_damaged_one_is_not(tmp_path: Path) -> None:
    path = write_ct_series(tmp_path).paths[4]
    plain = read_extent(path)
    dataset = dcmread(path)
    dataset.compress(JPEG2000Lossless)
    dataset.save_as(tmp_path / "compressed.dcm")
    (tmp_path / "damaged.dcm").write_bytes(path.read_bytes()[:400])

    assert plain is not None
    assert plain.number == 5
    assert read_extent(tmp_path / "compressed.dcm") == plain
    assert read_extent(tmp_path / "damaged.dcm") is None
